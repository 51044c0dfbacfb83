"""Passes what happens to a sweep's Tune trials on to the person watching and to MLflow."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from ray import cloudpickle
from ray.tune import Callback

from sweeps.engine.driver.progress import View
from sweeps.engine.plan.plan import Plan, Trial
from sweeps.engine.store.layout import Places, result_of
from sweeps.engine.store.ledger import Ledger
from sweeps.engine.store.trial_folder import TrialResult, origin_of
from sweeps.engine.tracking.tracker import Tracker
from sweeps.engine.worker import retry_policy
from sweeps.engine.worker.supervisor import ELSEWHERE, FINAL, PERCENT, RETRIES, ROW


class Watcher(Callback):
    """Tune's callback in the driver.

    Args:
        plan: the sweep.
        places: where the trials' folders are.
        ledger: says how a trial ended.
        view: the person's.
        tracker: MLflow's.

    Attributes:
        plan: the sweep; once its search has ended, with the cells that it found.
        trials: all that are known so far, by key.
        reused: keys of those that had finished before.
        ended: keys of the trials that ended while the sweep went on.
    """

    def __init__(self, plan: Plan, places: Places, ledger: Ledger, view: View, tracker: Tracker) -> None:
        self.plan = plan
        self.trials = dict(plan.known)
        self.reused: set[str] = set()
        self._places, self._ledger, self._view, self._tracker = places, ledger, view, tracker
        self.ended: set[str] = set()

    def add(self, trial: Trial) -> None:
        """A trial that a search proposes or found."""
        self.trials[trial.key] = trial
        self._view.add(trial)

    def reuse(self, trial: Trial, result: TrialResult) -> None:
        """A trial had ended before; it says in which sweep, where that was another."""
        self.reused.add(trial.key)
        origin = origin_of(result)
        state = "reused" if result.state == "finished" else result.state
        self._view.end(trial.key, state, f"from {origin}" if origin not in {"", self.plan.sweep_id} else "")
        self._tracker.finish(trial, replace(result, reused=True))

    def announce(self, what: str) -> None:
        """What the sweep waits for."""
        self._view.announce(what)

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        # A Tuner pickles its callbacks for a restore of its own, which is not how a sweep goes on.
        return Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial was handed to its Tune function."""
        key = _key(trial)
        self._view.start(key)
        self._tracker.begin(self.trials[key])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A trial reported a row, or how it goes on."""
        if ELSEWHERE in result:
            self._view.wait(_key(trial))
        elif RETRIES in result:
            self._retry(_key(trial))
        elif ROW in result:
            row = {name: value for name, value in result[ROW] if name != PERCENT}
            self._view.update(_key(trial), row)
            if "test/progress" not in row:
                self._tracker.progress(self.trials[_key(trial)], row)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, or was stopped."""
        key = _key(trial)
        if key in self.trials and trial.last_result and FINAL not in trial.last_result:
            self._ledger.prune(key, owner=trial.config["job"].owner)  # unless it ended before it could be stopped
        self._end(key)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process that held a trial's claim was lost, and Tune is going to start another."""
        key = _key(trial)
        try:
            self._plan_another(key, trial)
        except retry_policy.GaveUpError as final:  # Tune counts these
            self._view.retry(key, str(final))
        else:
            self._retry(key)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process that held a trial's claim was lost once too often, or before it could begin."""
        key, owner = _key(trial), trial.config["job"].owner
        if trial.num_failures > retry_policy.MOST_LOSSES:
            self._ledger.fail(key, owner=owner, error=self._give_up(key, trial))
        else:
            self._ledger.release(key, owner=owner)  # it is handed out again
        self._end(key)

    def _give_up(self, key: str, trial: Any) -> str:
        """Why a trial is not tried once more by this run."""
        try:
            self._plan_another(key, trial, losses=retry_policy.MOST_LOSSES)
        except retry_policy.GaveUpError as final:
            return str(final)
        # It lacked memory and could be smaller still: what it has learnt is kept for the next run.
        return f"{retry_policy.describe(retry_policy.read(self._places.trial(key)))} when the same command is run again"

    def _plan_another(self, key: str, trial: Any, *, losses: int = 0) -> None:
        """Write down the attempt after a lost process, or raise GaveUpError."""
        folder, job = self._places.trial(key), trial.config["job"]
        known, config = retry_policy.read(folder), self.trials[key].config
        retry_policy.write(folder, known.after(_error(trial), config=config, workers=job.workers, losses=losses))

    def _retry(self, key: str) -> None:
        self._view.retry(key, retry_policy.describe(retry_policy.read(self._places.trial(key))))

    def _end(self, key: str) -> None:
        entry = self._ledger.entries([key]).get(key)
        if entry is None:  # stopped before its Tune function could claim it
            return
        self.ended.add(key)
        result = result_of(entry, self._places)
        self._view.end(key, result.state, result.error or "")
        self._tracker.finish(self.trials[key], result)


def _error(trial: Any) -> Exception:
    """How a trial's process ended: what Tune has just written beside it, before it gets to the trial's storage."""
    path = trial.pickled_error_file
    if path is not None and Path(path).is_file():
        with suppress(EOFError, UnpicklingError):  # a full disk has room for a part of it
            error = cloudpickle.loads(Path(path).read_bytes())
            if isinstance(error, Exception):
                return error
    return RuntimeError("its process was lost")


def _key(trial: Any) -> str:
    return str(trial.config["job"].key)
