"""A search that several drivers share, or that a later driver goes on with."""

from pathlib import Path

from optuna.trial import TrialState

from sweeps.engine.search.study import OWNER, keys
from sweeps.engine.store.ledger import owner_here
from tests.sweeps.search.driver_of_a_search import Driver, PlanOf, nll


def test_two_drivers_share_one_budget(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of()
    one, other = Driver(plan, tmp_path), Driver(plan, tmp_path)
    ran = [0, 0]
    for turn in range(40):
        ran[turn % 2] += (one, other)[turn % 2].play(nll, most=1)
    assert sum(ran) == len(keys(one.search.study)) == 12
    assert not {trial.key for trial in one.proposed} & {trial.key for trial in other.proposed}


def test_a_live_driver_keeps_what_it_is_running(plan_of: PlanOf, tmp_path: Path) -> None:
    one = Driver(plan_of(), tmp_path)
    assert one.ask("a") is not None
    Driver(plan_of(), tmp_path)
    assert one.states() == {TrialState.RUNNING: 1}


def test_a_trial_that_a_dead_driver_left_running_is_proposed_again(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of(num_trials=5)
    dead = Driver(plan, tmp_path)
    assert dead.play(nll, most=2) == 2
    dead.owner = dead.search._owner = f"{owner_here().rsplit(':', 3)[0]}:999999999:0:gone"
    left = dead.ask("left")
    assert left is not None
    after = Driver(plan, tmp_path, later=30.0)  # within the lease: who is seen to be dead is not waited for
    assert after.play(nll) == 3
    assert after.proposed[0].key == left.key
    trials = after.search.study.get_trials()
    assert [one.user_attrs[OWNER] for one in trials if one.state == TrialState.FAIL] == [dead.owner]
    assert len(keys(after.search.study)) == 5
    assert TrialState.RUNNING not in after.states()


def test_a_later_driver_is_told_of_the_trials_that_ended(plan_of: PlanOf, tmp_path: Path) -> None:
    """The one before may have died before MLflow heard of it."""
    left = iter([{"dev/nll": 2.0}, "stop", "fail"])
    before = Driver(plan_of(), tmp_path)
    before.play(lambda trial: next(left), most=3)
    after = Driver(plan_of(), tmp_path)
    told = {trial.key: entry.state for trial, entry in after.search.recall()}
    assert list(told) == [trial.key for trial in before.proposed]
    assert list(told.values()) == ["finished", "pruned", "failed"]
