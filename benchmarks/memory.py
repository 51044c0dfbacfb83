"""Peak memory and time of one optimisation step, by K and by the compute layout.

Each layout runs in its own process. Its peak memory is the largest resident set, which includes Python, torch, the
frozen weights (shared pages of a mapped file are counted) and the step.

    python -m benchmarks.memory --train dialogues.txt --json
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Annotated, Any

import psutil
import torch
import typer

from benchmarks import options
from spt_core import backbone as backbones
from spt_core import recipes, weights
from spt_core.batching import collate
from spt_core.build import build
from spt_core.gradient import backward
from spt_core.splits import load_splits

LAYOUTS: dict[str, dict[str, Any]] = {
    "K = 1": {"prompts.num_prompts": 1},
    "K = 8, all at once": {"prompts.num_prompts": 8},
    "K = 8, one prompt a pass": {"prompts.num_prompts": 8, "compute.prompts_per_pass": 1},
    "K = 8, all at once, gradient checkpointing": {
        "prompts.num_prompts": 8,
        "compute.gradient_checkpointing": True,
    },
    "K = 8, one prompt and one context a pass": {
        "prompts.num_prompts": 8,
        "compute.prompts_per_pass": 1,
        "compute.micro_batch_size": 1,
    },
}
BEFORE = "nothing trained"
"""The layout of a process that loads model and data, and trains nothing."""


def measure_here(settings: dict[str, Any], *, steps: int) -> dict[str, float]:
    """Peak memory of this process in MiB and median seconds a step, on the longest training examples."""
    config = recipes.smollm2_135m().override(settings)
    model, tokenizer = build(config, device="cpu")
    examples = sorted(load_splits(config.data, tokenizer).train, key=lambda example: -example.num_tokens)
    batch = collate(examples[: config.optim.batch_size])
    seconds = []
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        started = time.perf_counter()
        backward(model, batch, config=config)
        seconds.append(time.perf_counter() - started)
    return {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": statistics.median(seconds) if seconds else 0.0,
        "columns": float(batch.mask_BT.shape[1]),
    }


def measure(settings: dict[str, Any], *, steps: int) -> dict[str, Any]:
    """Measure every layout, each in its own process.

    Args:
        settings: config fields of all layouts.
        steps: number of timed steps of each; the result is their median.
    """
    found: dict[str, Any] = {BEFORE: _in_process({**settings, **LAYOUTS["K = 1"]}, steps=0)}
    for name, layout in LAYOUTS.items():
        found[name] = _in_process({**settings, **layout}, steps=steps)
    one, parted, whole = (found[name] for name in ("K = 1", "K = 8, one prompt a pass", "K = 8, all at once"))
    return {
        "layouts": found,
        "peak_of_k8_over_k1": parted["peak_mib"] / one["peak_mib"],
        "peak_of_k8_at_once_over_k1": whole["peak_mib"] / one["peak_mib"],
        "seconds_of_parts_over_at_once": parted["seconds"] / whole["seconds"],
        "threads": torch.get_num_threads(),
    }


def private_of_two(model: str) -> dict[str, float]:
    """Private memory of two processes with the same backbone at the same time, in MiB, and the size of its weights.

    Each process has run the backbone once, so that all weights are in memory. Pages that both map are not private.
    """
    command = [sys.executable, "-m", "benchmarks.memory", "--hold", model]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second,
    ):
        both = [json.loads(_line(process)) for process in (first, second)]  # both have loaded it now
        private = psutil.Process(second.pid).memory_full_info().uss / 2**20
        for process in (first, second):
            process.communicate("done")
    return {
        "weights_mib": both[0]["weights_mib"],
        "before_mib": both[1]["before_mib"],
        "second_adds_mib": private - both[1]["before_mib"],
    }


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _hold(model: str) -> None:
    """Load a backbone, run it once, print the sizes, and wait."""
    import transformers.models.auto.modeling_auto  # noqa: F401  # its import must not count as memory of the model

    config = recipes.smollm2_135m().override({"backbone.name": model})
    source = weights.resolve(config.backbone)
    before = psutil.Process().memory_full_info().uss / 2**20
    precision = backbones.resolve_precision("auto", "cpu")
    backbone = backbones.load(source, precision=precision, device="cpu")
    with torch.no_grad():
        backbone.model(torch.arange(8).unsqueeze(0))
    held = sum(parameter.numel() * parameter.element_size() for parameter in backbone.model.parameters())
    typer.echo(json.dumps({"weights_mib": held / 2**20, "before_mib": before}))
    sys.stdin.read()


def _in_process(settings: dict[str, Any], *, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", json.dumps(settings), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(
    *,
    train: options.Train = options.SAMPLE,
    model: options.Model = weights.BUNDLED_SMOLLM2,
    batch_size: options.BatchSize = 4,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of context and response.")] = 192,
    steps: Annotated[int, typer.Option(help="Measured steps of each layout.")] = 2,
    as_json: options.AsJson = False,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
    hold: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Peak memory of a step by K and by layout."""
    if hold is not None:
        _hold(hold)
        return
    if worker is not None:
        typer.echo(json.dumps(measure_here(json.loads(worker), steps=steps)))
        return
    settings = {
        "backbone.name": model,
        "data.train": train,
        "optim.batch_size": batch_size,
        "data.max_tokens": max_tokens,
    }
    found = {**measure(settings, steps=steps), "two_processes": private_of_two(model)}
    if as_json:
        options.print_json(found)
        return
    for name, row in found["layouts"].items():
        typer.echo(f"{name:<44} peak {row['peak_mib']:6.0f} MiB   {row['seconds']:6.2f} s a step")
    typer.echo(
        f"K = 8, one prompt a pass, needs {found['peak_of_k8_over_k1']:.2f} times the memory of K = 1 "
        f"({found['peak_of_k8_at_once_over_k1']:.2f} all at once) and {found['seconds_of_parts_over_at_once']:.2f} "
        f"times the time of all at once; {row['columns']:.0f} columns a row, {found['threads']} threads"
    )
    two = found["two_processes"]
    typer.echo(
        f"a second process with the same backbone adds {two['second_adds_mib']:.0f} MiB of its own to its "
        f"{two['before_mib']:.0f}; the weights are {two['weights_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    typer.run(main)
