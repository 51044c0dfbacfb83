"""Where a result comes from: code, packages, machine and command, as a trial and a report record them."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from sweeps.engine.store.redact import redact_command

PACKAGES = ("torch", "transformers", "ray", "optuna", "mlflow", "datasets", "sacrebleu", "rouge-score", "tokenizers")
_PROJECT = Path(__file__).parents[3]


@functools.cache
def facts() -> dict[str, str]:
    """What identifies this process's surroundings, flat: command, git commit, package versions, machine."""
    commit = _git("rev-parse", "HEAD")
    return {
        "command": redact_command([Path(sys.executable).name, *sys.argv]),
        "git_commit": (commit + (" with uncommitted changes" if code_diff() else "")) if commit else "no git checkout",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {_memory_gib():.0f} GiB",
        "gpus": _gpus(),
    }


@functools.cache
def code_diff() -> str:
    """Uncommitted changes of the checkout that this package runs from; empty where there are none, or no checkout."""
    return _git("diff", "HEAD")


def execution(device: str) -> dict[str, str | int]:
    """What decides the last bits of a trial's numbers beside its identity, as found in the process that did the work.

    Args:
        device: where it trained: `cpu`, `cuda`, `cuda:1`.

    Returns:
        `threads` of torch, `workers` of the trial, `processor` (what the arithmetic ran on) and the `torch` build.
    """
    import torch

    from spt_core.parallel import world_size

    on_cpu = f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "threads": torch.get_num_threads(),
        "workers": world_size(),
        "processor": on_cpu if device == "cpu" else torch.cuda.get_device_name(device),
        "torch": str(torch.__version__),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_PROJECT), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _memory_gib() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _gpus() -> str:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names) or "none"
