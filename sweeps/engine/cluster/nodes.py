"""The machines that a sweep can have: those that are there, those that an autoscaler may add, and what they share."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

_NO_BFLOAT16 = frozenset({"P4", "P100", "T4", "V100", "K80", "M60"})
_ACCELERATOR = "accelerator_type:"
_HEAD = "node:__internal_head__"
_SHARED_FILE_SYSTEMS = (
    "nfs",
    "lustre",
    "ceph",
    "gpfs",
    "beegfs",
    "cifs",
    "smb",
    "9p",
    "virtiofs",
    "glusterfs",
    "fuse.",
)
_PROBE_SECONDS = 30.0


@dataclass(frozen=True)
class Nodes:
    """Nodes that are alike.

    Attributes:
        count: how many there are, or may be.
        cpus: of each, those that trials can have.
        gpus: of each.
        memory: GiB of each that trials can have; None where nobody says.
        accelerator: what Ray calls its GPUs (`V100`); empty if it has none, or does not know them.
        alive: they are there now; else an autoscaler adds them when there is work.
    """

    count: int
    cpus: float
    gpus: float = 0.0
    memory: float | None = None
    accelerator: str = ""
    alive: bool = True

    def room(self, *, cpus: float, gpus: float, memory: float) -> int:
        """How many workers of this size all of them hold at once."""
        fits = [self.cpus // cpus] if cpus else []
        if gpus:
            # 0.1 divides 1 ten times, whatever floating point says. A worker of whole GPUs has them on one node.
            fits.append((self.gpus + 1e-6) // gpus)
        if self.memory is not None and memory:
            fits.append(self.memory // memory)
        return self.count * int(min(fits))


@dataclass(frozen=True)
class Cluster:
    """What a sweep can have at most.

    Attributes:
        nodes: the head first.
        file_mounts: paths that the cluster launcher copies to every node.
    """

    nodes: tuple[Nodes, ...]
    file_mounts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(
            f"{nodes.count} x {nodes.cpus:g} CPUs{f' and {nodes.gpus:g} GPUs' if nodes.gpus else ''}"
            f"{'' if nodes.alive else ' to be added'}"
            for nodes in self.nodes
        )

    @property
    def gpus(self) -> float:
        """All GPUs."""
        return sum(nodes.count * nodes.gpus for nodes in self.nodes)

    @property
    def cpus(self) -> float:
        """All CPUs that trials can have."""
        return sum(nodes.count * nodes.cpus for nodes in self.nodes)

    @property
    def has_several_nodes(self) -> bool:
        """Whether a trial's worker may run on another node than the driver."""
        return sum(nodes.count for nodes in self.nodes) > 1

    def room(self, *, cpus: float, gpus: float, memory: float = 0.0) -> int:
        """How many workers of this size run at once."""
        return sum(nodes.room(cpus=cpus, gpus=gpus, memory=memory) for nodes in self.nodes)

    def share_of_cpus(self, gpus_per_worker: float) -> int:
        """CPUs beside each worker where all GPUs are in use, on the node that has the fewest."""
        shares = [nodes.cpus / (nodes.gpus / gpus_per_worker) for nodes in self.nodes if nodes.gpus >= gpus_per_worker]
        return max(1, int(min(shares, default=1.0)))

    @property
    def half_precision(self) -> str | None:
        """What `auto` means on all of its GPUs: bfloat16 or float16; None where Ray does not know a GPU's kind."""
        kinds = {nodes.accelerator for nodes in self.nodes if nodes.gpus}
        if not kinds or "" in kinds:
            return None
        return "float16" if kinds & _NO_BFLOAT16 else "bfloat16"


def this_machine() -> Cluster:
    """This machine alone, as a Ray of its own would see it."""
    import torch

    memory = psutil.virtual_memory().available / 2**30
    return Cluster((Nodes(1, float(os.cpu_count() or 1), float(torch.cuda.device_count()), memory),))


def connected() -> Cluster:
    """The cluster that this process is connected to, with what its autoscaler can add."""
    import ray

    alive = [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda pair: not pair[1])
    (head, _), *rest = alive
    # One CPU of the head is left to the driver, the trials' supervisors and the tracking server.
    found = [replace(head, cpus=max(0.0, head.cpus - 1)), *(nodes for nodes, _ in rest)]
    groups, mounts = _autoscaler()
    there = Counter(_size(nodes) for nodes, _ in rest)
    for group in groups:
        missing = group.count - there[_size(group)]
        there[_size(group)] -= min(group.count, there[_size(group)])
        if missing > 0:
            found.append(replace(group, count=missing, alive=False))
    return Cluster(tuple(found), mounts)


