"""What does each loss bring?

Prediction (Table 2): leaving the contrastive loss out lowers every metric; leaving the fusion loss out raises DIST_AVG
slightly and lowers the rest; leaving the selection loss out lowers DIST most and collapses the choice onto one prompt.
"""

from spt_core import recipes
from sweeps.engine import LeaveOneOut, Sweep, main

SWEEP = Sweep(
    name="loss_ablation",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=LeaveOneOut(),
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
