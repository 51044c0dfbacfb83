"""A plan that needs no model and no data, and the files and messages of its trials."""

import json
from pathlib import Path

from spt_core.config import TrialConfig
from sweeps.engine.design.designs import Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.tracking.tracker import Tracker
from sweeps.engine.worker.job import MetricRow

FACTS = {"git.commit": "abc123", "store": "postgresql://ann:hunter2@db/spt"}
HISTORY = [{"step": step, "total_steps": 4, "seconds": step / 2, "dev/nll": 4.0 - step / 8} for step in (0, 2, 4)]
ROWS = [MetricRow.of(row) for row in HISTORY]
FINAL = {"test/f1": 17.5, "test/nll": 3.25, "dev/nll": 3.5}
FILES = {"config.json", "environment.json", "adapter", "predictions.parquet", "history.jsonl", "metrics.json"}


def make_plan(num_prompts: tuple[int, ...] = (1, 4), *, name: str = "k_sweep", train: str = "sample:train") -> Plan:
    """A plan of two seeds a cell that asks no model and no data for their fingerprints."""
    base = TrialConfig().override({"data.train": train})
    grid = Grid({"prompts.num_prompts": num_prompts})
    sweep = Sweep(name, base, grid, {"prompts.num_prompts": num_prompts[0]}, seeds=2, question="How many?")
    identity = {"data": {"train": "f00d", "test": "beef"}, "precision": "float32", "versions": {"torch": "2"}}
    trials = []
    for cell in grid.cells():
        for seed in (0, 1):
            config = base.override({**cell, "seed": seed})
            trials.append(Trial(config.key(**identity), cell, config, identity))
    return Plan(sweep, "tiny", tuple(grid.cells()), (0, 1), tuple(trials))


def leave_files(folder: Path) -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "prompts.safetensors").write_bytes(b"weights")
    for name in ("config.json", "environment.json", "predictions.parquet"):
        (folder / name).write_text("{}")
    lines = [json.dumps(row) for row in HISTORY]
    (folder / "history.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "sec')  # its writer was killed
    (folder / "metrics.json").write_text(json.dumps(FINAL))
    return folder


def finished(trial: Trial, folder: Path, *, reused: bool = False) -> TrialResult:
    return TrialResult(trial.key, "finished", FINAL, leave_files(folder / trial.key), reused=reused)


def run_all(tracker: Tracker, plan: Plan, folder: Path) -> None:
    for trial in plan.trials:
        tracker.begin(trial)
        for row in ROWS:
            tracker.progress(trial, row)
        tracker.finish(trial, finished(trial, folder))
