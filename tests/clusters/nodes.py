"""A Ray cluster of several nodes on this machine, in a process of its own that is told on stdin what to do.

Commands are `add CPUS GPUS`, `remove NUMBER` and `end`, each answered by one line. Ray's own `Cluster` does the work.
"""

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.conftest import PROJECT


class Nodes:
    """Such a cluster, while its block runs.

    Args:
        environment: of its processes, whole.
        log: where they say what they do.

    Attributes:
        address: of the head, for RAY_ADDRESS.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment, self._log = dict(environment), log
        self.address = ""

    def __enter__(self) -> "Nodes":
        command = [sys.executable, "-m", "tests.clusters.nodes"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=self._environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.address = self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._tell("end")
        self._process.wait(timeout=60)

    def add(self, *, cpus: int, gpus: int) -> int:
        """Add a node; its number."""
        return int(self._tell(f"add {cpus} {gpus}"))

    def remove(self, number: int) -> None:
        """Kill a node, as the loss of a spot instance does."""
        self._tell(f"remove {number}")

    def _tell(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return line.split()[1]
        raise AssertionError(f"the cluster ended: {self._log.read_text()[-2000:]}")


def _serve() -> None:
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print("answer", cluster.address, flush=True)
    nodes = []
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "end":
            break
        if command == "add":
            nodes.append(cluster.add_node(num_cpus=int(numbers[0]), num_gpus=int(numbers[1])))
            print("answer", len(nodes) - 1, flush=True)
        else:
            cluster.remove_node(nodes[int(numbers[0])], allow_graceful=False)
            print("answer removed", flush=True)
    cluster.shutdown()
    print("answer ended", flush=True)


if __name__ == "__main__":
    _serve()
