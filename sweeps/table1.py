"""Does SPT beat plain prompt tuning?

Prediction (Table 1): on every metric, at every model size. Another size is another `--model` (`opt_125m`, `opt_1_3b`,
`opt_2_7b`, `llama2_7b`); each is a sweep of its own, since a cell is compared within its model alone.
"""

from spt_core import recipes
from sweeps.engine.cli import main
from sweeps.engine.design import Cases, Sweep

SWEEP = Sweep(
    name="table1",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Cases({"PT": {"prompts.num_prompts": 1}, "SPT": {}}),
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
