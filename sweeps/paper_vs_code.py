"""Which of the choices where the released code differs from the paper matter?

Prediction: the retriever that reads the response in training, which at inference is not there, costs most; the
reduction of the soft prompt loss, which changes its weight by K, comes next.

The primary metric is F1: without the end of sequence among its tokens (`data.train_eos`), an NLL is of other tokens and
compares with no cell that has it.
"""

from spt_core import recipes
from sweeps.engine import Cases, Sweep, main

PAPER = recipes.smollm2_135m()
RELEASED = PAPER.differences(recipes.as_released(PAPER))
BOTH = {"paper": {}, "released": RELEASED}
RETRIEVER = {path: value for path, value in RELEASED.items() if path.startswith("retriever.")}
ALONE = {path: {path: value} for path, value in RELEASED.items()}

SWEEP = Sweep(
    name="paper_vs_code",
    base=PAPER,
    paper=recipes.llama2_7b(),
    design=Cases({**BOTH, "released retriever": RETRIEVER, **ALONE}),
    demo=Cases(BOTH),
    baseline={},
    seeds=3,
    primary_metric="test/f1",
)

if __name__ == "__main__":
    main(SWEEP)
