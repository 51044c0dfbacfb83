"""Do the losses need each other?

Prediction: Table 2 leaves one loss out at a time, which cannot tell a loss that works alone from one that works only
beside another. If the losses are additive, the interactions are nil.
"""

from spt_core import recipes
from sweeps.engine import Factorial, Sweep, main

SWEEP = Sweep(
    name="loss_factorial",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Factorial(),
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
