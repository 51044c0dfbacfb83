"""How sharp should the target of selection be, and how sharp the retriever's own choice?

Prediction: the NLLs under K prompts differ by a few hundredths of a nat, so at tau_g = 1 the target is nearly uniform
and teaches little; a smaller tau_g teaches the retriever to choose. With softplus scores and tau_s = 1 the retriever
cannot become confident whatever the target says, so tau_s matters as much.
"""

from spt_core import recipes
from sweeps.engine import Grid, Sweep, main

TAU_G, TAU_S = "losses.selection.tau_g", "losses.selection.tau_s"

SWEEP = Sweep(
    name="temperature_sweep",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Grid({TAU_G: [0.01, 0.1, 0.5, 1.0, 2.0], TAU_S: [0.1, 1.0]}),
    demo=Grid({TAU_G: [0.1, 1.0], TAU_S: [0.1, 1.0]}),
    baseline={TAU_G: 1.0, TAU_S: 1.0},
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
