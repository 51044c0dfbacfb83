"""One attempt at a trial, in whichever process trains it: train, evaluate, and leave the trial's folder."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from spt_core import config, endpoint, evaluation, training
from spt_core.checkpoint import save_adapter
from spt_core.device import default_device
from spt_core.parallel import rank
from sweeps.engine.store import provenance, shared_storage, trial_folder
from sweeps.engine.worker.failures import one_line
from sweeps.engine.worker.job import Job, Message, MetricRow, Say, Scoring
from sweeps.engine.worker.system_metrics import SystemMetrics

Outcome = Mapping[str, Any]
"""`{"metrics": ...}`, or `{"error": ...}` for a fault of the trial itself, which a retry would only repeat."""


def attempt(job: Job, *, say: Say) -> Outcome:
    """One attempt at a trial in this very process, which keeps the frozen backbone for the next one.

    Args:
        job: the trial. It goes on from its last checkpoint, whoever left that.
        say: takes each message; of several workers the first one's alone.

    Raises:
        Exception: whatever a further attempt may not meet again.
    """
    if not job.handed_over:
        return _resume(job, say=say)
    with tempfile.TemporaryDirectory(prefix="spt-trial-") as scratch:
        folder = Path(scratch)
        # What an attempt on another node left: its history, or all of a trial whose end nobody heard of.
        shared_storage.fetch(job.handed_over, folder)
        outcome = _resume(replace(job, folder=scratch), say=say)
        if is_first() and "metrics" in outcome:
            shared_storage.put(folder, job.handed_over)
        return outcome


def is_first() -> bool:
    """Whether this worker is the one that speaks for all of its trial's."""
    return rank() == 0


def _resume(job: Job, *, say: Say) -> Outcome:
    checkpoints = shared_storage.join(job.checkpoints, job.key)

    def keep(checkpoint: Path) -> None:
        if job.handed_over:  # the history keeps up with the checkpoints: an attempt elsewhere goes on with both
            shared_storage.put(Path(job.folder), job.handed_over)
        shared_storage.keep(checkpoint, checkpoints)

    with tempfile.TemporaryDirectory(prefix="spt-checkpoint-") as folder:
        found = shared_storage.fetch_kept(checkpoints, Path(folder))
        return run(job, say=say, keep=keep, resume_from=Path(folder) if found else None)


def _keep_nothing(checkpoint: Path) -> None:
    pass


def run(
    job: Job, *, say: Say, keep: Callable[[Path], None] = _keep_nothing, resume_from: Path | None = None
) -> Outcome:
    """Train, evaluate on test once, and write the trial's folder.

    Args:
        job: the trial.
        say: takes each message, of the first worker.
        keep: takes a checkpoint folder, now and then, and copies it; before the message of that moment.
        resume_from: a checkpoint folder of the same trial.
    """
    folder = Path(job.folder)
    if (ended := trial_folder.read_metrics(folder)) is not None:  # and the one who should have recorded that is gone
        return {"metrics": ended}
    started = time.perf_counter()
    compute = job.compute or job.config["compute"]
    torch.set_num_threads(compute["threads"] or job.cpus_per_worker)
    device = default_device() if job.gpus_per_worker else "cpu"
    history = trial_folder.HistoryWriter(folder, resumed=resume_from is not None) if is_first() else None
    system = SystemMetrics(device)

    def tell(message: Message) -> None:
        if history is not None:
            say(message)

    def record(metrics: dict[str, float], checkpoint: Path | None) -> None:
        row = {**metrics, **system.sample()}
        if history is None:
            return
        history.add(row)
        if checkpoint is not None:
            keep(checkpoint)
        say(MetricRow.of(row))

    try:
        trial = config.parse({**job.config, "compute": compute})
        served = trial.method == "in_context" and trial.in_context.endpoint is not None
        fitted = None if served else training.fit(trial, report=record, resume_from=resume_from, device=device)
        trained = _UNTRAINED if fitted is None else fitted.metrics
        evaluating = time.perf_counter()

        def on_progress(share: float) -> None:
            tell(Scoring(share))

        if fitted is None:
            answer = endpoint.evaluate(trial, on_progress=on_progress)
        else:
            answer = evaluation.evaluate(
                fitted.model,
                fitted.tokenizer,
                fitted.splits.scored(trial.evaluation.split),
                config=trial.scoring,
                dev=fitted.splits.dev,
                seed=trial.data.split_seed,
                on_progress=on_progress,
            )
    except (ValueError, training.NonFiniteLossError) as error:
        return {"error": one_line(error)}
    found = answer.metrics
    if trial.evaluation.split == "dev":
        found = {name.replace("test/", "dev/"): value for name, value in found.items()}
    metrics = {
        **found,
        **trained,
        "test/seconds": time.perf_counter() - evaluating,
        "seconds": trained["train/seconds"] + time.perf_counter() - evaluating,
        "worker/seconds": time.perf_counter() - started,
    }
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        if fitted is not None:
            save_adapter(folder / trial_folder.ADAPTER, tensors=fitted.model.state_dict(), config=trial)
        trial_folder.write_finished(
            folder,
            config=job.config,
            environment={**job.environment, "execution": provenance.execution(device)},
            code_diff=job.code_diff,
            predictions=[asdict(prediction) for prediction in answer.predictions],
            metrics=metrics,
        )
    return {"metrics": metrics}


_UNTRAINED = {"train/steps": 0.0, "train/seconds": 0.0, "trainable_parameters": 0.0}
"""The training metrics of a trial that a server replies to."""
