"""What each trial gets of a machine or cluster, and what can never be had there."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeps.engine.cluster import nodes as cluster
from sweeps.engine.design.designs import Sweep
from sweeps.engine.plan.plan import Plan
from sweeps.engine.store import shared_storage
from sweeps.engine.store.layout import Places

_GIB_A_TRIAL = 3.0
"""Memory that decides how many CPU trials run at once when nobody says; SmolLM2-135M at K = 4 peaks near it."""


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many run at once.

    Attributes:
        workers: Train workers a trial; 0 trains inside the Tune function.
        cpus_per_worker: None shares this machine's CPUs among the concurrent trials.
        gpus_per_worker: None is 1 where the machine or cluster has GPUs and 0 elsewhere.
        concurrency: trials at once; None is as many as fit.
        spread: put a trial's workers on as many nodes as there are, and not on as few.
    """

    workers: int = 1
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    concurrency: int | None = None
    spread: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"--workers {self.workers}: it should be 0 (in process) or more")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise ValueError(f"--cpus-per-worker {self.cpus_per_worker}: it should be at least 1")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ValueError(f"--gpus-per-worker {self.gpus_per_worker}: it should be 0 or more")
        if self.gpus_per_worker and self.gpus_per_worker % 1 and (self.gpus_per_worker > 1 or self.workers > 1):
            raise ValueError(
                f"--gpus-per-worker {self.gpus_per_worker:g}: a fraction below 1 is for trials of one worker that "
                "share a GPU; use whole GPUs, or --workers 1"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"--concurrency {self.concurrency}: it should be at least 1")

    @property
    def devices(self) -> float:
        """What a trial holds of what is paid for: its share of GPUs, or its workers where there are none."""
        workers = max(1, self.workers)
        return workers * self.gpus_per_worker if self.gpus_per_worker else float(workers)


def resolve_device(resources: Resources) -> tuple[str, Resources]:
    """The device type that trials will run on, with the number of GPUs made plain.

    Raises:
        ValueError: GPUs are asked for where there is none.
    """
    gpus = _available().gpus
    asked = resources.gpus_per_worker
    if asked and not gpus:
        raise ValueError(
            f"--gpus-per-worker {asked:g}: no GPU was found here; use --gpus-per-worker 0, or run on a machine or "
            "cluster that has one"
        )
    resolved = (1.0 if gpus else 0.0) if asked is None else asked
    return ("cuda" if resolved else "cpu"), replace(resources, gpus_per_worker=resolved)


def resolve_half_precision(settings: Mapping[str, Any], sweep: Sweep, device_type: str) -> dict[str, Any]:
    """The settings, with what `auto` means on the cluster's GPUs where the driver's machine has none to ask.

    Raises:
        ValueError: the sweep leaves it to `auto`, and Ray does not know what GPUs there are.
    """
    import torch

    precision = settings.get("backbone.precision", sweep.base.backbone.precision)
    if device_type != "cuda" or precision != "auto" or torch.cuda.is_available():
        return dict(settings)
    half = _available().half_precision
    if half is None:
        raise ValueError(
            "backbone.precision = 'auto': this machine has no GPU to ask and Ray does not know the kind of the "
            "cluster's; say it: --set backbone.precision=float16 (V100, T4), bfloat16 (A100 and later) or float32"
        )
    return {**settings, "backbone.precision": half}


def fit_resources(resources: Resources, *, num_trials: int) -> Resources:
    """Fill in what was left open: how many trials at once, and how many CPUs each of their workers gets.

    Small CPU trials run side by side on a thread each, since two processes use two cores better than one does. On a
    cluster the nodes that its autoscaler may add count as well: what runs at once is what makes it add them.
    """
    available = _available()
    workers, gpus = max(1, resources.workers), resources.gpus_per_worker or 0.0
    beside_a_gpu = available.share_of_cpus(gpus) if gpus else 1
    size = {"cpus": resources.cpus_per_worker or beside_a_gpu, "gpus": gpus, "memory": _GIB_A_TRIAL}
    concurrency = resources.concurrency or max(1, min(available.room(**size) // workers, num_trials))
    cpus = resources.cpus_per_worker
    if cpus is None:
        most = max(nodes.cpus for nodes in available.nodes)
        cpus = beside_a_gpu if gpus else max(1, int(min(most, available.cpus // (concurrency * workers))))
    return replace(resources, concurrency=concurrency, cpus_per_worker=cpus)


def refuse_unshared(plan: Plan, places: Places, resources: Resources) -> None:
    """Refuse what trials on other nodes could not see or could not write to.

    Raises:
        ValueError: the option, its value and what would do.
    """
    available = _available()
    if not available.has_several_nodes:
        return
    if resources.workers == 0:
        raise ValueError(
            "--workers 0: trials in the Tune process are for one machine, and this cluster has several nodes, or can "
            "get them: use --workers 1 or more"
        )
    if places.storage is None:
        places.output.mkdir(parents=True, exist_ok=True)
        cluster.refuse_unshared_output(available, "--output", places.output)
    elif shared_storage.is_remote(places.storage):
        shared_storage.probe(places.storage)
    else:
        Path(places.storage).mkdir(parents=True, exist_ok=True)
        cluster.refuse_unshared_output(available, "--storage", Path(places.storage))
    configs = [trial.config for trial in plan.distinct.values()]
    inputs = {("--train", config.data.train) for config in configs} | {
        ("--test", config.data.test) for config in configs
    }
    for option, name in sorted(inputs | {("--model", config.backbone.name) for config in configs}):
        if Path(name).exists():  # else a name that those who read it know
            cluster.refuse_unshared_input(available, option, Path(name))


def refuse_impossible(resources: Resources, available: cluster.Cluster) -> None:
    """Ray would wait for ever for resources that nobody has."""
    workers, cpus, gpus = max(1, resources.workers), resources.cpus_per_worker or 1, resources.gpus_per_worker or 0.0
    room = available.room(cpus=cpus, gpus=gpus)
    if room < workers:
        raise ValueError(
            f"one trial needs {workers} worker{'s' if workers > 1 else ''} of {cpus} CPUs and {gpus:g} GPUs, and there "
            f"is room for {room} of them ({available}): use fewer --workers, --cpus-per-worker or --gpus-per-worker"
        )


def _available() -> cluster.Cluster:
    ray = sys.modules.get("ray")  # its import is dear, and without it nothing is connected
    return cluster.connected() if ray is not None and ray.is_initialized() else cluster.this_machine()