def _node(resources: Mapping[str, float]) -> tuple[Nodes, bool]:
    """A node from its resources, and whether it is the head."""
    kinds = [name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)]
    memory = resources["memory"] / 2**30 if resources.get("memory") else None
    nodes = Nodes(1, resources.get("CPU", 0.0), resources.get("GPU", 0.0), memory, kinds[0] if kinds else "")
    return nodes, _HEAD in resources


def _size(nodes: Nodes) -> tuple[float, float]:
    return nodes.cpus, nodes.gpus


def _autoscaler() -> tuple[list[Nodes], tuple[str, ...]]:
    """The groups of nodes that the cluster launcher's configuration lets the autoscaler start, and its file mounts."""
    import yaml

    # Where `ray up` puts it on the head, in the form that the autoscaler reads: resources of cloud instances filled in.
    path = Path("~/ray_bootstrap_config.yaml").expanduser()
    if not path.is_file():
        return [], ()
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    groups = []
    for name, kind in config.get("available_node_types", {}).items():
        if name != config.get("head_node_type") and kind.get("resources"):
            count = min(kind.get("max_workers", 0), config.get("max_workers", 0))
            groups.append(replace(_node(kind["resources"])[0], count=count))
    return groups, tuple(str(Path(mount).expanduser()) for mount in config.get("file_mounts", {}))


def refuse_unshared_output(cluster: Cluster, option: str, folder: Path) -> None:
    """Refuse a folder that trials write to, where a trial may run on a node that has not got it.

    Nodes that are there are asked; for those that may come, it has to lie on a network file system.

    Args:
        cluster: connected to, of several nodes.
        option: of the command line, for the message.
        folder: which is there.

    Raises:
        ValueError: the option, the folder and what would do.
    """
    if why := _why_unshared(folder, cluster, mounts=()):
        raise ValueError(
            f"{option} {folder}: {why}, and a trial may run there. Give --storage a bucket (s3://NAME/FOLDER) or a "
            "folder that all nodes share, such as an NFS mount"
        )


def refuse_unshared_input(cluster: Cluster, option: str, path: Path) -> None:
    """Refuse a file or folder that trials read, likewise; what the launcher copies to every node will do.

    Raises:
        ValueError: the option, the path and what would do.
    """
    if why := _why_unshared(path, cluster, mounts=cluster.file_mounts):
        raise ValueError(
            f"{option} {path}: {why}, and a trial may run there. Copy it to every node (file_mounts in the cluster's "
            "YAML), or put it in a folder that all nodes share"
        )


def _why_unshared(path: Path, cluster: Cluster, *, mounts: Iterable[str]) -> str:
    """Why other nodes do not see a path; empty if they do."""
    if missing := nodes_without(path):
        return f"{', '.join(missing)} does not see it"
    if all(nodes.alive for nodes in cluster.nodes):
        return ""
    if is_on_network(path) or any(path.is_relative_to(mount) for mount in mounts):
        return ""
    return "the nodes that the autoscaler adds would not see it, since it is on this machine's own disk"


def nodes_without(path: Path) -> list[str]:
    """The other nodes that do not see what this one has at a path; a folder is asked for a file made just now."""
    import ray

    others = [
        node for node in ray.nodes() if node["Alive"] and node["NodeID"] != ray.get_runtime_context().get_node_id()
    ]
    if not others:
        return []
    if not path.is_dir():
        return _unseen(str(path), others)
    with tempfile.NamedTemporaryFile(dir=path, prefix=".spt-probe-") as probe:
        return _unseen(probe.name, others)


def _unseen(path: str, nodes: list[dict[str, Any]]) -> list[str]:
    answers = on_nodes(os.path.exists, path, nodes=nodes)
    return sorted(address for address, seen in answers if seen is not True)


def on_nodes(function: Any, *arguments: Any, nodes: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """What a function says on each of some nodes, by address; None where a node did not answer in half a minute.

    Args:
        function: any that can be pickled, called with the arguments.
        arguments: of the function.
        nodes: of `ray.nodes()`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        ): node["NodeManagerAddress"]
        for node in nodes
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_SECONDS)
    answers = []
    for reference in done:
        try:
            answers.append((asked[reference], ray.get(reference)))
        except ray.exceptions.RayError:
            answers.append((asked[reference], None))
    return answers + [(asked[reference], None) for reference in late]


def is_on_network(path: Path) -> bool:
    """Whether a path lies on a file system of the kinds that machines share."""
    there = path.resolve()
    while not there.exists():
        there = there.parent
    mounts = [part for part in psutil.disk_partitions(all=True) if there.is_relative_to(part.mountpoint)]
    innermost = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return innermost is not None and innermost.fstype.startswith(_SHARED_FILE_SYSTEMS)
