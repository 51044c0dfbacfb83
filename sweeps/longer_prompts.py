"""Is a group of prompts more than one prompt of as many tokens?

Prediction (Table 4): four prompts of L tokens beat one of 4 L on every metric. The one long prompt has the capacity
of the whole group and nothing to choose; a prompt of L alone shows what capacity brings.
"""

from spt_core import recipes
from sweeps.engine import Cases, Sweep, main

SPT = recipes.smollm2_135m()
K, LENGTH = SPT.prompts.num_prompts, SPT.prompts.prompt_length

CASES = {
    "group": {},
    **{
        f"one of {length} tokens": {"prompts.num_prompts": 1, "prompts.prompt_length": length}
        for length in (LENGTH, K * LENGTH, 2 * K * LENGTH)
    },
}

SWEEP = Sweep(name="longer_prompts", base=SPT, design=Cases(CASES), seeds=3)

if __name__ == "__main__":
    main(SWEEP)
