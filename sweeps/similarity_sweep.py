"""By which similarity should contexts be compared?

Prediction: the paper calls BLEU possibly too weak (section 7). Each measure gets the same share of positive pairs, by
Gamma at a quantile, since a fixed Gamma would mean another thing on each scale.
"""

from spt_core import recipes
from sweeps.engine import Grid, Sweep, main

MEASURE, TEXT = "losses.contrastive.similarity", "losses.contrastive.text"

SWEEP = Sweep(
    name="similarity_sweep",
    base=recipes.smollm2_135m().override({"losses.contrastive.threshold": "quantile:0.9"}),
    paper=recipes.llama2_7b().override({"losses.contrastive.threshold": "quantile:0.9"}),
    design=Grid({MEASURE: ["bleu", "rouge_l", "embedding"], TEXT: ["context", "persona"]}),
    demo=Grid({MEASURE: ["bleu", "rouge_l", "embedding"], TEXT: ["context"]}),
    baseline={MEASURE: "bleu", TEXT: "context"},
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
