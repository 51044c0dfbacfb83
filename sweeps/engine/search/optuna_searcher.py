"""Optuna as the source of trials: a durable study named by the sweep, which hands out jobs and is told how each ended.

Of a design that states its cells the study is a record. Of a search it decides: Optuna proposes, and an equivalent of
a trial that has run is answered from the ledger. The ledger is the truth of both: what Tune reports is not asked.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from sweeps.engine.analysis.average_improvement import improvement
from sweeps.engine.design.designs import factors
from sweeps.engine.design.metrics import DEV_AVG
from sweeps.engine.design.search_space import Search
from sweeps.engine.plan.plan import Plan, Trial
from sweeps.engine.search.budget import Budget
from sweeps.engine.search.study import ABANDONED, ERROR, KEY, OWNER, keys, open_study, study_of
from sweeps.engine.store.ledger import Entry, Ledger, alone, is_dead
from sweeps.engine.worker.retry_policy import ADVICE
from sweeps.engine.worker.supervisor import ROW, Job

MOST_TWINS = 200
"""Proposals in a row that are answered without running anything, after which the space counts as explored."""
MOST_FAILURES = 8
"""Failures in a row after which a search gives up: the sampler does not learn from them."""
_SEED = "seed"
_ENDED = frozenset({"finished", "failed", "pruned"})


class _Source(Searcher):
    """A searcher whose state is elsewhere, in the study and in the ledger, and whose trials a budget ends."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job, as the Tune function takes it; none once the budget is spent."""
        if self._budget.is_spent:
            return str(Searcher.FINISHED)
        answer = self._next(trial_id)
        if isinstance(answer, dict):
            self._budget.start(trial_id)
        return answer

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial ended."""
        self._budget.end(trial_id)
        self._end(trial_id, error=error)

    def _next(self, trial_id: str) -> dict[str, Any] | str | None:
        raise NotImplementedError

    def _end(self, trial_id: str, *, error: bool) -> None:
        raise NotImplementedError

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        # A Tuner pickles its searcher for a restore of its own, which is not how a sweep goes on.
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        """Leave an empty file: Tune wants one."""
        with open(checkpoint_path, "w"):
            pass

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on by planning again."""


