"""Optuna as the source of trials: a durable study named by the sweep, which hands out jobs and is told how each ended.

Of a design that states its cells the study is a record. Of a search it decides: Optuna proposes, and an equivalent of
a trial that has run is answered from the ledger. The ledger is the truth of both: what Tune reports is not asked.
"""

import math
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from sweeps.engine.design import factors
from sweeps.engine.exploration import Search
from sweeps.engine.ledger import Entry, Ledger, alone, is_dead
from sweeps.engine.plan import Exploration, Plan, Trial
from sweeps.engine.trial import FINAL, Job

KEY, OWNER, ERROR = "key", "owner", "error"
"""Attributes of a study's trial: its identity, the driver that asked for it, why it has no value."""
MOST_TWINS = 200
"""Proposals in a row that are answered without running anything, after which the space counts as explored."""
MOST_FAILURES = 8
"""Failures in a row after which a search gives up: the sampler does not learn from them."""
_SEED = "seed"
_ENDED = frozenset({"finished", "failed", "pruned"})

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Source(Searcher):
    """A searcher whose state is elsewhere: in the study and in the ledger."""

    def __init__(self) -> None:
        super().__init__()

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        # A Tuner pickles its searcher for a restore of its own, which is not how a sweep goes on.
        return _Source, ()

    def save(self, checkpoint_path: str) -> None:
        """Leave an empty file: Tune wants one."""
        with open(checkpoint_path, "w"):
            pass

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on by planning again."""


class PlannedSearch(_Source):
    """Hands out the given trials of a plan, in their order, and records in the study how each ended.

    Args:
        plan: names the study (`sweep_id`) and its factors.
        pending: trials to hand out, with the job of each.
        metric: dev metric that the study records; lower is better.
        storage: URL of the study's database.
        ledger: says how a trial ended.
    """

    def __init__(
        self, plan: Plan, pending: Sequence[tuple[Trial, Job]], *, metric: str, storage: str, ledger: Ledger
    ) -> None:
        super().__init__()
        self._waiting, self._ledger, self._value = deque(pending), ledger, metric
        self._running: dict[str, tuple[Trial, str, dict[int, float]]] = {}
        levels: dict[str, list[Any]] = {}
        for cell in plan.cells:
            for path, level in factors(cell).items():
                levels.setdefault(path, [])
                if level not in levels[path]:
                    levels[path].append(level)
        space = {path: CategoricalDistribution(values) for path, values in levels.items()}
        self._space = {**space, _SEED: CategoricalDistribution(list(plan.seeds))}
        # A search's own study has the plain name; that of its cells is beside it.
        name = plan.sweep_id if plan.exploration is None else f"{plan.sweep_id}-confirmed"
        self._study = open_study(name, storage, directions=["minimize"])

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's job, as the Tune function takes it."""
        if not self._waiting:
            return str(Searcher.FINISHED)
        trial, job = self._waiting.popleft()
        self._running[trial_id] = (trial, job.owner, {})
        return {"job": vars(job)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep a dev evaluation by its optimisation step; other reports carry no value."""
        if self._value in result and FINAL not in result:
            self._running[trial_id][2][int(result["step"])] = result[self._value]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the trial: COMPLETE with the ledger's value, else FAIL; another driver's is that one's to record."""
        trial, owner, values = self._running.pop(trial_id)
        entry = self._ledger.entries([trial.key]).get(trial.key)
        if entry is not None and entry.owner != owner:
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
    that it goes on from its checkpoint.

    Args:
        plan: of a search.
        storage: URL of the study's database.
        ledger: says what has run and how it ended.
        owner: of the claims: this driver.
        job_of: the job of a trial.
        proposed: told of each trial before it is handed out.
        answered: told of each trial that had finished before.
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
    ) -> None:
        super().__init__()
        assert plan.exploration is not None
        self._exploration, self._ledger, self._owner = plan.exploration, ledger, owner
        self._job_of, self._proposed, self._answered = job_of, proposed, answered
        self._name = plan.sweep_id
        self.study = study_of(plan, storage)
        self._running: dict[str, tuple[optuna.Trial, Trial]] = {}
        self._twins: defaultdict[str, list[optuna.Trial]] = defaultdict(list)
        self._failures = 0
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

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The job of the next proposal that has to run."""
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
            return {"job": vars(self._job_of(trial))}
        self.gave_up = f"{MOST_TWINS} proposals in a row had been tried before: the space counts as explored"
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a dev evaluation at its step, where the study has that one objective."""
        objectives = self._exploration.design.objectives
        if len(objectives) == 1 and objectives[0] in result and FINAL not in result:
            self._running[trial_id][0].report(result[objectives[0]], int(result["step"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study what the ledger says: COMPLETE, FAIL, or PRUNED for a trial that was stopped."""
        asked, trial = self._running.pop(trial_id)
        if error:
            self._ledger.fail(trial.key, owner=self._owner, error="its process was lost again and again")
        else:
            self._ledger.prune(trial.key, owner=self._owner)  # unless it ended before it could be stopped
        entry = self._ledger.entries([trial.key]).get(trial.key)
        self._failures = self._failures + 1 if entry is None or entry.state == "failed" else 0
        for one in (asked, *self._twins.pop(trial.key, ())):
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
            values = [entry.metrics.get(name, math.nan) for name in design.objectives]
            if all(map(math.isfinite, values)):
                self.study.tell(asked, values)
            else:
                named = ", ".join(f"{name} = {value}" for name, value in zip(design.objectives, values, strict=True))
                asked.set_user_attr(ERROR, f"not finite: {named}")
                self.study.tell(asked, state=TrialState.FAIL)
        else:
            self.study.tell(asked, state=TrialState.PRUNED)


def open_study(name: str, storage: str, *, directions: Sequence[str]) -> optuna.Study:
    """The study of that name, made if it is not there."""
    return optuna.create_study(study_name=name, storage=storage, directions=list(directions), load_if_exists=True)


def study_of(plan: Plan, storage: str) -> optuna.Study:
    """The study of a search."""
    assert plan.exploration is not None
    return open_study(plan.sweep_id, storage, directions=plan.exploration.design.directions)


def keys(study: optuna.Study) -> set[str]:
    """The distinct trials that a study has asked for, but for those that a dead driver left."""
    return {
        one.user_attrs[KEY]
        for one in study.get_trials(deepcopy=False)
        if KEY in one.user_attrs and one.user_attrs.get(ERROR) != _ABANDONED
    }


def ranked(study: optuna.Study, exploration: Exploration, *, excluding: str = "") -> list[FrozenTrial]:
    """The distinct trials of a search that ended at full budget, best first.

    With several objectives they are ordered by Pareto front, and within one by the first objective.

    Args:
        study: of the search.
        exploration: what it explored.
        excluding: key of a trial that is left out, such as the base's.
    """
    distinct: dict[str, FrozenTrial] = {}
    for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        distinct.setdefault(one.user_attrs[KEY], one)
    distinct.pop(excluding, None)
    sign = -1.0 if exploration.design.directions[0] == "maximize" else 1.0
    left, order = list(distinct.values()), []
    while left:
        front = pareto_front(left, exploration.design.directions)
        order += sorted(front, key=lambda one: sign * one.values[0])
        left = [one for one in left if one not in front]
    return order


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """The trials that no other beats in one objective and equals or beats in all."""
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    points = [[sign * value for sign, value in zip(signs, one.values, strict=True)] for one in trials]

    def beaten(point: list[float]) -> bool:
        return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)

    return [one for one, point in zip(trials, points, strict=True) if not beaten(point)]


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


_ABANDONED = "its driver died"


def _recover(study: optuna.Study, ledger: Ledger) -> None:
    """Fail what a dead driver left RUNNING, and ask for it again."""
    for one in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        entry = ledger.entries([one.user_attrs[KEY]]).get(one.user_attrs[KEY]) if KEY in one.user_attrs else None
        alive = entry is not None and entry.state == "running" and not ledger.is_silent(entry)
        if alive and not is_dead(one.user_attrs[OWNER]):
            continue
        study._storage.set_trial_user_attr(one._trial_id, ERROR, _ABANDONED)
        study._storage.set_trial_state_values(one._trial_id, TrialState.FAIL)
        if KEY in one.user_attrs:
            study.enqueue_trial(one.params)


def found(study: optuna.Study, exploration: Exploration) -> list[Mapping[str, Any]]:
    """What a search found: the params of its best distinct trials, without the base itself."""
    best = ranked(study, exploration, excluding=exploration.trial({}).key)
    return [one.params for one in best[: exploration.design.confirm]]
