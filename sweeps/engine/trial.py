"""One trial: the Tune function that holds its claim, and the Train worker that does its work.

Three processes take part. The Tune function claims the trial in the ledger and starts a Train run named by the
trial's key; the worker trains, evaluates and writes the trial's folder (worker.py); the driver watches (runner.py).
Only the worker needs torch, whose import is dear: nothing here imports it before the worker's own work begins.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sweeps.engine import storage
from sweeps.engine.ledger import Claim, Ledger

FINAL = "final"
"""Metric that marks the last report of a trial: completion is this mark, never a count of iterations."""
ELSEWHERE = "elsewhere"
"""Metric that marks a report of a trial that another driver is running."""
PERCENT = "percent"
"""Metric of a row: the share of the training budget that is spent, by which early stopping compares trials."""
WORKER_RETRIES = 3
"""How often a lost worker is replaced before its trial fails."""


@dataclass(frozen=True)
class Job:
    """All that a trial needs to run anywhere; plain values.

    Attributes:
        key: of the trial.
        config: nested, as it runs.
        environment: key, identity and provenance, written beside the results.
        code_diff: uncommitted changes of the driver's checkout.
        folder: where the trial's files go.
        storage: where its Train run keeps checkpoints while it runs.
        ledger: URL of the ledger.
        owner: of the claim: the driver that asked for the trial.
        workers: Train workers; 0 trains inside the Tune function.
        cpus_per_worker: logical CPUs, and torch threads, of each.
        gpus_per_worker: may be a fraction; 0 trains on the CPU.
        verbose: let Ray Train say what it does.
        handed_over: where a worker on another node leaves the trial's files; empty where it writes to `folder`.
        spread: the workers go to as many nodes as there are, and not to as few.
    """

    key: str
    config: dict[str, Any]
    environment: dict[str, Any]
    code_diff: str
    folder: str
    storage: str
    ledger: str
    owner: str
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    verbose: bool
    handed_over: str = ""
    spread: bool = False


def supervise(values: dict[str, Any]) -> None:
    """The Tune function: claim the trial, run it, record how it ended.

    A trial that another driver is running is waited for; one that has finished is answered from the ledger.
    """
    from ray import tune

    job = Job(**values["job"])
    ledger = Ledger(job.ledger)
    waiting = False
    while not ledger.claim(job.key, owner=job.owner):
        entry = ledger.entries([job.key]).get(job.key)
        if entry is not None and entry.state == "finished":
            tune.report({**entry.metrics, "step": entry.metrics.get("train/steps", 0.0), FINAL: 1.0})
            return
        if not waiting:
            tune.report({"step": 0.0, ELSEWHERE: 1.0})
            waiting = True
        time.sleep(2)
    with Claim(ledger, job.key, owner=job.owner):
        try:
            outcome = _run_here(job) if job.workers == 0 else _run_in_workers(job)
        except Exception as error:
            outcome = {"error": one_line(error)}
    if "error" in outcome:
        ledger.fail(job.key, owner=job.owner, error=outcome["error"])
        raise RuntimeError(outcome["error"])
    if job.handed_over:
        storage.fetch(job.handed_over, Path(job.folder))
    ledger.finish(job.key, owner=job.owner, metrics=outcome["metrics"])
    storage.remove(storage.join(job.storage, job.key))  # the checkpoints have served
    tune.report({**outcome["metrics"], "step": outcome["metrics"]["train/steps"], FINAL: 1.0})


def _run_in_workers(job: Job) -> dict[str, Any]:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig
    from ray.tune.integration.ray_train import TuneReportCallback

    resources = {"CPU": float(job.cpus_per_worker)}
    if job.gpus_per_worker:
        resources["GPU"] = job.gpus_per_worker
    arguments: dict[str, Any] = {
        "train_loop_config": asdict(job),
        "scaling_config": ScalingConfig(
            num_workers=job.workers,
            use_gpu=bool(job.gpus_per_worker),
            resources_per_worker=resources,
            placement_strategy="SPREAD" if job.spread else "PACK",
        ),
        "run_config": RunConfig(
            name=job.key,
            storage_path=job.storage,
            callbacks=[TuneReportCallback()],
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=WORKER_RETRIES, controller_failure_limit=1),
            logging_config=LoggingConfig(log_level="INFO" if job.verbose else "ERROR"),
        ),
    }
    if job.workers == 1:
        # No process group to set up: the plain trainer starts two seconds sooner than the one for torch.
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        result = DataParallelTrainer(work, **arguments).fit()
    else:
        from ray.train.torch import TorchConfig, TorchTrainer
        from torch.distributed import is_nccl_available

        # GPUs that are only counted, as in tests, come with a torch that has no NCCL.
        backend = "nccl" if job.gpus_per_worker and is_nccl_available() else "gloo"
        result = TorchTrainer(work, torch_config=TorchConfig(backend=backend), **arguments).fit()
    outcome: dict[str, Any] = result.return_value
    return outcome


def work(values: dict[str, Any]) -> dict[str, Any]:
    """The Train worker: the trial itself, reported to Ray.

    Returns:
        `{"metrics": ...}`, or `{"error": ...}` for what a retry would only repeat; whatever else is raised, Ray
        Train tries again from the last checkpoint.
    """
    from spt_core.parallel import rank

    job = Job(**values)
    if not job.handed_over:
        return _work(job, on_checkpoint=lambda: None)
    with tempfile.TemporaryDirectory(prefix="spt-trial-") as scratch:
        folder = Path(scratch)
        # What an attempt on another node left: its history, or all of a trial whose end nobody heard of.
        storage.fetch(job.handed_over, folder)

        # The history keeps up with the checkpoints, so that an attempt elsewhere goes on with both.
        outcome = _work(replace(job, folder=scratch), on_checkpoint=lambda: storage.put(folder, job.handed_over))
        if rank() == 0 and "metrics" in outcome:
            storage.put(folder, job.handed_over)
        return outcome


def _work(job: Job, *, on_checkpoint: Callable[[], None]) -> dict[str, Any]:
    import ray.train

    from spt_core.parallel import rank
    from sweeps.engine.worker import run

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        mine = checkpoint is not None and rank() == 0
        if mine:
            on_checkpoint()
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if mine else None)

    last = ray.train.get_checkpoint()
    if last is None:
        return run(job, report=report, resume_from=None)
    with last.as_directory() as folder:
        return run(job, report=report, resume_from=Path(folder))


def _run_here(job: Job) -> dict[str, Any]:
    """The trial in this very process, which keeps the frozen backbone for the next one."""
    from ray import tune

    from sweeps.engine.worker import run

    kept = Path(job.storage) / job.key / "checkpoint"

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            fresh = kept.with_name("fresh")
            shutil.copytree(checkpoint, fresh, dirs_exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            fresh.rename(kept)
        tune.report(dict(metrics))

    return run(job, report=report, resume_from=kept if kept.is_dir() else None)


def one_line(error: BaseException) -> str:
    """What went wrong, for a table: the innermost failure of a Train run, or the error itself."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return one_line(next(iter(failures.values())))
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