class PlannedSearch(_Source):
    """Hands out given trials and records in a study how each ended.

    Their order is kept, but for those that another driver has taken: they come last, so that drivers which share a
    sweep divide it instead of waiting for each other.

    Args:
        name: of the study.
        trials: all that the study is of, run before or not: they name its factors and their levels.
        pending: those to hand out.
        metric: dev metric that the study records; lower is better.
        storage: URL of the study's database.
        ledger: says how a trial ended.
        owner: of the claims: this driver.
        job_of: the job of a trial, made when it is handed out.
        budget: after which no trial is handed out.
    """

    def __init__(
        self,
        name: str,
        trials: Iterable[Trial],
        pending: Iterable[Trial],
        *,
        metric: str,
        storage: str,
        ledger: Ledger,
        owner: str,
        job_of: Callable[[Trial], Job],
        budget: Budget,
    ) -> None:
        super().__init__(budget)
        self._waiting, self._value = list(pending), metric
        self._ledger, self._owner, self._job_of = ledger, owner, job_of
        self._running: dict[str, tuple[Trial, dict[int, float]]] = {}
        levels: defaultdict[str, list[Any]] = defaultdict(list)
        for trial in trials:
            for path, level in {**factors(trial.cell), _SEED: trial.seed}.items():
                if level not in levels[path]:
                    levels[path].append(level)
        self._space = {path: CategoricalDistribution(values) for path, values in levels.items()}
        self._study = open_study(name, storage, directions=["minimize"])

    def _next(self, trial_id: str) -> dict[str, Any] | str:
        if not self._waiting:
            return str(Searcher.FINISHED)
        entries = self._ledger.entries([trial.key for trial in self._waiting])
        trial = min(self._waiting, key=lambda one: _turn(entries.get(one.key), owner=self._owner))
        self._waiting.remove(trial)
        self._running[trial_id] = (trial, {})
        return {"job": self._job_of(trial)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep a dev evaluation by its optimisation step; other reports carry no value."""
        row = dict(result.get(ROW, ()))
        if self._value in row:
            self._running[trial_id][1][int(row["step"])] = row[self._value]

    def _end(self, trial_id: str, *, error: bool) -> None:
        """Record the trial: COMPLETE with the ledger's value, else FAIL; another driver's is that one's to record."""
        trial, values = self._running.pop(trial_id)
        entry = self._ledger.entries([trial.key]).get(trial.key)
        if entry is not None and entry.owner != self._owner:
            return
        value = entry.metrics.get(self._value) if entry is not None and entry.state == "finished" else None
        params = {**factors(trial.cell), _SEED: trial.seed}
        self._study.add_trial(
            create_trial(
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
                value=value,
                params=params,
                distributions={path: self._space[path] for path in params},
                intermediate_values=values,
                user_attrs={KEY: trial.key},
            )
        )


class StudySearch(_Source):
    """Lets Optuna propose the trials of a search.

    Drivers that share the study share its budget. What a dead driver left RUNNING is failed and proposed again, so
    that it goes on from its checkpoint; likewise what Tune gave up before it was tried.

    Args:
        plan: of a search.
        storage: URL of the study's database.
        ledger: says what has run and how it ended.
        owner: of the claims: this driver.
        job_of: the job of a trial.
        proposed: told of each trial before it is handed out.
        answered: told of each trial that had finished before.
        budget: after which no trial is handed out.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        storage: str,
        ledger: Ledger,
        owner: str,
        job_of: Callable[[Trial], Job],
        proposed: Callable[[Trial], None],
        answered: Callable[[Trial, Entry], None],
        budget: Budget,
    ) -> None:
        super().__init__(budget)
        assert plan.exploration is not None
        self._exploration, self._ledger, self._owner = plan.exploration, ledger, owner
        self._job_of, self._proposed, self._answered = job_of, proposed, answered
        self._name = plan.sweep_id
        self.study = study_of(plan, storage)
        self._running: dict[str, tuple[optuna.Trial, Trial]] = {}
        self._twins: defaultdict[str, list[optuna.Trial]] = defaultdict(list)
        self._failures = 0
        self._base: Mapping[str, float] | None = None
        self._base_id: str | None = None
        self._base_failed = False
        self.gave_up: str | None = None
        with alone(ledger, f"study {self._name}", owner=owner):
            _recover(self.study, ledger)

    def recall(self) -> list[tuple[Trial, Entry]]:
        """The distinct trials that have ended in this study so far."""
        first: dict[str, FrozenTrial] = {}
        for one in self.study.get_trials(deepcopy=False):
            if KEY in one.user_attrs:
                first.setdefault(one.user_attrs[KEY], one)
        entries = self._ledger.entries(list(first))
        ended = [(one, entries[key]) for key, one in first.items() if key in entries]
        return [(self._exploration.trial(one.params), entry) for one, entry in ended if entry.state in _ENDED]

    def _next(self, trial_id: str) -> dict[str, Any] | str | None:
        """The job of the next proposal that has to run."""
        if DEV_AVG in self._exploration.design.objectives and not self._knows_base():
            return self._of_base(trial_id)
        for _ in range(MOST_TWINS):
            if self._failures >= MOST_FAILURES:
                self.gave_up = f"{self._failures} trials in a row failed; the space holds too much that does not train"
                return str(Searcher.FINISHED)
            with alone(self._ledger, f"study {self._name}", owner=self._owner):
                if len(keys(self.study)) >= self._exploration.design.num_trials:
                    return str(Searcher.FINISHED)
                asked, trial = self._ask()
            if trial is None or self._answer(asked, trial):
                continue
            self._running[trial_id] = (asked, trial)
            self._proposed(trial)
            return {"job": self._job_of(trial)}
        self.gave_up = f"{MOST_TWINS} proposals in a row had been tried before: the space counts as explored"
        return str(Searcher.FINISHED)

    def _knows_base(self) -> bool:
        """Whether the base has finished, which AVG is relative to; its metrics are kept."""
        if self._base is None and self._base_id is None:
            base = self._exploration.trial({})
            entry = self._ledger.entries([base.key]).get(base.key)
            if entry is not None and entry.state == "finished":
                self._base = entry.metrics
                self._proposed(base)
                self._answered(base, entry)
        return self._base is not None

    def _of_base(self, trial_id: str) -> dict[str, Any] | str | None:
        """The job of the base; None while it runs."""
        if self._base_id is not None:
            return None
        if self._base_failed:
            self.gave_up = "the base failed, to which AVG is relative"
            return str(Searcher.FINISHED)
        base = self._exploration.trial({})
        self._base_id = trial_id
        self._proposed(base)
        return {"job": self._job_of(base)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a dev evaluation at its step, where the study has that one objective."""
        objectives, row = self._exploration.design.objectives, dict(result.get(ROW, ()))
        if trial_id != self._base_id and len(objectives) == 1 and objectives[0] in row:
            self._running[trial_id][0].report(row[objectives[0]], int(row["step"]))

    def _end(self, trial_id: str, *, error: bool) -> None:
        """Tell the study what the ledger says: COMPLETE, FAIL, or PRUNED for a trial that was stopped."""
        if trial_id == self._base_id:
            base = self._exploration.trial({}).key
            entry = self._ledger.entries([base]).get(base)
            self._base_id, self._base_failed = None, entry is None or entry.state != "finished"
            return
        asked, trial = self._running.pop(trial_id)
        if error:
            self._ledger.fail(trial.key, owner=self._owner, error=f"its process was lost again and again; {ADVICE}")
        else:
            self._ledger.prune(trial.key, owner=self._owner)  # unless it ended before it could be stopped
        entry = self._ledger.entries([trial.key]).get(trial.key)
        untried = error and (entry is None or entry.state == "interrupted")
        self._failures = self._failures + 1 if untried or entry is None or entry.state == "failed" else 0
        for one in (asked, *self._twins.pop(trial.key, ())):
            if untried:  # Tune gives a trial up whose process is dead when it is handed over
                _ask_again(self.study, one)
            else:
                self._tell(one, entry)

    def _ask(self) -> tuple[optuna.Trial, Trial | None]:
        """A proposal and its trial; None for one that is no config, which is failed with the reason."""
        # Seeded by where the study stands, so that a search that goes on does not begin again.
        self.study.sampler = _sampler(self._exploration.design, seed=len(self.study.get_trials(deepcopy=False)))
        asked = self.study.ask()
        params: dict[str, Any] = {}
        for path, distribution in self._exploration.design.space.items():
            if all(params.get(condition) for condition in self._exploration.design.only_if.get(path, ())):
                params[path] = _suggest(asked, path, distribution)
        try:
            trial = self._exploration.trial(params)
        except ValueError as error:
            asked.set_user_attr(ERROR, str(error))
            self.study.tell(asked, state=TrialState.FAIL)
            return asked, None
        asked.set_user_attr(KEY, trial.key)
        asked.set_user_attr(OWNER, self._owner)
        return asked, trial

    def _answer(self, asked: optuna.Trial, trial: Trial) -> bool:
        """Answer a proposal without running it, where its trial has run or is running here."""
        if trial.key in {running.key for _, running in self._running.values()}:
            self._twins[trial.key].append(asked)
            return True
        entry = self._ledger.entries([trial.key]).get(trial.key)
        if entry is None:
            return False
        known = sum(one.user_attrs.get(KEY) == trial.key for one in self.study.get_trials(deepcopy=False)) > 1
        if entry.state == "finished":
            if not known:
                self._proposed(trial)
                self._answered(trial, entry)
            self._tell(asked, entry)
            return True
        if known and entry.state in {"pruned", "failed"}:
            self._tell(asked, entry)
            return True
        return False

    def _tell(self, asked: optuna.Trial, entry: Entry | None) -> None:
        design = self._exploration.design
        if entry is None or entry.state == "failed":
            asked.set_user_attr(ERROR, (entry and entry.error) or "stopped before it started")
            self.study.tell(asked, state=TrialState.FAIL)
        elif entry.state == "finished":
            values = [self._value(name, entry) for name in design.objectives]
            if all(map(math.isfinite, values)):
                self.study.tell(asked, values)
            else:
                named = ", ".join(f"{name} = {value}" for name, value in zip(design.objectives, values, strict=True))
                asked.set_user_attr(ERROR, f"not finite: {named}")
                self.study.tell(asked, state=TrialState.FAIL)
        else:
            self.study.tell(asked, state=TrialState.PRUNED)

    def _value(self, objective: str, entry: Entry) -> float:
        if objective != DEV_AVG:
            return entry.metrics.get(objective, math.nan)
        assert self._base is not None
        return improvement(entry.metrics, self._base, split="dev").average


def _turn(entry: Entry | None, *, owner: str) -> int:
    """When a trial is handed out: first what nobody has, then what has ended elsewhere, last what runs there."""
    if entry is not None and entry.state == "running" and entry.owner != owner:
        return 2
    return 1 if entry is not None and entry.state == "finished" else 0


def _sampler(design: Search, *, seed: int) -> optuna.samplers.BaseSampler:
    if design.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():  # multivariate, group and constant_liar are called experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        startup = max(4, design.num_trials // 5)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, seed=seed, n_startup_trials=startup
        )


def _suggest(asked: optuna.Trial, path: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return asked.suggest_categorical(path, distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log
    if isinstance(distribution, IntDistribution):
        return asked.suggest_int(path, int(low), int(high), step=int(step or 1), log=log)
    return asked.suggest_float(path, low, high, step=step, log=log)


def _recover(study: optuna.Study, ledger: Ledger) -> None:
    """Fail what a dead driver left RUNNING, and ask for it again."""
    for one in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        entry = ledger.entries([one.user_attrs[KEY]]).get(one.user_attrs[KEY]) if KEY in one.user_attrs else None
        alive = entry is not None and entry.state == "running" and not ledger.is_silent(entry)
        if alive and not is_dead(one.user_attrs[OWNER]):
            continue
        _ask_again(study, one)


def _ask_again(study: optuna.Study, one: optuna.Trial | FrozenTrial) -> None:
    """Fail a trial that nobody runs any more, and ask for it again."""
    study._storage.set_trial_user_attr(one._trial_id, ERROR, ABANDONED)
    study._storage.set_trial_state_values(one._trial_id, TrialState.FAIL)
    if KEY in one.user_attrs:
        study.enqueue_trial(one.params)
