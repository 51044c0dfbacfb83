"""Optuna as the source of a plan's trials: a named, durable study that hands out what is still to run.

A confirmatory design is a study in which every trial is enqueued; the sampler never has to propose anything.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from sweeps.engine.design import factors
from sweeps.engine.plan import Plan, Trial
from sweeps.engine.trial import FINAL, Job

_SEED = "seed"


class PlannedSearch(OptunaSearch):
    """Hands out the given trials of a plan, in their order, and tells the study how each ended.

    Args:
        plan: names the study (`sweep_id`) and its factors.
        pending: trials to hand out, with the job of each.
        metric: dev metric that the study records, reported under that name; lower is better.
        storage: SQLite file of the study.
    """

    def __init__(self, plan: Plan, pending: Sequence[tuple[Trial, Job]], *, metric: str, storage: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage.parent.mkdir(parents=True, exist_ok=True)
        database = optuna.storages.RDBStorage(f"sqlite:///{storage}")
        _clear_unfinished(plan.sweep_id, database)
        self._jobs = {_point_id(_point(trial)): job for trial, job in pending}
        levels: dict[str, list[Any]] = {}
        for cell in plan.cells:
            for path, level in factors(cell).items():
                levels.setdefault(path, [])
                if level not in levels[path]:
                    levels[path].append(level)
        space = {path: CategoricalDistribution(values) for path, values in levels.items()}
        super().__init__(
            space={**space, _SEED: CategoricalDistribution(list(plan.seeds))},
            metric=metric,
            mode="min",
            points_to_evaluate=[_point(trial) for trial, _ in pending],
            sampler=optuna.samplers.RandomSampler(seed=0),
            study_name=plan.sweep_id,
            storage=database,
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's job, as the Tune function takes it."""
        point = super().suggest(trial_id)
        return None if point is None else {"job": vars(self._jobs[_point_id(point)])}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a dev evaluation at its optimisation step; other reports carry no value."""
        if self._metric in result and FINAL not in result:
            self._ot_trials[trial_id].report(result[self._metric], int(result["step"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """COMPLETE with the final value, FAIL for an error, PRUNED for a trial that was stopped before its end."""
        finished = not error and result is not None and FINAL in result
        state = TrialState.COMPLETE if finished else TrialState.FAIL if error else TrialState.PRUNED
        value = result[self._metric] if finished and result is not None else None
        self._ot_study.tell(self._ot_trials[trial_id], value, state=state)
        self._completed_trials.add(trial_id)


def _clear_unfinished(study_name: str, storage: optuna.storages.RDBStorage) -> None:
    """Fail what a dead driver left RUNNING or WAITING: the ledger says what is still to run."""
    if study_name in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        study = optuna.load_study(study_name=study_name, storage=storage)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _point(trial: Trial) -> dict[str, Any]:
    return {**factors(trial.cell), _SEED: trial.seed}


def _point_id(point: dict[str, Any]) -> str:
    return repr(sorted(point.items()))
