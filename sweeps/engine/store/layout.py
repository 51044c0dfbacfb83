"""Where the files of sweeps are."""

from dataclasses import dataclass
from pathlib import Path

from sweeps.engine.store.ledger import LEDGER
from sweeps.engine.store.shared_storage import join


@dataclass(frozen=True)
class OutputLayout:
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
        return join(self.storage, "checkpoints") if self.storage else str(self.output / "checkpoints")

    @property
    def train_runs(self) -> str:
        """Where Ray Train has a folder of its own; it keeps nothing in it that is asked for."""
        return join(self.storage, "train") if self.storage else str(self.output / "tune")

    def handed_over(self, key: str) -> str:
        """Where a trial's worker on another node leaves its files; empty where it writes to the trial's folder."""
        return join(self.storage, "files", key) if self.storage else ""

    def trial(self, key: str) -> Path:
        """A trial's folder."""
        return self.output / "trials" / key

    def report(self, sweep_id: str) -> Path:
        """The folder of a sweep's report."""
        return self.output / sweep_id
