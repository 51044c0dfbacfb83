"""Passes what happens to a sweep's Tune trials on to the person watching and to MLflow."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback

from sweeps.engine.driver.progress import ProgressView
from sweeps.engine.driver.recall import result_of
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.store import trial_folder
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.ledger import Ledger
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.tracking.tracker import Tracker
from sweeps.engine.worker import retry_policy
from sweeps.engine.worker.failures import read_tune_error
from sweeps.engine.worker.job import Ended, MetricRow, Retrying, RunsElsewhere, Scoring, key_of, message_of


class TuneCallback(Callback):
    """Tune's callback in the driver.

    Args:
        plan: the sweep.
        layout: where the trials' folders are.
        ledger: says how a trial ended.
        owner: of this driver's claims.
        workers: of each trial.
        view: the person's.
        tracker: MLflow's.

    Attributes:
        plan: the sweep; once its search has ended, with the cells that it found.
        trials: all that are known so far, by key.
        reused: keys of those that had finished before.
        ended: keys of the trials that ended while the sweep went on.
    """

    def __init__(
        self,
        plan: Plan,
        layout: OutputLayout,
        ledger: Ledger,
        *,
        owner: str,
        workers: int,
        view: ProgressView,
        tracker: Tracker,
    ) -> None:
        self.plan = plan
        self.trials = dict(plan.known)
        self.reused: set[str] = set()
        self.ended: set[str] = set()
        self._layout, self._ledger, self._view, self._tracker = layout, ledger, view, tracker
        self._owner, self._workers = owner, workers

    def add(self, trial: Trial) -> None:
        """A trial that a search proposes or found."""
        self.trials[trial.key] = trial
        self._view.add(trial)

    def reuse(self, trial: Trial, result: TrialResult) -> None:
        """A trial had ended before; it says in which sweep, where that was another."""
        self.reused.add(trial.key)
        origin = trial_folder.read_environment(result.folder).get("sweep", "")
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
        key = key_of(trial.config)
        self._view.start(key)
        self._tracker.begin(self.trials[key])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A trial said something."""
        key, message = key_of(trial.config), message_of(result)
        if isinstance(message, RunsElsewhere):
            self._view.wait(key)
        elif isinstance(message, Retrying):
            self._retry(key)
        elif isinstance(message, MetricRow):
            self._view.train(key, message)
            self._tracker.progress(self.trials[key], message)
        elif isinstance(message, Scoring):
            self._view.test(key, message.share)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, or was stopped."""
        key, last = key_of(trial.config), message_of(trial.last_result)
        if key in self.trials and last is not None and not isinstance(last, Ended):
            self._ledger.prune(key, owner=self._owner)  # unless it ended before it could be stopped
        self._end(key)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process that held a trial's claim was lost, and Tune is going to start another."""
        key = key_of(trial.config)
        try:
            self._plan_another(key, trial)
        except retry_policy.GaveUpError as final:  # Tune counts these
            self._view.retry(key, str(final))
        else:
            self._retry(key)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process that held a trial's claim was lost once too often, or before it could begin."""
        key = key_of(trial.config)
        if trial.num_failures > retry_policy.MOST_LOSSES:
            self._ledger.fail(key, owner=self._owner, error=self._give_up(key, trial))
        else:
            self._ledger.release(key, owner=self._owner)  # it is handed out again
        self._end(key)

    def _give_up(self, key: str, trial: Any) -> str:
        """Why a trial is not tried once more by this run."""
        try:
            self._plan_another(key, trial, losses=retry_policy.MOST_LOSSES)
        except retry_policy.GaveUpError as final:
            return str(final)
        # It lacked memory and could be smaller still: what it has learnt is kept for the next run.
        why = retry_policy.describe(trial_folder.read_retries(self._layout.trial(key)))
        return f"{why} when the same command is run again"

    def _plan_another(self, key: str, trial: Any, *, losses: int = 0) -> None:
        """Write down the attempt after a lost process, or raise GaveUpError."""
        folder, config = self._layout.trial(key), self.trials[key].config
        so_far = trial_folder.read_retries(folder)
        following = retry_policy.next_attempt(
            so_far, _error(trial), config=config, workers=self._workers, losses=losses
        )
        trial_folder.write_retries(folder, following)

    def _retry(self, key: str) -> None:
        self._view.retry(key, retry_policy.describe(trial_folder.read_retries(self._layout.trial(key))))

    def _end(self, key: str) -> None:
        entry = self._ledger.entries([key]).get(key)
        if entry is None:  # stopped before its Tune function could claim it
            return
        self.ended.add(key)
        result = result_of(entry, self._layout)
        self._view.end(key, result.state, result.error or "")
        self._tracker.finish(self.trials[key], result)


def _error(trial: Any) -> Exception:
    """How a trial's process ended, by the text that Tune has just written beside it."""
    try:
        said = Path(trial.error_file).read_text(errors="replace")
    except (TypeError, OSError):
        said = ""
    return read_tune_error(said)
