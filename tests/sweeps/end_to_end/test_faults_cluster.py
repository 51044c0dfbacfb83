"""A node that is lost while a sweep runs on a cluster of two."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_placement_groups

from tests.sweeps.end_to_end.as_a_user import EXACT, Folder, assert_whole, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with room for a supervisor beside which no worker fits, so that each runs on another node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": port}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def test_a_trial_of_a_lost_node_goes_on_elsewhere(cluster: Cluster, tiny_llama: Path, tmp_path: Path) -> None:
    lost = cluster.add_node(num_cpus=1)
    folder = Folder(tmp_path, environment={"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"})
    command = [*spt(folder, {"prompts.num_prompts": [2]}), "--model", tiny_llama, *EXACT]
    sweep = folder.start(*command, "--set", "optim.max_steps=60")
    sweep.until(r"training \d\d/60")
    cluster.add_node(num_cpus=1)
    cluster.remove_node(lost, allow_graceful=False)
    sweep.until(": retrying: ")
    assert "training 0/60" not in sweep.until(r": training \d+/60"), "it goes on from its checkpoint"
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert_whole(folder, steps=60, retries={1})

    ray.init(address=cluster.address)
    deadline = time.monotonic() + 60
    while left := [one for one in list_placement_groups() if one.state != "REMOVED"]:
        assert time.monotonic() < deadline, f"placement groups outlive the sweep: {left}"
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] == 2
