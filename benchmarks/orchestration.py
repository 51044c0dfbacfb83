"""Overhead of a trial beyond its training and evaluation: in a Ray Train worker, and in process.

The command runs a sweep of several seeds and a sweep of one seed, on a tiny random model, one trial at a time. The
difference of their times, divided by the difference of their trials, excludes the fixed costs of a sweep: the start of
Ray, the report, and the start of the processes that its trials share. The seconds of training and evaluation,
computed by the same difference, are then subtracted.

    python -m benchmarks.orchestration --json
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import options

SWEEP = '''"""What does a trial cost beyond its compute?"""
from spt_core.config import TrialConfig
from sweeps.engine import Cases, Sweep

SWEEP = Sweep(name="empty", base=TrialConfig(), design=Cases({{"empty": {{}}}}), baseline={{}})
'''


def random_model(folder: Path) -> Path:
    """A Llama of two layers with random weights and the bundled model's tokenizer, saved in a folder."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from spt_core.fields import BackboneConfig
    from spt_core.weights import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve(BackboneConfig()).path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(*, trials: int) -> dict[str, Any]:
    """Measure both ways of running a trial.

    Args:
        trials: number of trials of the longer sweep.

    Returns:
        For each way: seconds of both sweeps, seconds of compute a trial, and seconds of overhead a trial.
    """
    found: dict[str, Any] = {"trials": trials}
    with tempfile.TemporaryDirectory(prefix="spt-orchestration-") as work:
        folder = Path(work)
        model = random_model(folder / "model")
        sweep = folder / "empty.py"
        sweep.write_text(SWEEP.format())
        for name, workers in (("train worker", 1), ("in process", 0)):
            seconds, of_trials = {}, {}
            for count in (1, trials):
                output = folder / f"runs-{workers}-{count}"
                seconds[count] = _run(sweep, model=model, seeds=count, workers=workers, output=output)
                paths = output.glob("trials/*/metrics.json")
                of_trials[count] = sum(json.loads(path.read_text())["seconds"] for path in paths)
            compute = (of_trials[trials] - of_trials[1]) / (trials - 1)
            a_trial = (seconds[trials] - seconds[1]) / (trials - 1)
            found[name] = {
                "sweep_seconds": seconds,
                "compute_seconds_a_trial": compute,
                "seconds_a_trial_beyond_compute": a_trial - compute,
            }
    return found


def _run(sweep: Path, *, model: Path, seeds: int, workers: int, output: Path) -> float:
    arguments = ["--scale", "tiny", "--model", str(model), "--seeds", str(seeds), "--workers", str(workers)]
    command = [sys.executable, "-m", "sweeps.engine.cli.main", "run", str(sweep), *arguments, "--concurrency", "1"]
    started = time.perf_counter()
    subprocess.run([*command, "--output", str(output)], check=True, capture_output=True)
    return time.perf_counter() - started


def main(
    *,
    trials: Annotated[int, typer.Option(help="Trials of the longer sweep.")] = 5,
    as_json: options.AsJson = False,
) -> None:
    """Time what Ray adds to a trial."""
    found = measure(trials=trials)
    if as_json:
        options.print_json(found)
        return
    for name in ("train worker", "in process"):
        typer.echo(
            f"{name}: {found[name]['seconds_a_trial_beyond_compute']:.2f} s a trial beyond its "
            f"{found[name]['compute_seconds_a_trial']:.2f} s of compute"
        )


if __name__ == "__main__":
    typer.run(main)
