"""The searcher of a search: what it proposes, how it records the ends of trials, and when it stops."""

import math
from pathlib import Path

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from sweeps.engine.plan.trial import Trial
from sweeps.engine.search.budget import Budget
from sweeps.engine.search.study import ERROR, KEY, found, keys, ranked
from sweeps.engine.store.ledger import Ledger
from tests.sweeps.search.driver_of_a_search import (
    FINISHED,
    GAMMA,
    ON,
    SPACE,
    Driver,
    K,
    Outcome,
    PlanOf,
    nll,
    space_of,
)


def test_a_search_runs_its_number_of_distinct_trials_and_ranks_them(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of()
    driver = Driver(plan, tmp_path)
    assert driver.play(nll) == 12
    assert len(keys(driver.search.study)) == len({trial.key for trial in driver.proposed}) == 12
    best = ranked(driver.search.study, space_of(plan))
    assert [one.value for one in best] == sorted(nll(trial)["dev/nll"] for trial in driver.proposed)
    assert len(found(driver.search.study, space_of(plan))) == 3


def test_a_parameter_is_there_only_where_its_condition_is_on(plan_of: PlanOf, tmp_path: Path) -> None:
    driver = Driver(plan_of(), tmp_path)
    driver.play(nll)
    seen = {(one.params[ON], GAMMA in one.params) for one in driver.search.study.get_trials()}
    assert seen == {(True, True), (False, False)}


def test_equivalent_proposals_are_answered_and_a_space_ends_when_it_is_explored(
    plan_of: PlanOf, tmp_path: Path
) -> None:
    """At K = 1 the contrastive term is inert, and without it Gamma is: five distinct trials of six."""
    driver = Driver(plan_of(space={K: IntDistribution(1, 3), ON: SPACE[ON]}, only_if={}), tmp_path)
    assert driver.play(nll) == 5
    assert driver.search.gave_up is not None
    assert "the space counts as explored" in driver.search.gave_up
    trials = driver.search.study.get_trials()
    assert len(trials) > 5
    assert {one.state for one in trials} == {TrialState.COMPLETE}
    assert len({(one.user_attrs[KEY], one.value) for one in trials}) == 5


def test_an_equivalent_of_a_running_trial_waits_for_its_result(plan_of: PlanOf, tmp_path: Path) -> None:
    driver = Driver(plan_of(space={K: IntDistribution(2, 3)}, only_if={}), tmp_path)
    one, other = driver.ask("a"), driver.ask("b")
    assert one is not None
    assert other is not None
    assert one.key != other.key
    assert driver.ask("c") is None, "both of the space are running"
    assert TrialState.COMPLETE not in driver.states()
    driver.end("a", one, nll(one))
    driver.end("b", other, "stop")
    told = {state: {o.user_attrs[KEY] for o in driver.search.study.get_trials(states=(state,))} for state in TrialState}
    assert (told[TrialState.COMPLETE], told[TrialState.PRUNED]) == ({one.key}, {other.key})
    assert not told[TrialState.RUNNING]


def test_a_trial_of_another_sweep_is_reused(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of(space={K: IntDistribution(2, 4)}, only_if={}, num_trials=3)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    old = space_of(plan).trial({K: 3})
    ledger.claim(old.key, owner="another")
    ledger.finish(old.key, owner="another", metrics={"dev/nll": 1.5})
    driver = Driver(plan, tmp_path)
    assert driver.play(nll) == 2
    assert driver.answered == [old.key]
    assert driver.search.study.best_value == 1.5


def test_how_a_trial_ended_is_what_the_ledger_says(plan_of: PlanOf, tmp_path: Path) -> None:
    """Stopped is PRUNED, failed is FAIL, and a value that is not finite is FAIL with the reason: never dropped."""
    ends: list[Outcome] = [{"dev/nll": 2.0}, "stop", "fail", {"dev/nll": math.nan}]
    driver = Driver(plan_of(num_trials=4), tmp_path)
    left = iter(ends)
    assert driver.play(lambda trial: next(left)) == 4
    trials = {one.user_attrs[KEY]: one for one in driver.search.study.get_trials()}
    done, stopped, failed, broken = (trials[trial.key] for trial in driver.proposed)
    assert (done.state, done.value) == (TrialState.COMPLETE, 2.0)
    assert stopped.state == TrialState.PRUNED
    assert (failed.state, failed.user_attrs[ERROR]) == (TrialState.FAIL, "ValueError: no")
    assert (broken.state, broken.user_attrs[ERROR]) == (TrialState.FAIL, "not finite: dev/nll = nan")
    states = {key: entry.state for key, entry in driver.ledger.entries(list(trials)).items()}
    assert [states[trial.key] for trial in driver.proposed] == ["finished", "pruned", "failed", "finished"]


def test_a_trial_that_ended_before_it_could_be_stopped_counts_in_full(plan_of: PlanOf, tmp_path: Path) -> None:
    driver = Driver(plan_of(), tmp_path)
    trial = driver.ask("a")
    assert trial is not None
    driver.ledger.finish(trial.key, owner=driver.owner, metrics={"dev/nll": 3.0})
    driver.search.on_trial_complete("a", {"dev/nll": 9.0})  # what Tune had last, from the middle of it
    assert [one.value for one in driver.search.study.get_trials()] == [3.0]


def test_a_search_whose_trials_all_fail_gives_up(plan_of: PlanOf, tmp_path: Path) -> None:
    driver = Driver(plan_of(num_trials=50), tmp_path)
    assert driver.play(lambda trial: "fail") == 8
    assert driver.search.gave_up is not None
    assert driver.search.gave_up.startswith("8 trials in a row failed")


def test_processes_that_always_die_end_the_search(plan_of: PlanOf, tmp_path: Path) -> None:
    driver = Driver(plan_of(num_trials=3), tmp_path)
    for number in range(8):
        assert isinstance(driver.search.suggest(str(number)), dict)
        driver.search.on_trial_complete(str(number), error=True)
    assert driver.search.suggest("last") == FINISHED
    assert driver.search.gave_up is not None
    assert driver.search.gave_up.startswith("8 trials in a row failed")


def test_a_trial_that_tune_drops_untried_is_proposed_again(plan_of: PlanOf, tmp_path: Path) -> None:
    """Its process was dead when it was handed over, so that nobody claimed it; a driver before may have begun it."""
    driver = Driver(plan_of(num_trials=3), tmp_path)
    first = driver.ask("a")
    assert first is not None
    driver.ledger.release(first.key, owner=driver.owner)
    driver.search.on_trial_complete("a", error=True)
    assert isinstance(driver.search.suggest("b"), dict)
    driver.search.on_trial_complete("b", error=True)
    assert [trial.key for trial in driver.proposed] == [first.key] * 2
    assert driver.play(nll) == 3
    assert driver.proposed[2].key == first.key
    assert driver.states() == {TrialState.COMPLETE: 3, TrialState.FAIL: 2}
    assert driver.search.gave_up is None


def test_a_spent_budget_ends_a_search_and_a_larger_one_goes_on(plan_of: PlanOf, tmp_path: Path) -> None:
    plan, now = plan_of(num_trials=5), [0.0]
    one = Driver(plan, tmp_path, budget=Budget(1.0, clock=lambda: now[0]))

    def half_an_hour(trial: Trial) -> Outcome:
        now[0] += 1800
        return nll(trial)

    assert one.play(half_an_hour) == 2
    assert one.search.gave_up is None
    assert Driver(plan, tmp_path).play(nll) == 3


# --- AVG, which is relative to the base ---

SCORES = {"dev/f1": 10.0, "dev/bleu": 2.0, "dev/dist_1": 4.0}


def scored(trial: Trial) -> dict[str, float]:
    """F1 grows with K; the base has K = 3."""
    return {**SCORES, "dev/f1": 5.0 * trial.config.prompts.num_prompts, "dev/nll": 3.0}


def test_avg_is_relative_to_the_base_which_runs_first(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of(space={K: IntDistribution(1, 4)}, only_if={}, objectives=("dev/avg",), num_trials=4)
    space = space_of(plan)
    assert space.base.prompts.num_prompts == 3
    driver = Driver(plan, tmp_path)
    base = driver.ask("base")
    assert base is not None
    assert base.key == space.trial({}).key
    assert driver.search.suggest("next") is None, "nothing can be valued before it has ended"
    driver.end("base", base, scored(base))
    driver.play(scored)
    values = {one.params[K]: one.value for one in driver.search.study.get_trials(states=(TrialState.COMPLETE,))}
    gain = {k: 100 * (5.0 * k / 15.0 - 1) / 3 for k in values}
    assert values == pytest.approx(gain)
    assert values[3] == 0, "the base itself, answered from its run"
    assert space.design.directions == ["maximize"]
    assert space.design.split == "dev"
    again = Driver(
        plan_of(space={K: IntDistribution(1, 4)}, only_if={}, objectives=("dev/avg",), num_trials=4), tmp_path
    )
    assert again.play(scored) == 0


def test_a_base_that_fails_ends_a_search_for_avg(plan_of: PlanOf, tmp_path: Path) -> None:
    driver = Driver(plan_of(objectives=("dev/avg",)), tmp_path)
    assert driver.play(lambda trial: "fail") == 1
    assert driver.search.gave_up == "the base failed, to which AVG is relative"
