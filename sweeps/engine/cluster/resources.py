"""What each trial gets of a machine or cluster, and what can never be had there."""

import sys
from dataclasses import dataclass, replace

from sweeps.engine.cluster import nodes as cluster

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
    gpus = at_hand().gpus
    asked = resources.gpus_per_worker
    if asked and not gpus:
        raise ValueError(
            f"--gpus-per-worker {asked:g}: no GPU was found here; use --gpus-per-worker 0, or run on a machine or "
            "cluster that has one"
        )
    resolved = (1.0 if gpus else 0.0) if asked is None else asked
    return ("cuda" if resolved else "cpu"), replace(resources, gpus_per_worker=resolved)


def fit_resources(resources: Resources, *, num_trials: int) -> Resources:
    """Fill in what was left open: how many trials at once, and how many CPUs each of their workers gets.

    Small CPU trials run side by side on a thread each, since two processes use two cores better than one does. On a
    cluster the nodes that its autoscaler may add count as well: what runs at once is what makes it add them.
    """
    available = at_hand()
    workers, gpus = max(1, resources.workers), resources.gpus_per_worker or 0.0
    beside_a_gpu = available.share_of_cpus(gpus) if gpus else 1
    size = {"cpus": resources.cpus_per_worker or beside_a_gpu, "gpus": gpus, "memory": _GIB_A_TRIAL}
    concurrency = resources.concurrency or max(1, min(available.room(**size) // workers, num_trials))
    cpus = resources.cpus_per_worker
    if cpus is None:
        most = max(nodes.cpus for nodes in available.nodes)
        cpus = beside_a_gpu if gpus else max(1, int(min(most, available.cpus // (concurrency * workers))))
    return replace(resources, concurrency=concurrency, cpus_per_worker=cpus)


def refuse_impossible(resources: Resources, available: cluster.Cluster) -> None:
    """Ray would wait for ever for resources that nobody has."""
    workers, cpus, gpus = max(1, resources.workers), resources.cpus_per_worker or 1, resources.gpus_per_worker or 0.0
    room = available.room(cpus=cpus, gpus=gpus)
    if room < workers:
        raise ValueError(
            f"one trial needs {workers} worker{'s' if workers > 1 else ''} of {cpus} CPUs and {gpus:g} GPUs, and there "
            f"is room for {room} of them ({available}): use fewer --workers, --cpus-per-worker or --gpus-per-worker"
        )


def at_hand() -> cluster.Cluster:
    """The cluster that this process is connected to, or this machine."""
    ray = sys.modules.get("ray")  # its import is dear, and without it nothing is connected
    return cluster.connected() if ray is not None and ray.is_initialized() else cluster.this_machine()
