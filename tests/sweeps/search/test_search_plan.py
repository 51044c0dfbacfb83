"""The design and the plan of a search: what is refused, which splits and seeds are read, what makes another study."""

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from sweeps.engine.design.search import Asha, Search
from sweeps.engine.plan.trial import SEARCH_SEED
from tests.sweeps.search.driver_of_a_search import GAMMA, ON, SPACE, Driver, K, PlanOf, nll


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "has no space"),
        ({"num_trials": 0}, "num_trials = 0: it should be at least 1"),
        ({"confirm": 0}, "confirm = 0: it should be at least 1"),
        (
            {"objectives": ("test/nll",)},
            r"a search reads dev alone\) = 'test/nll': no trial has this metric",
        ),
        ({"objectives": ()}, "has no objectives"),
        ({"only_if": {GAMMA: ("losses.fusion.enabled",)}}, "it and 'losses.fusion.enabled' should be in the space"),
        ({"only_if": {K: (ON,)}}, "the latter first"),
    ],
)
def test_an_invalid_search_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Search(**{"space": SPACE, "only_if": {}, **changes})


@pytest.mark.parametrize("changes", [{"grace_percent": 0}, {"grace_percent": 101}, {"reduction_factor": 1}])
def test_an_invalid_pruner_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Asha(**changes)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"prompts.num_prompt": IntDistribution(1, 2)}, "unknown field 'prompts.num_prompt'"),
        ({K: IntDistribution(0, 2)}, "prompts.num_prompts = 0"),
        ({GAMMA: FloatDistribution(1, 300)}, "losses.contrastive.threshold = 300"),
    ],
)
def test_a_space_with_invalid_values_is_refused_before_anything_runs(
    plan_of: PlanOf, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(space=space, only_if={})


def test_more_trials_keep_the_study_and_another_design_does_not(plan_of: PlanOf) -> None:
    assert plan_of(num_trials=20).sweep_id == plan_of().sweep_id
    others = [
        plan_of(space={K: IntDistribution(1, 5)}, only_if={}),
        plan_of(objectives=("dev/f1",)),
        plan_of(pruner=None),
    ]
    assert len({plan_of().sweep_id, *(plan.sweep_id for plan in others)}) == 4


def test_a_search_reads_dev_alone_and_is_confirmed_on_test_with_other_seeds(plan_of: PlanOf, tmp_path: Path) -> None:
    for objectives, split in ((("dev/nll",), "none"), (("dev/nll", "dev/dist_gap"), "dev")):
        plan = plan_of(objectives=objectives)
        driver = Driver(plan, tmp_path / split)
        driver.play(lambda trial: {**nll(trial), "dev/dist_gap": 1.0}, most=3)
        assert {(trial.config.evaluation.split, trial.seed) for trial in driver.proposed} == {(split, SEARCH_SEED)}
        confirmed = plan.confirming([trial.cell for trial in driver.proposed])
        assert {trial.config.evaluation.split for trial in confirmed.trials} == {"test"}
        assert SEARCH_SEED not in confirmed.seeds
        assert [trial.label for trial in confirmed.trials[::2]] == [
            f"{n} seed 0" for n in ("base", "best 1", "best 2", "best 3")
        ]
        assert confirmed.sweep_id == plan.sweep_id
