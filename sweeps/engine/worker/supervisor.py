"""One trial: the Tune function that holds its claim, and the attempts at its work.

Three processes take part. The Tune function claims the trial in the ledger and hands it to the worker of its Train run
(train_run.py), or is the worker itself; the worker trains, evaluates and writes the trial's folder (worker.py); the
driver watches (watching.py). An attempt that broke off is tried again here and nowhere else, as retries.py says.
Only the worker needs torch, whose import is dear: nothing here imports it before the worker's own work begins.
"""

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spt_core import config
from sweeps.engine.design.metrics import DEV_NLL
from sweeps.engine.store import shared_storage as storage
from sweeps.engine.store.ledger import Claim, Ledger
from sweeps.engine.worker import retry_policy
from sweeps.engine.worker.failures import ran_out_of_memory

FINAL = "final"
"""Metric that marks the last report of a trial: completion is this mark, never a count of iterations."""
ELSEWHERE = "elsewhere"
"""Metric that marks a report of a trial that another driver is running."""
PERCENT = "percent"
"""Metric of a row: the share of the training budget that is spent, by which early stopping compares trials."""
ROW = "row"
"""All of a row, in a report that has it: see `as_report`."""
RETRIES = "retries"
"""Metric that marks the report of a trial that is tried again: how often it was."""


@dataclass(frozen=True)
class Job:
    """All that a trial needs to run anywhere; plain values, which nobody changes.

    Attributes:
        key: of the trial.
        config: nested, as it was asked for.
        environment: key, identity and provenance, written beside the results.
        folder: where the trial's files go.
        storage: where checkpoints are kept while it runs.
        train_runs: where Ray Train has a folder of its own.
        ledger: URL of the ledger.
        owner: of the claim: the driver that asked for the trial.
        workers: Train workers; 0 trains inside the Tune function.
        cpus_per_worker: logical CPUs, and torch threads, of each.
        gpus_per_worker: may be a fraction; 0 trains on the CPU.
        verbose: let Ray Train say what it does.
        compute: the config's `compute` as this attempt uses it; None is as it was asked for.
        handed_over: where a worker on another node leaves the trial's files; empty where it writes to `folder`.
        spread: the workers go to as many nodes as there are, and not to as few.
        code_diff: uncommitted changes of the driver's checkout, which a sweep hands over once, for all of its trials.
    """

    key: str
    config: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    folder: str
    storage: str
    train_runs: str
    ledger: str
    owner: str
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    verbose: bool
    compute: dict[str, Any] | None = None
    handed_over: str = ""
    spread: bool = False
    code_diff: str = field(default="", repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Job":
        # Tune copies what a search proposes, several times, and keeps the copies for as long as the driver lives.
        return self


def as_report(row: Mapping[str, float]) -> dict[str, Any]:
    """A row as Tune should get it: as one value, beside what a scheduler compares trials by.

    Of every number in a report Tune keeps statistics for as long as the driver lives.
    """
    return {ROW: tuple(row.items()), **{name: row[name] for name in (PERCENT, DEV_NLL) if name in row}}


def supervise(values: dict[str, Any], *, code_diff: str) -> None:
    """The Tune function: claim the trial, run it, record how it ended.

    A trial that another driver is running is waited for; one that has finished is answered from the ledger.

    Args:
        values: the job of the trial, as `job`.
        code_diff: of all jobs.
    """
    from ray import tune

    job: Job = replace(values["job"], code_diff=code_diff)
    ledger = Ledger(job.ledger)
    waiting = False
    while not ledger.claim(job.key, owner=job.owner):
        entry = ledger.entries([job.key]).get(job.key)
        if entry is not None and entry.state == "finished":
            tune.report({FINAL: 1.0})
            return
        if not waiting:
            tune.report({ELSEWHERE: 1.0})
            waiting = True
        time.sleep(2)
    with Claim(ledger, job.key, owner=job.owner):
        outcome = _attempt_until_it_ends(job)
    if "error" in outcome:
        ledger.fail(job.key, owner=job.owner, error=outcome["error"])
        # Not raised: what Tune tries again is a process that was lost, and this one has said how it ended.
        tune.report({FINAL: 1.0})
        return
    if job.handed_over:
        storage.fetch(job.handed_over, Path(job.folder))
    ledger.finish(job.key, owner=job.owner, metrics=outcome["metrics"])
    storage.remove(storage.join(job.storage, job.key))  # the checkpoints have served
    # The metrics are the ledger's to tell: Tune would keep statistics of each for as long as the driver lives.
    tune.report({FINAL: 1.0})


def _attempt_until_it_ends(job: Job) -> dict[str, Any]:
    """Run a trial as often as retries.py allows: `{"metrics": ...}` or `{"error": ...}`."""
    from ray import tune

    folder, losses = Path(job.folder), 0
    so_far = retry_policy.read(folder)
    while True:
        now = replace(job, compute={**job.config["compute"], **so_far.layout})
        try:
            if job.workers == 0:
                return attempt(now, report=tune.report)
            from sweeps.engine.worker.train_run import TrainRun

            return TrainRun.of_this_process(now).attempt(now, report=tune.report)
        except Exception as error:
            try:
                so_far = so_far.after(error, config=config.parse(job.config), workers=job.workers, losses=losses)
            except retry_policy.GaveUpError as final:
                return {"error": str(final)}
            losses += not ran_out_of_memory(error)
        _free_memory()  # out here, where no traceback holds the tensors of the attempt
        retry_policy.write(folder, so_far)
        tune.report({RETRIES: float(len(so_far.reasons))})


def _free_memory() -> None:
    """What an attempt in this very process has left."""
    from spt_core.cpu import memory

    gc.collect()
    memory.give_back()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def attempt(job: Job, *, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """One attempt at a trial in this very process, which keeps the frozen backbone for the next one.

    Args:
        job: the trial. Its last checkpoint is gone on with, whoever left it.
        report: takes each row, as Tune should get it; of several workers the first one's alone.

    Returns:
        `{"metrics": ...}`, or `{"error": ...}` for what a retry would only repeat; whatever else is raised is tried
        again from the last checkpoint.
    """
    if not job.handed_over:
        return _attempt(job, report=report)
    with tempfile.TemporaryDirectory(prefix="spt-trial-") as scratch:
        folder = Path(scratch)
        # What an attempt on another node left: its history, or all of a trial whose end nobody heard of.
        storage.fetch(job.handed_over, folder)
        outcome = _attempt(replace(job, folder=scratch), report=report)
        if is_first() and "metrics" in outcome:
            storage.put(folder, job.handed_over)
        return outcome


def _attempt(job: Job, *, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from sweeps.engine.worker.attempt import run

    checkpoints = storage.join(job.storage, job.key)

    def on_row(metrics: dict[str, float], checkpoint: Path | None) -> None:
        if not is_first():
            return
        if checkpoint is not None:
            if job.handed_over:  # the history keeps up with the checkpoints: an attempt elsewhere goes on with both
                storage.put(Path(job.folder), job.handed_over)
            storage.keep(checkpoint, checkpoints)
        report(as_report(metrics))

    with tempfile.TemporaryDirectory(prefix="spt-checkpoint-") as folder:
        found = storage.fetch_kept(checkpoints, Path(folder))
        return run(job, report=on_row, resume_from=Path(folder) if found else None)


def is_first() -> bool:
    """Whether this worker is the one that speaks for all of its trial's."""
    from spt_core.parallel import rank

    return rank() == 0
