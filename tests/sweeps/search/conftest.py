"""A search on a tiny model: its plan, and one that has run."""

from pathlib import Path
from typing import Any

import pytest

from sweeps.engine.design.search import Search
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import Plan, expand
from tests.conftest import tiny_config
from tests.sweeps.search.driver_of_a_search import GAMMA, ON, SPACE, Driver, Explored, PlanOf, space_of


@pytest.fixture
def plan_of(tiny_llama: Path) -> PlanOf:
    def expanded(**changes: Any) -> Plan:
        given = {"space": SPACE, "only_if": {GAMMA: (ON,)}, "num_trials": 12, "sampler": "random"}
        sweep = Sweep("some_search", tiny_config(tiny_llama), Search(**{**given, **changes}), seeds=2)
        return expand(sweep, scale="full", device_type="cpu")

    return expanded


@pytest.fixture
def two_objectives(plan_of: PlanOf, tmp_path: Path) -> Explored:
    """A search of six trials with two objectives; four of them are on the Pareto front."""
    points = iter([(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 1.0), (4.0, 2.0), (0.5, 9.5)])
    plan = plan_of(objectives=("dev/nll", "dev/dist_gap"), num_trials=6)
    driver = Driver(plan, tmp_path)
    driver.play(lambda trial: dict(zip(("dev/nll", "dev/dist_gap"), next(points), strict=True)))
    return driver.search.study, space_of(plan)
