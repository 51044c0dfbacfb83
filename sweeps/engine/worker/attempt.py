"""The work of one trial, wherever it is done: train, evaluate, and leave the trial's folder."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from spt_core import config, endpoint, evaluation, training
from spt_core.checkpoint import save_adapter
from spt_core.device import default_device
from spt_core.parallel import rank
from sweeps.engine.store import provenance, trial_folder
from sweeps.engine.store.atomic_write import write_whole
from sweeps.engine.worker.failures import one_line
from sweeps.engine.worker.supervisor import PERCENT, Job
from sweeps.engine.worker.system_metrics import SystemMetrics


def run(job: Job, *, report: training.Report, resume_from: Path | None) -> dict[str, Any]:
    """Train, evaluate on test once, and write the trial's folder.

    Args:
        job: the trial.
        report: takes each row of metrics, and now and then a checkpoint folder to copy.
        resume_from: a checkpoint folder of the same trial.

    Returns:
        `{"metrics": ...}` or, for a fault that lies in the trial itself, `{"error": ...}`.
    """
    folder = Path(job.folder)
    if (folder / trial_folder.METRICS).is_file():  # it had ended, and the one who should have recorded that is gone
        return {"metrics": json.loads((folder / trial_folder.METRICS).read_text())}
    started = time.perf_counter()
    compute = job.compute or job.config["compute"]
    torch.set_num_threads(compute["threads"] or job.cpus_per_worker)
    device = default_device() if job.gpus_per_worker else "cpu"
    history = _History(folder / trial_folder.HISTORY, resumed=resume_from is not None)
    system = SystemMetrics(device)

    def record(metrics: dict[str, float], checkpoint: Path | None) -> None:
        metrics = {**metrics, **system.sample()}
        history.add(metrics)
        report({**metrics, PERCENT: 100 * metrics["step"] / max(1.0, metrics["total_steps"])}, checkpoint)

    try:
        trial = config.parse({**job.config, "compute": compute})
        served = trial.method == "in_context" and trial.in_context.endpoint is not None
        fitted = None if served else training.fit(trial, report=record, resume_from=resume_from, device=device)
        trained = _UNTRAINED if fitted is None else fitted.metrics
        steps = trained["train/steps"]
        evaluating = time.perf_counter()

        def on_progress(share: float) -> None:
            report({"step": steps, "total_steps": steps, "test/progress": share}, None)

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
    if rank() == 0:
        _write(folder, job=job, trial=trial, fitted=fitted, answer=answer, metrics=metrics, device=device)
    return {"metrics": metrics}


_UNTRAINED = {"train/steps": 0.0, "train/seconds": 0.0, "trainable_parameters": 0.0}
"""The training metrics of a trial that a server replies to."""


def _write(
    folder: Path,
    *,
    job: Job,
    trial: config.TrialConfig,
    fitted: training.Fitted | None,
    answer: evaluation.Evaluation,
    metrics: dict[str, float],
    device: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if fitted is not None:
        save_adapter(folder / trial_folder.ADAPTER, tensors=fitted.model.state_dict(), config=trial)
    if answer.predictions:
        pd.DataFrame([asdict(prediction) for prediction in answer.predictions]).to_parquet(
            folder / trial_folder.PREDICTIONS
        )
    (folder / trial_folder.CONFIG).write_text(json.dumps(job.config, indent=1))
    environment = {**job.environment, "execution": provenance.execution(device)}
    (folder / trial_folder.ENVIRONMENT).write_text(json.dumps(environment, indent=1))
    if job.code_diff:
        (folder / trial_folder.CODE_DIFF).write_text(job.code_diff)
    write_whole(folder / trial_folder.METRICS, json.dumps(metrics, indent=1))


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
            self._path.write_text("".join(f"{line}\n" for line in lines if _step(line) < row["step"]))
        self._trimmed = True
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _step(line: str) -> float:
    """The step of a row; that of a line cut short, when its writer was killed, is beyond all."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf
