"""What does SPT bring over prompt tuning, LoRA and instructions in context?

Prediction: SPT beats each on every metric (Tables 1 and 4). Prompt tuning comes with as many virtual tokens as one of
SPT's prompts and as all of them together; LoRA with the rank whose number of parameters is nearest to SPT's. Each
trained method gets a learning rate of its own, of the same candidates, on dev, since Table 6's are SPT's.
"""

from spt_core import recipes
from sweeps.engine import Cases, PerCellTuning, Sweep, main

SPT = recipes.smollm2_135m()
ALL_TOKENS = SPT.prompts.num_prompts * SPT.prompts.prompt_length

CASES = {
    name: SPT.differences(config)
    for name, config in {
        "SPT": SPT,
        "prompt tuning": recipes.prompt_tuning(SPT),
        "longer prompt": recipes.prompt_tuning(SPT, prompt_length=ALL_TOKENS),
        "LoRA": recipes.lora(SPT),
        "zero-shot": recipes.in_context(SPT),
        "four-shot": recipes.in_context(SPT, num_examples=4),
    }.items()
}

SWEEP = Sweep(
    name="baselines",
    base=SPT,
    paper=recipes.llama2_7b(),
    design=Cases(CASES),
    baseline=CASES["prompt tuning"],
    retune=PerCellTuning({"optim.learning_rate": [0.0005, 0.002, 0.01, 0.03, 0.1, 0.3]}),
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
