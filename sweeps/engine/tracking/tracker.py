"""What a sweep shows in MLflow, write-behind.

The picture is a projection: the truth is the ledger and each trial's folder. So anything here may be sent twice,
late, or by a later run of the same sweep, and MLflow shows it once; and the sweep never waits for a server.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.store.ledger import Ledger, owner_here
from sweeps.engine.store.redact import redact
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.tracking.mlflow_runs import SweepRuns, now
from sweeps.engine.tracking.outbox import Outbox
from sweeps.engine.tracking.uri import check
from sweeps.engine.worker.job import MetricRow

logger = logging.getLogger(__name__)


class Tracker:
    """Shows one sweep in MLflow. Every method returns at once; one thread delivers, in order, as the server allows.

    Args:
        uri: where to; see `tracking/uri.check`, which should have been asked before.
        plan: the sweep. Its parent run is found again by the plan's `sweep_id`, its children by their trial keys.
        artifacts: folder or URI for the files of a new experiment; None leaves it to the server.
        facts: of this run of the sweep (versions, commit, machine): tags of the parent.
        ledger: if given, drivers that share it never make a run twice, even at the same moment.
    """

    def __init__(
        self,
        uri: str,
        *,
        plan: Plan,
        artifacts: str | None,
        facts: Mapping[str, str],
        ledger: Ledger | None = None,
    ) -> None:
        self._uri = uri
        self._make = partial(
            SweepRuns, uri, plan=plan, artifacts=artifacts, facts=dict(facts), ledger=ledger, owner=owner_here()
        )
        self._runs: SweepRuns | None = None  # the delivering thread's own
        self._waiting: defaultdict[str, list[MetricRow]] = defaultdict(list)
        self._ended = False
        self._missing: tuple[str, ...] | None = None
        self._outbox = Outbox(f"MLflow at {redact(uri)}", is_there=self._is_there, explain=_explain)
        self._send("the sweep", lambda runs: None)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, trial: Trial) -> None:
        """A trial starts, or goes on: its child is RUNNING.

        A child that was complete goes to MLflow's trash, and a new one takes its place: the trial is measured anew.
        """
        at = now()
        self._send(f"start of {trial.label}", lambda runs: runs.begin(trial, at))

    def progress(self, trial: Trial, row: MetricRow) -> None:
        """Metrics of one moment of a trial."""
        self._waiting[trial.key].append(row)
        at = now()
        self._send(f"progress of {trial.label}", lambda runs: self._progress(runs, trial, at))

    def finish(self, trial: Trial, result: TrialResult) -> None:
        """A trial ended: its child gets what its folder holds, and its status. A complete child is left alone."""
        at = now()
        self._send(f"end of {trial.label}", lambda runs: runs.finish(trial, result, at))

    def replan(self, plan: Plan) -> None:
        """The sweep as a search left it: with its best configs as cells."""
        self._send("the plan", lambda runs: runs.replan(plan))

    def summarise(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """The sweep ended: the files of its report and its main figures go to the parent, which is FINISHED."""
        self._ended, at = True, now()
        self._send("the report", lambda runs: runs.summarise(folder, metrics, at))

    def close(self, timeout: float = 30.0) -> tuple[str, ...]:
        """Deliver the rest, once; the parent of a sweep that was not summarised is KILLED.

        Args:
            timeout: seconds in which nothing arrives, after which the rest is left to the next run.

        Returns:
            What did not arrive, in words, which is also logged. The next run of the sweep delivers it.
        """
        if self._missing is not None:
            return self._missing
        if not self._ended:
            at = now()
            self._send("the end of the sweep", lambda runs: runs.end("KILLED", at))
        self._missing = missing = self._outbox.close(timeout)
        if missing:
            logger.warning(
                "MLflow at %s did not get %s (%d in all): running the sweep again delivers it",
                redact(self._uri),
                ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else ""),
                len(missing),
            )
        return missing

    def _is_there(self) -> bool:
        try:
            check(self._uri)
        except ValueError:
            return False
        return True

    def _send(self, what: str, deliver: Callable[[SweepRuns], None]) -> None:
        self._outbox.add(what, lambda: deliver(self._found()))

    # From here on: the delivering thread. Each letter may be delivered twice.

    def _found(self) -> SweepRuns:
        if self._runs is None:
            self._runs = self._make()
        return self._runs

    def _progress(self, runs: SweepRuns, trial: Trial, at: int) -> None:
        rows = list(self._waiting[trial.key])
        if rows:  # else an earlier letter took them along
            runs.progress(trial, rows, at)
            del self._waiting[trial.key][: len(rows)]


def _explain(error: Exception) -> str:
    """In one line: of a database what its driver said, around which SQLAlchemy and MLflow put a page."""
    chain: BaseException | None = error
    while chain is not None and not hasattr(chain, "orig"):
        chain = chain.__cause__ or chain.__context__
    return redact(str(error if chain is None else chain.orig)).partition("\n")[0]
