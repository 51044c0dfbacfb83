"""Time of a plan of thousands of trials: statement, expansion, deduplication, and the command that prints the plan.

Some cells of the sweep compute the same trial. The command runs on the whole sweep and on a small one, so that the
difference excludes fixed costs such as imports. Its seconds are wall-clock time and processor time; other processes
affect the processor time less.

    python -m benchmarks.plan --json
"""

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import typer

from benchmarks import options
from spt_core.config import TrialConfig
from sweeps.engine import Grid, Sweep
from sweeps.engine.plan.plan import Plan, expand

SWEEP_FILE = """from benchmarks.plan import sweep_of
SWEEP = sweep_of(num_cells={num_cells}, seeds={seeds})
"""
_CELLS_A_RATE = 16


def sweep_of(*, num_cells: int, seeds: int) -> Sweep:
    """A grid over K, a switch and a weight of the losses, and the learning rate: 16 cells for each learning rate.

    Args:
        num_cells: a multiple of 16.
        seeds: number of seeds of each cell.

    Raises:
        ValueError: `num_cells` is not a multiple of 16.
    """
    if num_cells % _CELLS_A_RATE:
        raise ValueError(f"num_cells = {num_cells}: it should be a multiple of {_CELLS_A_RATE}")
    factors: dict[str, list[Any]] = {
        "optim.learning_rate": [0.001 * (1 + index) for index in range(num_cells // _CELLS_A_RATE)],
        "prompts.num_prompts": [1, 2, 4, 8],
        "losses.selection.enabled": [True, False],
        "losses.fusion.weight": [0.5, 1.0],
    }
    return Sweep(
        name="many",
        base=TrialConfig(),
        design=Grid(factors),
        baseline={path: levels[0] for path, levels in factors.items()},
        seeds=seeds,
        question="How long does a plan take?",
    )


def plan_of(sweep: Sweep) -> Plan:
    """The plan at full scale on a CPU."""
    return expand(sweep, scale="full", device_type="cpu")


def measure(*, num_cells: int, seeds: int) -> dict[str, Any]:
    """Time each stage once, after a plan of one learning rate that reads data and backbone.

    Args:
        num_cells: a multiple of 16.
        seeds: of each.

    Returns:
        The numbers of trials and of distinct trials, the seconds of each stage and of all, and the growth of the peak
        memory of the process in MiB.
    """
    plan_of(sweep_of(num_cells=_CELLS_A_RATE, seeds=1))
    before = psutil.Process().memory_info().rss
    marks = [time.perf_counter()]
    sweep = sweep_of(num_cells=num_cells, seeds=seeds)
    marks.append(time.perf_counter())
    plan = plan_of(sweep)
    marks.append(time.perf_counter())
    num_distinct = len(plan.distinct)
    marks.append(time.perf_counter())
    stages = [after - start for start, after in itertools.pairwise(marks)]
    return {
        "trials": len(plan.trials),
        "distinct": num_distinct,
        "seconds": dict(zip(("state", "expand", "deduplicate"), stages, strict=True)),
        "total_seconds": sum(stages),
        "peak_grew_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20,
    }


def measure_command(*, num_cells: int, seeds: int) -> dict[str, dict[str, float]]:
    """Time of `spt plan` on the sweep and on one of 16 cells, output included.

    Args:
        num_cells: a multiple of 16.
        seeds: of each.

    Returns:
        For each, `clock` and `processor` seconds, and the number of `lines` printed.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="spt-plan-") as work:
        for name, cells, each in (("16 trials", _CELLS_A_RATE, 1), ("all trials", num_cells, seeds)):
            file = Path(work) / f"plan_{cells}.py"
            file.write_text(SWEEP_FILE.format(num_cells=cells, seeds=each))
            arguments = ["plan", str(file), "--scale", "full", "--output", str(Path(work) / "runs")]
            started, before = time.perf_counter(), _processor_seconds()
            ended = subprocess.run(
                [sys.executable, "-m", "sweeps.engine.cli.main", *arguments], check=True, capture_output=True
            )
            found[name] = {
                "clock": time.perf_counter() - started,
                "processor": _processor_seconds() - before,
                "lines": float(ended.stdout.count(b"\n")),
            }
    return found


def _processor_seconds() -> float:
    """Processor seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(
    *,
    cells: options.Cells = 10_000,
    seeds: options.Seeds = 1,
    as_json: options.AsJson = False,
) -> None:
    """Time the plan of a large sweep."""
    found = measure(num_cells=cells, seeds=seeds)
    found["command_seconds"] = measure_command(num_cells=cells, seeds=seeds)
    if as_json:
        options.print_json(found)
        return
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["seconds"].items())
    typer.echo(
        f"{found['trials']} trials, {found['distinct']} of them distinct: {found['total_seconds']:.2f} s ({stages}); "
        f"peak memory grew by {found['peak_grew_mib']:.0f} MiB"
    )
    for name, command in found["command_seconds"].items():
        typer.echo(
            f"the command on {name}: {command['clock']:.1f} s by the clock, {command['processor']:.1f} s of the "
            f"processor, {command['lines']:.0f} lines"
        )


if __name__ == "__main__":
    typer.run(main)
