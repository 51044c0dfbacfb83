"""The study of a search, without Tune: the test plays the trials, the ledger and the study are real."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from sweeps.engine.design.designs import Grid
from sweeps.engine.design.search import Asha, Search
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.driver.recall import record_of
from sweeps.engine.driver.status import statuses
from sweeps.engine.plan.plan import Plan, expand
from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.plan.trial import SEARCH_SEED, Trial
from sweeps.engine.report.search_results import SearchResults
from sweeps.engine.search.budget import Budget
from sweeps.engine.search.optuna_searcher import OptunaSearcher
from sweeps.engine.search.searcher import PlannedSearcher
from sweeps.engine.search.study import (
    ERROR,
    KEY,
    OWNER,
    check_storage,
    found,
    keys,
    pareto_front,
    proposed,
    ranked,
    study_of,
)
from sweeps.engine.store import sweep_record
from sweeps.engine.store.ledger import Entry, Ledger, owner_here
from tests.conftest import tiny_config

K, ON, GAMMA = "prompts.num_prompts", "losses.contrastive.enabled", "losses.contrastive.threshold"
SPACE = {
    K: IntDistribution(1, 4),
    ON: CategoricalDistribution([True, False]),
    GAMMA: FloatDistribution(1, 80),
}
FINISHED = "FINISHED"

Outcome = Mapping[str, float] | str
"""How the test lets a trial end: its metrics, or `fail`, `stop` or `die`."""


class Driver:
    """One driver of a search, and the trials that it has handed out."""

    def __init__(
        self, plan: Plan, folder: Path, *, later: float = 0.0, storage: str = "", budget: Budget | None = None
    ) -> None:
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}", clock=lambda: time.time() + later)
        self.owner = owner_here()
        self.proposed: list[Trial] = []
        self.answered: list[str] = []
        self.search = OptunaSearcher(
            plan.sweep_id,
            space_of(plan),
            storage=storage or f"sqlite:///{folder / 'optuna.db'}",
            ledger=self.ledger,
            owner=self.owner,
            request_of=request_of,
            proposed=self.proposed.append,
            answered=self._answered,
            budget=budget or Budget(None),
        )

    def _answered(self, trial: Trial, entry: Entry) -> None:
        self.answered.append(trial.key)

    def ask(self, name: str) -> Trial | None:
        answer = self.search.suggest(name)
        if answer == FINISHED:
            return None
        assert isinstance(answer, dict)
        trial = self.proposed[-1]
        assert answer == {"key": trial.key}
        assert self.ledger.claim(trial.key, owner=self.owner)
        return trial

    def end(self, name: str, trial: Trial, outcome: Outcome) -> None:
        if outcome == "fail":
            self.ledger.fail(trial.key, owner=self.owner, error="ValueError: no")
        elif isinstance(outcome, Mapping):
            self.ledger.finish(trial.key, owner=self.owner, metrics=outcome)
        self.search.on_trial_complete(name, {}, error=outcome == "fail")

    def play(self, outcome: Callable[[Trial], Outcome], *, most: int = 1000) -> int:
        """Run proposals one after the other until there are no more; how many ran."""
        for number in range(most):
            trial = self.ask(str(number))
            if trial is None:
                return number
            self.end(str(number), trial, outcome(trial))
        return most

    def states(self) -> dict[TrialState, int]:
        trials = self.search.study.get_trials()
        return {state: sum(one.state == state for one in trials) for state in {one.state for one in trials}}


def request_of(trial: Trial) -> dict[str, str]:
    return {"key": trial.key}


def space_of(plan: Plan) -> SearchSpace:
    assert plan.search is not None
    return plan.search


def nll(trial: Trial) -> dict[str, float]:
    return {"dev/nll": 4.0 - 0.1 * trial.config.prompts.num_prompts + trial.config.losses.contrastive.enabled}


@pytest.fixture
def plan_of(tiny_llama: Path) -> Callable[..., Plan]:
    def expanded(**changes: Any) -> Plan:
        given = {"space": SPACE, "only_if": {GAMMA: (ON,)}, "num_trials": 12, "sampler": "random"}
        sweep = Sweep("some_search", tiny_config(tiny_llama), Search(**{**given, **changes}), seeds=2)
        return expand(sweep, scale="full", device_type="cpu")

    return expanded


def test_a_search_runs_its_number_of_distinct_trials_and_ranks_them(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = plan_of()
    driver = Driver(plan, tmp_path)
    assert driver.play(nll) == 12
    assert len(keys(driver.search.study)) == len({trial.key for trial in driver.proposed}) == 12
    assert plan.search is not None
    best = ranked(driver.search.study, space_of(plan))
    assert [one.value for one in best] == sorted(nll(trial)["dev/nll"] for trial in driver.proposed)
    assert len(found(driver.search.study, space_of(plan))) == 3


def test_a_parameter_is_there_only_where_its_condition_is_on(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    driver = Driver(plan_of(), tmp_path)
    driver.play(nll)
    seen = {(one.params[ON], GAMMA in one.params) for one in driver.search.study.get_trials()}
    assert seen == {(True, True), (False, False)}


def test_equivalent_proposals_are_answered_and_a_space_ends_when_it_is_explored(
    plan_of: Callable[..., Plan], tmp_path: Path
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


def test_a_twin_of_a_running_trial_waits_for_it(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
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


def test_a_trial_of_another_sweep_is_reused(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(space={K: IntDistribution(2, 4)}, only_if={}, num_trials=3)
    assert plan.search is not None
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    old = plan.search.trial({K: 3})
    ledger.claim(old.key, owner="another")
    ledger.finish(old.key, owner="another", metrics={"dev/nll": 1.5})
    driver = Driver(plan, tmp_path)
    assert driver.play(nll) == 2
    assert driver.answered == [old.key]
    assert driver.search.study.best_value == 1.5


def test_how_a_trial_ended_is_what_the_ledger_says(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
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


def test_a_trial_that_ended_before_it_could_be_stopped_counts_in_full(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    driver = Driver(plan_of(), tmp_path)
    trial = driver.ask("a")
    assert trial is not None
    driver.ledger.finish(trial.key, owner=driver.owner, metrics={"dev/nll": 3.0})
    driver.search.on_trial_complete("a", {"dev/nll": 9.0})  # what Tune had last, from the middle of it
    assert [one.value for one in driver.search.study.get_trials()] == [3.0]


def test_a_search_whose_trials_all_fail_gives_up(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    driver = Driver(plan_of(num_trials=50), tmp_path)
    assert driver.play(lambda trial: "fail") == 8
    assert driver.search.gave_up is not None
    assert driver.search.gave_up.startswith("8 trials in a row failed")


def test_two_drivers_share_one_budget(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of()
    one, other = Driver(plan, tmp_path), Driver(plan, tmp_path)
    ran = [0, 0]
    for turn in range(40):
        ran[turn % 2] += (one, other)[turn % 2].play(nll, most=1)
    assert sum(ran) == len(keys(one.search.study)) == 12
    assert not {trial.key for trial in one.proposed} & {trial.key for trial in other.proposed}


def test_what_a_dead_driver_left_is_asked_again(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
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


def test_what_tune_gives_up_untried_is_asked_again(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
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


def test_processes_that_always_die_end_the_search(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    driver = Driver(plan_of(num_trials=3), tmp_path)
    for number in range(8):
        assert isinstance(driver.search.suggest(str(number)), dict)
        driver.search.on_trial_complete(str(number), error=True)
    assert driver.search.suggest("last") == FINISHED
    assert driver.search.gave_up is not None
    assert driver.search.gave_up.startswith("8 trials in a row failed")


def test_a_live_driver_keeps_what_it_is_running(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    one = Driver(plan_of(), tmp_path)
    assert one.ask("a") is not None
    Driver(plan_of(), tmp_path)
    assert one.states() == {TrialState.RUNNING: 1}


def test_a_search_never_reads_test_and_is_not_confirmed_on_its_own_seed(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
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


def test_more_trials_go_on_with_the_same_study_and_another_space_does_not(plan_of: Callable[..., Plan]) -> None:
    assert plan_of(num_trials=20).sweep_id == plan_of().sweep_id
    others = [
        plan_of(space={K: IntDistribution(1, 5)}, only_if={}),
        plan_of(objectives=("dev/f1",)),
        plan_of(pruner=None),
    ]
    assert len({plan_of().sweep_id, *(plan.sweep_id for plan in others)}) == 4


def test_a_pareto_front_is_what_nothing_beats(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    points = iter([(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 1.0), (4.0, 2.0), (0.5, 9.5)])
    plan = plan_of(objectives=("dev/nll", "dev/dist_gap"), num_trials=6)
    driver = Driver(plan, tmp_path)
    driver.play(lambda trial: dict(zip(("dev/nll", "dev/dist_gap"), next(points), strict=True)))
    assert plan.search is not None
    best = ranked(driver.search.study, space_of(plan))
    front = pareto_front(best, plan.search.design.directions)
    assert sorted(tuple(one.values) for one in front) == [(0.5, 9.5), (1.0, 9.0), (2.0, 5.0), (4.0, 1.0)]
    assert [tuple(one.values) for one in best] == [
        (0.5, 9.5),
        (1.0, 9.0),
        (2.0, 5.0),
        (4.0, 1.0),
        (3.0, 6.0),
        (4.0, 2.0),
    ]
    scatter = SearchResults(driver.search.study, space_of(plan)).scatter()
    assert scatter is not None
    assert [point[3] for point in scatter.points] == [True] * 4 + [False] * 2


def test_parallel_coordinates_put_each_value_on_its_axis(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    space = {K: IntDistribution(1, 4), ON: SPACE[ON], GAMMA: FloatDistribution(1, 100, log=True)}
    plan = plan_of(space=space, objectives=("dev/nll", "dev/dist_gap"), num_trials=1)
    assert plan.search is not None
    study = study_of(plan.sweep_id, space_of(plan), "sqlite://")
    given = [({K: 4, ON: True, GAMMA: 10.0}, [3.0, 9.0]), ({K: 1, ON: False}, [4.0, 9.0])]
    for number, (params, values) in enumerate(given):
        distributions = {path: space[path] for path in params}
        attributes = {KEY: f"trial{number}"}
        study.add_trial(create_trial(values=values, params=params, distributions=distributions, user_attrs=attributes))
    plot = SearchResults(study, space_of(plan)).coordinates()
    assert plot is not None
    assert [axis.label for axis in plot.axes] == [
        "num_prompts",
        "contrastive",
        "contrastive.threshold",
        "dev/nll",
        "dev/dist_gap",
    ]
    assert [[tick.text for tick in axis.ticks] for axis in plot.axes] == [
        ["1", "4"],
        ["on", "off"],
        ["1", "100"],
        ["3.000", "4.000"],
        ["9.00"],
    ]
    other, best = ([float(at.split()[0]) for at in trace.d[1:].split("L")] for trace in plot.traces)
    assert [trace.is_best for trace in plot.traces] == [False, True]
    assert plot.absent is not None
    middle = (plot.left + plot.right) / 2
    assert other == pytest.approx(
        [plot.left, 0.25 * plot.left + 0.75 * plot.right, plot.absent, plot.right, middle], abs=0.1
    )
    assert best == pytest.approx([plot.right, 0.75 * plot.left + 0.25 * plot.right, middle, plot.left, middle], abs=0.1)


def test_the_parameter_that_decides_is_the_important_one(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(
        space={K: IntDistribution(2, 8), "optim.learning_rate": FloatDistribution(0.001, 0.1)},
        only_if={},
        num_trials=30,
    )
    driver = Driver(plan, tmp_path)
    driver.play(lambda trial: {"dev/nll": float(trial.config.prompts.num_prompts)})
    assert plan.search is not None
    explored = SearchResults(driver.search.study, space_of(plan))
    (table,) = [of for heading, of in explored.tables().items() if "mattered" in heading]
    shares = {row.label: [entry.value for entry in row.entries] for row in table.rows}
    for index in (0, 1):  # fANOVA, PED-ANOVA
        of_prompts, of_rate = shares["num_prompts"][index], shares["learning_rate"][index]
        assert of_prompts is not None
        assert of_prompts > 0.8
        assert of_rate is not None
        assert of_rate < 0.2
    assert explored.summary.startswith("30 distinct trials were explored on dev: 30 at full budget")


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
def test_a_search_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Search(**{"space": SPACE, "only_if": {}, **changes})


@pytest.mark.parametrize("changes", [{"grace_percent": 0}, {"grace_percent": 101}, {"reduction_factor": 1}])
def test_a_pruner_that_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
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
def test_a_space_that_its_fields_refuse_is_refused_before_anything_runs(
    plan_of: Callable[..., Plan], space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(space=space, only_if={})


def test_what_a_search_knows_is_told_to_a_driver_that_goes_on(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """The one before may have died before MLflow heard of it."""
    left = iter([{"dev/nll": 2.0}, "stop", "fail"])
    before = Driver(plan_of(), tmp_path)
    before.play(lambda trial: next(left), most=3)
    after = Driver(plan_of(), tmp_path)
    told = {trial.key: entry.state for trial, entry in after.search.recall()}
    assert list(told) == [trial.key for trial in before.proposed]
    assert list(told.values()) == ["finished", "pruned", "failed"]


def test_a_spent_budget_ends_a_search_and_a_larger_one_goes_on(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan, now = plan_of(num_trials=5), [0.0]
    one = Driver(plan, tmp_path, budget=Budget(1.0, clock=lambda: now[0]))

    def half_an_hour(trial: Trial) -> Outcome:
        now[0] += 1800
        return nll(trial)

    assert one.play(half_an_hour) == 2
    assert one.search.gave_up is None
    assert Driver(plan, tmp_path).play(nll) == 3


def test_a_study_may_be_a_journal_file(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan, storage = plan_of(num_trials=3), f"journal:{tmp_path / 'study.log'}"
    driver = Driver(plan, tmp_path, storage=storage)
    assert driver.play(nll) == 3
    assert not (tmp_path / "optuna.db").exists()
    assert proposed(plan.sweep_id, storage).keys() == keys(driver.search.study)
    assert Driver(plan, tmp_path, storage=storage).play(nll) == 0, "it is found again"


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@127.0.0.1:9/db", "sqlite:////nowhere/at/all.db", "nonsense", "mysql://me:secret@h/d"],
)
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^--study .*: .* Give the URL of a database") as refused:
        check_storage(url)
    assert "secret" not in str(refused.value)


def test_the_status_of_a_search_counts_what_its_study_has_asked_for(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = plan_of()
    study = f"sqlite:///{tmp_path / 'optuna.db'}"

    def stands(plan: Plan) -> dict[str, int]:
        asked = record_of(plan, file="a.py", arguments=[], concurrency=1, study=study, started=0.0)
        sweep_record.write(asked, tmp_path / plan.sweep_id)
        (status,) = statuses(tmp_path)
        return {state: count for state, count in status.counts.items() if count}

    driver = Driver(plan, tmp_path)
    driver.play(nll, most=3)
    trial = driver.ask("stopped")
    assert trial is not None
    driver.end("stopped", trial, "stop")
    assert stands(plan) == {"finished": 3, "pruned": 1, "waiting": 8 + 2}
    confirmed = plan.confirming([trial.cell])
    assert stands(confirmed) == {"finished": 3, "pruned": 1, "waiting": 4}


# --- AVG, which is relative to the base ---

SCORES = {"dev/f1": 10.0, "dev/bleu": 2.0, "dev/dist_1": 4.0}


def scored(trial: Trial) -> dict[str, float]:
    """F1 grows with K; the base has K = 3."""
    return {**SCORES, "dev/f1": 5.0 * trial.config.prompts.num_prompts, "dev/nll": 3.0}


def test_avg_is_relative_to_the_base_which_runs_first(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(space={K: IntDistribution(1, 4)}, only_if={}, objectives=("dev/avg",), num_trials=4)
    assert plan.search is not None
    assert plan.search.base.prompts.num_prompts == 3
    driver = Driver(plan, tmp_path)
    base = driver.ask("base")
    assert base is not None
    assert base.key == plan.search.trial({}).key
    assert driver.search.suggest("next") is None, "nothing can be valued before it has ended"
    driver.end("base", base, scored(base))
    driver.play(scored)
    values = {one.params[K]: one.value for one in driver.search.study.get_trials(states=(TrialState.COMPLETE,))}
    gain = {k: 100 * (5.0 * k / 15.0 - 1) / 3 for k in values}
    assert values == pytest.approx(gain)
    assert values[3] == 0, "the base itself, answered from its run"
    assert plan.search.design.directions == ["maximize"]
    assert plan.search.design.split == "dev"
    again = Driver(
        plan_of(space={K: IntDistribution(1, 4)}, only_if={}, objectives=("dev/avg",), num_trials=4), tmp_path
    )
    assert again.play(scored) == 0


def test_a_base_that_fails_ends_a_search_for_avg(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    driver = Driver(plan_of(objectives=("dev/avg",)), tmp_path)
    assert driver.play(lambda trial: "fail") == 1
    assert driver.search.gave_up == "the base failed, to which AVG is relative"


def test_of_planned_trials_what_another_driver_has_comes_last(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
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
