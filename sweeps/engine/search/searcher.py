"""Where Tune's trials come from: a searcher whose state is elsewhere, and the one that hands out stated trials.

The ledger is the truth of how a trial ended: what Tune reports is not asked.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher

from sweeps.engine.design.designs import factors
from sweeps.engine.plan.trial import Trial
from sweeps.engine.search.budget import Budget
from sweeps.engine.search.study import KEY, open_study
from sweeps.engine.store.ledger import Entry, Ledger
from sweeps.engine.worker.job import MetricRow, TrialRequest, message_of

_SEED = "seed"


class TrialSource(Searcher):
    """A searcher whose state is elsewhere, in the study and in the ledger, and whose trials a budget ends."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def suggest(self, trial_id: str) -> TrialRequest | str | None:
        """What the next trial is, as the Tune function takes it; none once the budget is spent."""
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

    def _next(self, trial_id: str) -> TrialRequest | str | None:
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


class PlannedSearcher(TrialSource):
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
        request_of: what Tune is handed for a trial.
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
        request_of: Callable[[Trial], TrialRequest],
        budget: Budget,
    ) -> None:
        super().__init__(budget)
        self._waiting, self._value = list(pending), metric
        self._ledger, self._owner, self._request_of = ledger, owner, request_of
        self._running: dict[str, tuple[Trial, dict[int, float]]] = {}
        levels: defaultdict[str, list[Any]] = defaultdict(list)
        for trial in trials:
            for path, level in {**factors(trial.cell), _SEED: trial.seed}.items():
                if level not in levels[path]:
                    levels[path].append(level)
        self._space = {path: CategoricalDistribution(values) for path, values in levels.items()}
        self._study = open_study(name, storage, directions=["minimize"])

    def _next(self, trial_id: str) -> TrialRequest | str:
        if not self._waiting:
            return str(Searcher.FINISHED)
        entries = self._ledger.entries([trial.key for trial in self._waiting])
        trial = min(self._waiting, key=lambda one: _turn(entries.get(one.key), owner=self._owner))
        self._waiting.remove(trial)
        self._running[trial_id] = (trial, {})
        return self._request_of(trial)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep a dev evaluation by its optimisation step; other reports carry no value."""
        message = message_of(result)
        if isinstance(message, MetricRow) and self._value in message.metrics:
            self._running[trial_id][1][message.step] = message.metrics[self._value]

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


def _turn(entry: Entry | None, *, owner: str) -> int:
    """When a trial is handed out: first what nobody has, then what has ended elsewhere, last what runs there."""
    if entry is not None and entry.state == "running" and entry.owner != owner:
        return 2
    return 1 if entry is not None and entry.state == "finished" else 0
