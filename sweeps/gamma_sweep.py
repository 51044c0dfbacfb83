"""Above which similarity should two contexts be drawn together?

Prediction: Gamma = 20 on BLEU makes about one random pair in a hundred positive, so the contrastive term mostly
pushes scores apart, and raising Gamma changes nothing; a Gamma at a quantile of M that gives positive pairs does.
`without` has no contrastive term, which is what Gamma has to beat.
"""

from spt_core import recipes
from sweeps.engine import Cases, Sweep, main

GAMMA, TERM = "losses.contrastive.threshold", "losses.contrastive.enabled"
LEVELS = {f"Gamma {gamma}": {GAMMA: gamma} for gamma in (5.0, 10.0, 20.0, 40.0, 80.0)}
QUANTILES = {f"Gamma at the {share} quantile": {GAMMA: f"quantile:{share}"} for share in (0.5, 0.75, 0.9, 0.99)}
WITHOUT = {"without": {TERM: False}}

SWEEP = Sweep(
    name="gamma_sweep",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Cases({**WITHOUT, **LEVELS, **QUANTILES}),
    demo=Cases({**WITHOUT, "Gamma 20.0": {GAMMA: 20.0}, "Gamma at the 0.75 quantile": {GAMMA: "quantile:0.75"}}),
    baseline={GAMMA: 20.0},
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
