"""What can be seen of one machine, as plain values: taken on any node by a Ray task, judged by `doctor`."""

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("torch", "transformers", "ray", "optuna", "mlflow", "safetensors", "pyarrow", "sacrebleu", "rouge-score")
"""Those whose absence or difference between nodes breaks a sweep."""
_DASHBOARD = ("aiohttp_cors", "opencensus", "colorful", "prometheus_client")
_NVIDIA_SMI_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """One GPU as torch sees it."""

    name: str
    capability: tuple[int, int]
    has_bfloat16: bool

    @property
    def architecture(self) -> str:
        """Its compute capability as torch writes it: `sm_70`."""
        return f"sm_{self.capability[0]}{self.capability[1]}"

    def is_served_by(self, architectures: Sequence[str]) -> bool:
        """Whether a build for these has kernels for it: of its major version and no later minor, or PTX to compile."""
        for name in architectures:
            kind, _, digits = name.rstrip("af").partition("_")
            major, minor = int(digits[:-1]), int(digits[-1])
            if kind == "sm" and major == self.capability[0] and minor <= self.capability[1]:
                return True
            if kind == "compute" and (major, minor) <= self.capability:
                return True
        return False


@dataclass(frozen=True)
class Facts:
    """One machine.

    Attributes:
        node: its name.
        python: version.
        packages: version by name; None where it is not installed.
        without_dashboard: a module that Ray's dashboard lacks; empty if it lacks none.
        gpus: that torch can use; `gpus_of_driver`: how many nvidia-smi lists.
        cuda: that torch was built for; None for a CPU build. `architectures`: that it has kernels for.
        cpu_precision: what `auto` means on its CPU.
        disk_gib: free space by folder; `memory_gib`: available.
        clock: seconds since the epoch.
        on_cluster: RAY_ADDRESS is set; `token_mode_on`: RAY_AUTH_MODE is `token`.
        token: where Ray's token is looked for; `token_permissions`: of that file, None if it is not there.
        unresolved: why the `model`, `train` or `test` cannot be had here, by that name.
    """

    node: str
    python: tuple[int, int, int]
    packages: Mapping[str, str | None]
    without_dashboard: str
    gpus: tuple[Gpu, ...]
    gpus_of_driver: int
    cuda: str | None
    architectures: tuple[str, ...]
    cpu_precision: str
    disk_gib: Mapping[str, float]
    memory_gib: float
    clock: float
    on_cluster: bool
    token_mode_on: bool
    token: str
    token_permissions: int | None
    unresolved: Mapping[str, str] = field(default_factory=dict)


def look(model: str, train: str, test: str, output: str) -> Facts:
    """See what there is on this machine.

    Args:
        model: backbone to resolve; `train`, `test`: dialogues to read.
        train: likewise.
        test: likewise.
        output: folder whose disk is measured, beside that of the caches.
    """
    import psutil
    import torch

    from spt_core import backbone, conversations, weights
    from spt_core.fields import BackboneConfig

    clock = time.time()
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    sources: dict[str, Callable[[], object]] = {
        "model": lambda: weights.resolve(BackboneConfig(name=model)),
        "train": lambda: conversations.load(train),
        "test": lambda: conversations.load(test),
    }
    return Facts(
        node=socket.gethostname(),
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        packages={name: _version(name) for name in PACKAGES},
        without_dashboard=next((name for name in _DASHBOARD if not _is_there(name)), ""),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())),
        gpus_of_driver=_gpus_of_driver(),
        cuda=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()),
        cpu_precision=backbone.resolve_precision("auto", "cpu"),
        disk_gib={str(folder): _free_gib(folder) for folder in (Path(output), weights.cache_folder())},
        memory_gib=psutil.virtual_memory().available / 2**30,
        clock=clock,
        on_cluster=bool(os.environ.get("RAY_ADDRESS")),
        token_mode_on=os.environ.get("RAY_AUTH_MODE") == "token",
        token=str(token),
        token_permissions=token.stat().st_mode & 0o777 if token.is_file() else None,
        unresolved={name: why for name, resolve in sources.items() if (why := _why_not(resolve))},
    )


def _is_there(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(index: int) -> Gpu:
    import torch

    with torch.cuda.device(index):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    major, minor = torch.cuda.get_device_capability(index)
    return Gpu(torch.cuda.get_device_name(index), (major, minor), native)


def _gpus_of_driver() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _free_gib(folder: Path) -> float:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free / 2**30


def _why_not(resolve: Callable[[], object]) -> str:
    try:
        resolve()
    except (ValueError, OSError) as error:
        return str(error)
    return ""
