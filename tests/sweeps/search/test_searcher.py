"""The searcher of planned trials: which trial it hands out next."""

from pathlib import Path

from sweeps.engine.design.designs import Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import expand
from sweeps.engine.search.budget import Budget
from sweeps.engine.search.searcher import PlannedSearcher
from sweeps.engine.store.ledger import Ledger, owner_here
from tests.sweeps.search.driver_of_a_search import FINISHED, K, PlanOf, request_of


def test_trials_that_another_driver_has_are_handed_out_last(plan_of: PlanOf, tmp_path: Path) -> None:
    ledger, mine, other = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"), owner_here(), owner_here()
    sweep = Sweep("shared", plan_of().sweep.base, Grid({K: [1, 2, 3, 4]}), {K: 1})
    running, over, free, broken = trials = expand(sweep, scale="full", device_type="cpu").trials
    for trial in (running, over, broken):
        assert ledger.claim(trial.key, owner=other)
    ledger.finish(over.key, owner=other, metrics={"dev/nll": 3.0})
    ledger.fail(broken.key, owner=other, error="no")
    planned = PlannedSearcher(
        "shared",
        trials,
        trials,
        metric="dev/nll",
        storage=f"sqlite:///{tmp_path / 'optuna.db'}",
        ledger=ledger,
        owner=mine,
        request_of=request_of,
        budget=Budget(None),
    )
    handed = [planned.suggest(str(number)) for number in range(4)]
    keys_in_turn = [answer["key"] for answer in handed if isinstance(answer, dict)]
    assert keys_in_turn == [one.key for one in (free, broken, over, running)]
    assert planned.suggest("5") == FINISHED
