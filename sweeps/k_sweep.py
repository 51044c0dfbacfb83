"""How many soft prompts does the group need?

Prediction: most metrics peak at K <= 4 (Table 3). K = 1 is plain prompt tuning, so the distance to it is what having
a group to select from brings.
"""

from spt_core import recipes
from sweeps.engine import Grid, Sweep, main

SWEEP = Sweep(
    name="k_sweep",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Grid({"prompts.num_prompts": range(1, 9)}),
    demo=Grid({"prompts.num_prompts": [1, 2, 4]}),
    baseline={"prompts.num_prompts": 1},
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
