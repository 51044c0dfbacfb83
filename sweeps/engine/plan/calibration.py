"""A few real steps of a config on this machine: what a step, an evaluation and a start take, and how much memory.

Each measurement is a process of its own, so that its peak of memory is its own; what it found is remembered in the
output folder by shape, which is what a trial's cost depends on.
"""

import dataclasses
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spt_core import config as configs
from spt_core.config import TrialConfig
from sweeps.engine.store.atomic_write import write_whole

CALIBRATION = "calibration.json"
"""The file in the output folder."""
STEPS = 4
"""Taken; all but the first are timed, since it warms up."""
_RESPONSES = 8


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the parts of a trial take on one machine.

    Attributes:
        start_seconds: until the first step: model, data, tokenisation.
        step_seconds: of one optimisation step.
        dev_seconds: of one dev response at one evaluation.
        test_seconds: of one response at the end, decoded and scored.
        memory_mib: the peak: of the process on a CPU, of the device's allocations on a GPU.
        train_responses: in the training split.
        dev_responses: in the dev split, before any limit.
        test_responses: in the test split, before any limit.
        threads: of torch.
        measured: when, in UTC.
    """

    start_seconds: float
    step_seconds: float
    dev_seconds: float
    test_seconds: float
    memory_mib: float
    train_responses: int
    dev_responses: int
    test_responses: int
    threads: int
    measured: str

    def seconds(self, config: TrialConfig) -> float:
        """Of a whole trial of the same shape on one worker."""
        from spt_core.schedule import num_evaluations, num_steps

        steps = num_steps(config, self.train_responses)
        dev = min(config.data.max_dev_responses or math.inf, self.dev_responses)
        test = min(config.data.max_test_responses or math.inf, self.test_responses)
        scored = {"test": test, "dev": dev, "none": 0}[config.evaluation.split]
        evaluations = num_evaluations(config, self.train_responses)
        return (
            self.start_seconds
            + steps * self.step_seconds
            + evaluations * dev * self.dev_seconds
            + scored * self.test_seconds
        )


def remembered(output: Path) -> dict[str, Calibration]:
    """What was measured before, by shape."""
    try:
        found = json.loads((output / CALIBRATION).read_text())
        return {shape: Calibration(**values) for shape, values in found.items()}
    except (OSError, json.JSONDecodeError, TypeError):  # none, or of another version
        return {}


def remember(output: Path, shape: str, calibration: Calibration) -> None:
    """Keep a measurement for later plans in this output folder."""
    kept = {of: dataclasses.asdict(found) for of, found in {**remembered(output), shape: calibration}.items()}
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / CALIBRATION, json.dumps(kept, indent=1))


def calibrate(config: TrialConfig, *, device_type: str, threads: int) -> Calibration:
    """Measure a config in a process of its own.

    Args:
        config: its batch, its prompts, its lengths; of its steps and responses a few.
        device_type: `cpu` or `cuda`.
        threads: of torch.

    Raises:
        ValueError: the few steps did not run; says why.
    """
    request = json.dumps({"config": config.model_dump(), "device": device_type, "threads": threads})
    ended = subprocess.run(
        [sys.executable, "-m", "sweeps.engine.plan.calibration"],
        input=request,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"]
        raise ValueError(f"--calibrate: the steps did not run: {lines[-1]}")
    return Calibration(**json.loads(ended.stdout.splitlines()[-1]))


def _measure(request: Mapping[str, Any]) -> Calibration:
    import torch

    from spt_core import evaluation, training
    from spt_core.splits import load_splits

    torch.set_num_threads(request["threads"])
    whole = configs.parse(request["config"])
    few = {
        "optim.max_steps": STEPS,
        "optim.patience": None,
        "evaluation.every_steps": STEPS,
        "data.max_dev_responses": _RESPONSES,
        "data.max_test_responses": _RESPONSES,
    }
    rows: list[tuple[float, dict[str, float]]] = []
    began = time.perf_counter()
    fitted = training.fit(
        whole.override(few),
        device=request["device"],
        report=lambda row, _: rows.append((time.perf_counter(), row)),
    )
    steps = [row["seconds"] for _, row in rows if row["step"] > 0]
    # A row is told at once, but for one with an evaluation, which is told after it.
    evaluating = _evaluating(rows, began=began)
    decoding = time.perf_counter()
    evaluation.evaluate(
        fitted.model, fitted.tokenizer, fitted.splits.test, config=whole.evaluation, dev=fitted.splits.dev
    )
    decoding = time.perf_counter() - decoding
    every = load_splits(
        whole.data.model_copy(update={"max_dev_responses": None, "max_test_responses": None}), fitted.tokenizer
    )
    return Calibration(
        start_seconds=rows[0][0] - began - evaluating,
        step_seconds=(steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 0.0,
        dev_seconds=evaluating / len(fitted.splits.dev),
        test_seconds=decoding / len(fitted.splits.test),
        memory_mib=_peak_mib(request["device"]),
        train_responses=len(every.train),
        dev_responses=len(every.dev),
        test_responses=len(every.test),
        threads=request["threads"],
        measured=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    )


def _evaluating(rows: list[tuple[float, dict[str, float]]], *, began: float) -> float:
    """Seconds of one evaluation: the last one's, by the clock that the steps before it give."""
    told = [(at, row["seconds"]) for at, row in rows if "dev/nll" not in row]
    if not told:  # nothing is trained: the first evaluation is all there is, and the start is in it
        return (rows[-1][0] - began) / 2
    started = min(at - seconds for at, seconds in told)
    return rows[-1][0] - started - rows[-1][1]["seconds"]


def _peak_mib(device: str) -> float:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_measure(json.load(sys.stdin)))))
