"""A search as the source of Tune's trials: Optuna proposes, and is told how each trial ended.

The study is durable and named by the sweep. A proposal that is equivalent to a trial that has run is answered from the
ledger, which is the truth of how a trial ended: what Tune reports is not asked.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sweeps.engine.analysis.average_improvement import improvement
from sweeps.engine.design.metrics import DEV_AVG
from sweeps.engine.design.search import Search
from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.plan.trial import Trial
from sweeps.engine.search.budget import Budget
from sweeps.engine.search.searcher import TrialSource
from sweeps.engine.search.study import ERROR, KEY, OWNER, keys, study_of
from sweeps.engine.store.ledger import Entry, Ledger, alone, is_dead
from sweeps.engine.store.states import ENDED
from sweeps.engine.worker.job import MetricRow, TrialRequest, message_of
from sweeps.engine.worker.retry_policy import ADVICE

MOST_TWINS = 200
"""Proposals in a row that are answered without running anything, after which the space counts as explored."""
MOST_FAILURES = 8
"""Failures in a row after which a search gives up: the sampler does not learn from them."""


class OptunaSearcher(TrialSource):
    """Lets Optuna propose the trials of a search.

    Drivers that share the study share its budget. What a dead driver left RUNNING is failed and proposed again, so
    that it goes on from its checkpoint; likewise what Tune gave up before it was tried.

    Args:
        name: of the study.
        space: what is explored.
        storage: URL of the study's database.
        ledger: says what has run and how it ended.
        owner: of the claims: this driver.
        request_of: what Tune is handed for a trial.
        proposed: told of each trial before it is handed out.
        answered: told of each trial that had finished before.
        budget: after which no trial is handed out.
    """

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        *,
        storage: str,
        ledger: Ledger,
        owner: str,
        request_of: Callable[[Trial], TrialRequest],
        proposed: Callable[[Trial], None],
        answered: Callable[[Trial, Entry], None],
        budget: Budget,
    ) -> None:
        super().__init__(budget)
        self._name, self._space, self._ledger, self._owner = name, space, ledger, owner
        self._request_of, self._proposed, self._answered = request_of, proposed, answered
        self.study = study_of(name, space, storage)
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
        return [(self._space.trial(one.params), entry) for one, entry in ended if entry.state in ENDED]

    def _next(self, trial_id: str) -> TrialRequest | str | None:
        """The job of the next proposal that has to run."""
        if DEV_AVG in self._space.design.objectives and not self._knows_base():
            return self._of_base(trial_id)
        for _ in range(MOST_TWINS):
            if self._failures >= MOST_FAILURES:
                self.gave_up = f"{self._failures} trials in a row failed; the space holds too much that does not train"
                return str(self.FINISHED)
            with alone(self._ledger, f"study {self._name}", owner=self._owner):
                if len(keys(self.study)) >= self._space.design.num_trials:
                    return str(self.FINISHED)
                asked, trial = self._ask()
            if trial is None or self._answer(asked, trial):
                continue
            self._running[trial_id] = (asked, trial)
            self._proposed(trial)
            return self._request_of(trial)
        self.gave_up = f"{MOST_TWINS} proposals in a row had been tried before: the space counts as explored"
        return str(self.FINISHED)

    def _knows_base(self) -> bool:
        """Whether the base has finished, which AVG is relative to; its metrics are kept."""
        if self._base is None and self._base_id is None:
            base = self._space.trial({})
            entry = self._ledger.entries([base.key]).get(base.key)
            if entry is not None and entry.state == "finished":
                self._base = entry.metrics
                self._proposed(base)
                self._answered(base, entry)
        return self._base is not None

    def _of_base(self, trial_id: str) -> TrialRequest | str | None:
        """The job of the base; None while it runs."""
        if self._base_id is not None:
            return None
        if self._base_failed:
            self.gave_up = "the base failed, to which AVG is relative"
            return str(self.FINISHED)
        base = self._space.trial({})
        self._base_id = trial_id
        self._proposed(base)
        return self._request_of(base)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a dev evaluation at its step, where the study has that one objective."""
        objectives, message = self._space.design.objectives, message_of(result)
        if trial_id == self._base_id or len(objectives) > 1 or not isinstance(message, MetricRow):
            return
        if objectives[0] in message.metrics:
            self._running[trial_id][0].report(message.metrics[objectives[0]], message.step)

    def _end(self, trial_id: str, *, error: bool) -> None:
        """Tell the study what the ledger says: COMPLETE, FAIL, or PRUNED for a trial that was stopped."""
        if trial_id == self._base_id:
            base = self._space.trial({}).key
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
        self.study.sampler = _sampler(self._space.design, seed=len(self.study.get_trials(deepcopy=False)))
        asked = self.study.ask()
        params: dict[str, Any] = {}
        for path, distribution in self._space.design.space.items():
            if all(params.get(condition) for condition in self._space.design.only_if.get(path, ())):
                params[path] = _suggest(asked, path, distribution)
        try:
            trial = self._space.trial(params)
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
        design = self._space.design
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
    study.tell(one.number, state=TrialState.FAIL)
    if KEY in one.user_attrs:
        study.enqueue_trial(one.params)
