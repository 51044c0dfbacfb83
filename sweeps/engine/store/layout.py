"""Where the files of sweeps are, and what is there of their trials."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from sweeps.engine.plan.plan import Plan
from sweeps.engine.store import shared_storage as storage
from sweeps.engine.store.ledger import LEDGER, Entry, Ledger
from sweeps.engine.store.trial_folder import TrialResult


@dataclass(frozen=True)
class Places:
    """Where a sweep's files are: below one output folder of the driver's, but for a study that is elsewhere.

    Attributes:
        output: that folder.
        study: URL of an Optuna storage; None is a file in the output folder.
        storage: a folder or the URI of a bucket through which trials on other nodes hand over their files and
            checkpoints; None where all nodes see the output folder.
    """

    output: Path
    study: str | None = None
    storage: str | None = None

    @property
    def ledger(self) -> str:
        """URL of the ledger, shared by all sweeps of this output folder."""
        return f"sqlite:///{self.output / LEDGER}"

    @property
    def tracking(self) -> str:
        """Default MLflow store."""
        return f"sqlite:///{self.output / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        """Where MLflow keeps files when its store is the default one."""
        return (self.output / "mlartifacts").as_uri()

    @property
    def studies(self) -> str:
        """URL of Optuna's studies."""
        return self.study or f"sqlite:///{self.output / 'optuna.db'}"

    @property
    def checkpoints(self) -> str:
        """Checkpoints of trials that are running or were interrupted."""
        return storage.join(self.storage, "checkpoints") if self.storage else str(self.output / "checkpoints")

    @property
    def train_runs(self) -> str:
        """Where Ray Train has a folder of its own; it keeps nothing in it that is asked for."""
        return storage.join(self.storage, "train") if self.storage else str(self.output / "tune")

    def handed_over(self, key: str) -> str:
        """Where a trial's worker on another node leaves its files; empty where it writes to the trial's folder."""
        return storage.join(self.storage, "files", key) if self.storage else ""

    def trial(self, key: str) -> Path:
        """A trial's folder."""
        return self.output / "trials" / key

    def report(self, plan: Plan) -> Path:
        """The folder of a sweep's report."""
        return self.output / plan.sweep_id


def recorded(plan: Plan, places: Places) -> dict[str, Entry]:
    """What the ledger holds of the trials of a plan, by key. Makes nothing where nothing is yet."""
    if not (places.output / LEDGER).is_file():
        return {}
    return Ledger(places.ledger).entries(list(plan.known))


def recall(plan: Plan, places: Places) -> dict[str, TrialResult]:
    """The trials of a plan that have finished before, by key. Makes nothing where nothing is yet."""
    finished = [entry for entry in recorded(plan, places).values() if entry.state == "finished"]
    return {entry.key: replace(result_of(entry, places), reused=True) for entry in finished}


def tuned(plan: Plan, places: Places) -> Plan:
    """The plan as its tuning round left it, if it has one that has ended."""
    return plan.tuned(recorded(plan, places)) if plan.awaits_tuning else plan


def forget(plan: Plan, places: Places) -> None:
    """Drop the results of a plan's trials, for `--rerun`; those that another driver is running stay."""
    ledger, keys = Ledger(places.ledger), {**plan.known, **tuned(plan, places).known}
    ledger.forget(list(keys))
    left = ledger.entries(list(keys))
    for key in keys:
        if key not in left:
            shutil.rmtree(places.trial(key), ignore_errors=True)
            storage.remove(storage.join(places.checkpoints, key))
            if handed_over := places.handed_over(key):
                storage.remove(handed_over)


def result_of(entry: Entry, places: Places) -> TrialResult:
    """What the ledger says of a trial that nobody runs any more."""
    state = "interrupted" if entry.state == "running" else entry.state
    return TrialResult(entry.key, state, entry.metrics, places.trial(entry.key), error=entry.error)
