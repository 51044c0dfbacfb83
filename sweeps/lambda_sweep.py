"""How much should each loss weigh?

Prediction: a weight of 1 everywhere (Table 6) is no optimum of anything; the released code itself takes 0.4 for OPT.
Each lambda varies alone about 1, so what a cell shows is that loss's own.
"""

from spt_core import recipes
from sweeps.engine import Cases, Sweep, main

LAMBDAS = {"lambda_1": "contrastive", "lambda_2": "selection", "lambda_3": "fusion", "lambda_4": "soft_prompt"}
WEIGHTS = (0.1, 0.4, 2.5, 10.0)


def varied(weights: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """Each lambda in turn at each weight, by name."""
    pairs = [(name, term, weight) for name, term in LAMBDAS.items() for weight in weights]
    return {f"{name} = {weight}": {f"losses.{term}.weight": weight} for name, term, weight in pairs}


SWEEP = Sweep(
    name="lambda_sweep",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=Cases({"all 1": {}, **varied(WEIGHTS)}),
    demo=Cases({"all 1": {}, **varied((0.4,))}),
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
