"""Which settings of SPT are best together, and which of them matter?

Prediction: the learning rate and K matter most; Gamma, tau_g and the lambdas little, and some loss can go without harm.

Optuna explores K, L, Gamma, tau_g, tau_s, every weight and every on/off at once, for dev NLL and for a DIST_AVG as near
as can be to that of the human replies at the same n. The best are run again on fresh seeds beside the base: only those
are compared on test. `--objective dev/f1` explores for another metric.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spt_core import recipes
from sweeps.engine import Search, Sweep, main

CONTRASTIVE, SELECTION, FUSION = (f"losses.{term}" for term in ("contrastive", "selection", "fusion"))
ON_OFF, WEIGHT = CategoricalDistribution([True, False]), FloatDistribution(0.1, 10.0, log=True)
TEMPERATURE = FloatDistribution(0.01, 10.0, log=True)
PARAMETERS = {  # of a loss, which are nothing without it
    CONTRASTIVE: {"weight": WEIGHT, "threshold": FloatDistribution(1.0, 80.0)},
    SELECTION: {"weight": WEIGHT, "tau_g": TEMPERATURE, "tau_s": TEMPERATURE},
    FUSION: {"weight": WEIGHT},
}
OF_LOSSES = {f"{term}.{name}": (term, d) for term, parameters in PARAMETERS.items() for name, d in parameters.items()}

SPACE = {
    "prompts.num_prompts": IntDistribution(1, 8),
    "prompts.prompt_length": IntDistribution(1, 16),
    "optim.learning_rate": FloatDistribution(0.001, 0.3, log=True),
    **{f"{term}.enabled": ON_OFF for term in PARAMETERS},
    **{path: distribution for path, (_, distribution) in OF_LOSSES.items()},
}


def search(num_trials: int) -> Search:
    """The search at a budget."""
    return Search(
        SPACE,
        only_if={path: (f"{term}.enabled",) for path, (term, _) in OF_LOSSES.items()},
        objectives=("dev/nll", "dev/dist_gap"),
        num_trials=num_trials,
    )


SWEEP = Sweep(
    name="joint_search",
    base=recipes.smollm2_135m(),
    paper=recipes.llama2_7b(),
    design=search(200),
    demo=search(12),
    seeds=3,
)

if __name__ == "__main__":
    main(SWEEP)
