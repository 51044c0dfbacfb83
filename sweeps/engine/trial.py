"""One trial: the Tune function that holds its claim, and the Train worker that does its work.

Three processes take part. The Tune function claims the trial in the ledger and starts a Train run named by the
trial's key; the worker trains, evaluates and writes the trial's folder; the driver watches (runner.py).
"""

import json
import os
import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spt_core import config, evaluation, training
from spt_core.checkpoint import save_adapter
from spt_core.parallel import rank
from sweeps.engine import results
from sweeps.engine.ledger import Claim, Ledger

FINAL = "final"
"""Metric that marks the last report of a trial: completion is this mark, never a count of iterations."""
ELSEWHERE = "elsewhere"
"""Metric that marks a report of a trial that another driver is running."""
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
            outcome = {"error": _one_line(error)}
    if "error" in outcome:
        ledger.fail(job.key, owner=job.owner, error=outcome["error"])
        raise RuntimeError(outcome["error"])
    ledger.finish(job.key, owner=job.owner, metrics=outcome["metrics"])
    shutil.rmtree(Path(job.storage) / job.key, ignore_errors=True)  # the checkpoints have served
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
            num_workers=job.workers, use_gpu=bool(job.gpus_per_worker), resources_per_worker=resources
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

        backend = TorchConfig(backend="nccl" if job.gpus_per_worker else "gloo")
        result = TorchTrainer(work, torch_config=backend, **arguments).fit()
    outcome: dict[str, Any] = result.return_value
    return outcome


def work(values: dict[str, Any]) -> dict[str, Any]:
    """The Train worker: the trial itself, reported to Ray.

    Returns:
        `{"metrics": ...}`, or `{"error": ...}` for what a retry would only repeat; whatever else is raised, Ray
        Train tries again from the last checkpoint.
    """
    import ray.train

    job = Job(**values)

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        mine = checkpoint is not None and rank() == 0
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if mine else None)

    last = ray.train.get_checkpoint()
    if last is None:
        return run(job, report=report, resume_from=None)
    with last.as_directory() as folder:
        return run(job, report=report, resume_from=Path(folder))


def _run_here(job: Job) -> dict[str, Any]:
    """The trial in this very process, which keeps the frozen backbone for the next one."""
    from ray import tune

    kept = Path(job.storage) / job.key / "checkpoint"

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            fresh = kept.with_name("fresh")
            shutil.copytree(checkpoint, fresh, dirs_exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            fresh.rename(kept)
        tune.report(dict(metrics))

    return run(job, report=report, resume_from=kept if kept.is_dir() else None)


def run(job: Job, *, report: training.Report, resume_from: Path | None) -> dict[str, Any]:
    """Train, evaluate on test once, and write the trial's folder.

    Args:
        job: the trial.
        report: takes each row of metrics, and now and then a checkpoint folder to copy.
        resume_from: a checkpoint folder of the same trial.

    Returns:
        `{"metrics": ...}` or, for a fault that lies in the trial itself, `{"error": ...}`.
    """
    import torch

    folder = Path(job.folder)
    if (folder / results.METRICS).is_file():  # it had ended, and the one who should have recorded that is gone
        return {"metrics": json.loads((folder / results.METRICS).read_text())}
    started = time.perf_counter()
    torch.set_num_threads(job.config["compute"]["threads"] or job.cpus_per_worker)
    device = training.default_device() if job.gpus_per_worker else "cpu"
    history = _History(folder / results.HISTORY, resumed=resume_from is not None)

    def record(metrics: dict[str, float], checkpoint: Path | None) -> None:
        history.add(metrics)
        report(metrics, checkpoint)

    try:
        trial = config.parse(job.config)
        fitted = training.fit(trial, report=record, resume_from=resume_from, device=device)
        steps = fitted.metrics["train/steps"]
        evaluating = time.perf_counter()
        answer = evaluation.evaluate(
            fitted.model,
            fitted.tokenizer,
            fitted.splits.test,
            config=trial.evaluation,
            on_progress=lambda share: report({"step": steps, "total_steps": steps, "test/progress": share}, None),
        )
    except (ValueError, training.NonFiniteLossError) as error:
        return {"error": _one_line(error)}
    metrics = {
        **fitted.metrics,
        **answer.metrics,
        "test/seconds": time.perf_counter() - evaluating,
        "seconds": fitted.metrics["train/seconds"] + time.perf_counter() - evaluating,
        "worker/seconds": time.perf_counter() - started,
    }
    if rank() == 0:
        _write(folder, job=job, trial=trial, fitted=fitted, answer=answer, metrics=metrics)
    return {"metrics": metrics}


def _write(
    folder: Path,
    *,
    job: Job,
    trial: config.TrialConfig,
    fitted: training.Fitted,
    answer: evaluation.Evaluation,
    metrics: dict[str, float],
) -> None:
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(folder / results.ADAPTER, tensors=fitted.model.state_dict(), config=trial)
    pd.DataFrame([asdict(prediction) for prediction in answer.predictions]).to_parquet(folder / results.PREDICTIONS)
    (folder / results.CONFIG).write_text(json.dumps(job.config, indent=1))
    (folder / results.ENVIRONMENT).write_text(json.dumps(job.environment, indent=1))
    if job.code_diff:
        (folder / results.CODE_DIFF).write_text(job.code_diff)
    partial = folder / f"{results.METRICS}.partial"
    partial.write_text(json.dumps(metrics, indent=1))
    os.replace(partial, folder / results.METRICS)


class _History:
    """The rows of a trial, a line each; an attempt that resumes drops what it is going to report again."""

    def __init__(self, path: Path, *, resumed: bool) -> None:
        self._path = path
        self._trimmed = not resumed
        if not resumed and rank() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")

    def add(self, row: dict[str, float]) -> None:
        if rank() != 0:
            return
        if not self._trimmed and self._path.is_file():
            lines = self._path.read_text().splitlines()
            self._path.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] < row["step"]))
        self._trimmed = True
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _one_line(error: BaseException) -> str:
    """What went wrong, for a table: the innermost failure of a Train run, or the error itself."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return _one_line(next(iter(failures.values())))
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return _one_line(cause)
    text = "".join(traceback.format_exception_only(error)).strip()
    return text.splitlines()[-1] if text else type(error).__name__
