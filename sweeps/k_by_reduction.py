"""Does the best K depend on how the soft prompt loss is reduced?

Prediction: summed over prompts, the soft prompt loss outweighs fusion, selection and contrast by K; as a mean it does
not. If K matters by way of that ratio, the two rows of K differ. Under one reduction only, `k_sweep.py` with
`--set losses.soft_prompt.reduction=mean` asks the same.
"""

from spt_core import recipes
from sweeps.engine import Grid, Sweep, main

K, REDUCTION = "prompts.num_prompts", "losses.soft_prompt.reduction"

SWEEP = Sweep(
    name="k_by_reduction",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Grid({REDUCTION: ["sum_over_prompts", "mean"], K: [1, 2, 4, 8]}),
    demo=Grid({REDUCTION: ["sum_over_prompts", "mean"], K: [1, 4]}),
    baseline={REDUCTION: "sum_over_prompts", K: 1},
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
