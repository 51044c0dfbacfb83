"""Does SPT beat plain prompt tuning?

Prediction (Table 1): on every metric, at every model size. Another size is another `--model` (`opt_125m`, `opt_1_3b`,
`opt_2_7b`, `llama2_7b`); each is a sweep of its own, since a cell is compared within its model alone.

Table 6 gives one learning rate, which is SPT's. Here PT and SPT each get their own, of the same candidates, on dev.
"""

from spt_core import recipes
from sweeps.engine import Cases, PerCellTuning, Sweep, main

SWEEP = Sweep(
    name="table1",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Cases({"PT": {"prompts.num_prompts": 1}, "SPT": {}}),
    retune=PerCellTuning({"optim.learning_rate": [0.003, 0.01, 0.03, 0.1, 0.3]}),
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
