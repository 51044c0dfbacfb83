"""Sweeps over several nodes with GPUs that are only counted: shared by two trials, spread over, lost and replaced."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from sweeps.engine.design.scales import SCALES
from tests.clusters.nodes import Nodes
from tests.conftest import PROJECT
from tests.sweeps.end_to_end.as_a_user import Ended, Folder, write_sweep

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

TOKEN = "t" * 40
STEPS = 16
EVERY_STEPS = SCALES["tiny"].settings["evaluation.every_steps"]


@dataclass(frozen=True)
class Ran:
    """What three runs of one sweep left, and how each ended.

    Attributes:
        folder: that they ran in.
        unshared: with an autoscaler that may add nodes, and files on this machine alone.
        shared: two trials on one GPU.
        stranger: what somebody without the token was told.
        lost: one trial of two workers, whose second node was lost and replaced.
        replaced_at: the step that was told last before the node was lost.
    """

    folder: Folder
    unshared: Ended
    shared: Ended
    stranger: subprocess.CompletedProcess[str]
    lost: Ended
    replaced_at: int


@pytest.fixture(scope="module")
def ran(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    path = tmp_path_factory.mktemp("nodes")
    home = path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    (home / ".ray" / "auth_token").chmod(0o600)
    protected = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / ".ray" / "auth_token")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    temporary = {"RAY_TMPDIR": os.environ["RAY_TMPDIR"]} if "RAY_TMPDIR" in os.environ else {}
    with Nodes({**inherited, **protected, **temporary, "HOME": str(home)}, path / "cluster.log") as nodes:
        folder = Folder(path, "mine", {**protected, "RAY_ADDRESS": nodes.address})

        def spt(num_prompts: list[int], *options: str, name: str = "shared") -> list[str | Path]:
            sweep = write_sweep(folder, {"prompts.num_prompts": num_prompts})
            sweep.write_text(sweep.read_text().replace("'mine'", repr(name)))
            common = ["--scale", "tiny", "--model", str(tiny_llama), "--set", "backbone.precision=float32"]
            return ["-m", "sweeps.engine.cli.main", "run", sweep, *common, "--steps", str(STEPS), *options]

        first = nodes.add(cpus=2, gpus=1)
        share = ["--gpus-per-worker", "0.5", "--storage", str(path / "shared")]
        (home / "ray_bootstrap_config.yaml").write_text(json.dumps(AUTOSCALING))
        unshared = folder.run(*spt([1, 2], "--gpus-per-worker", "0.5"))
        (home / "ray_bootstrap_config.yaml").unlink()
        shared = folder.run(*spt([1, 2], *share))
        stranger = join(nodes.address, path / "stranger")

        nodes.add(cpus=2, gpus=1)
        pair = folder.start(
            *spt([1, 2, 4], "--workers", "2", "--spread", "--storage", str(path / "shared"), name="mine")
        )
        pair.until(r"num_prompts=4 .*: training \d+/")
        replaced_at = int(pair.until(r"num_prompts=4 .*: training \d+/").split("training ")[1].split("/")[0])
        nodes.remove(first)
        nodes.add(cpus=2, gpus=1)
        lost = pair.wait()
        yield Ran(folder, unshared, shared, stranger, lost, replaced_at)


AUTOSCALING = {
    "max_workers": 4,
    "head_node_type": "head",
    "available_node_types": {"head": {}, "gpus": {"max_workers": 4, "resources": {"CPU": 2, "GPU": 2}}},
}


def join(address: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Try to use a cluster without its token."""
    home.mkdir()
    program = f"import ray; ray.init({address!r}); print('joined', ray.cluster_resources())"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, "HOME": str(home), "RAY_gcs_rpc_server_reconnect_timeout_s": "2"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_files_of_one_machine_alone_are_refused_where_other_nodes_may_come(ran: Ran) -> None:
    assert ran.unshared.code == 2, ran.unshared.output
    assert "own disk" in ran.unshared.output
    assert "Give --storage a bucket" in ran.unshared.output


def test_two_trials_share_a_gpu(ran: Ran) -> None:
    assert ran.shared.code == 0, ran.shared.output
    lines = ran.shared.output.splitlines()
    training = {
        k: number for number, line in enumerate(lines) for k in (1, 2) if f"prompts={k} seed 0: training" in line
    }
    finished = {
        k: number for number, line in enumerate(lines) for k in (1, 2) if f"prompts={k} seed 0: finished" in line
    }
    first_to_end = min(finished, key=lambda k: finished[k])
    other = 3 - first_to_end
    assert any(f"prompts={other} seed 0: training" in line for line in lines[: finished[first_to_end]]), (
        f"one GPU, and neither waited for the other: {training}, {finished}"
    )


def test_a_trial_of_two_workers_outlives_a_node(ran: Ran) -> None:
    """It goes on from its last checkpoint, and all three trials are in one report."""
    assert ran.lost.code == 0, ran.lost.output
    assert 0 < ran.replaced_at < STEPS
    trials = ran.folder.trials()
    assert {cell: trial["state"] for cell, trial in trials.items()} == {
        "num_prompts=1": "finished",
        "num_prompts=2": "finished",
        "num_prompts=4": "finished",
    }
    trial = trials["num_prompts=4"]
    environment = json.loads((ran.folder.out / "trials" / trial["key"] / "environment.json").read_text())
    assert environment["execution"]["workers"] == 2
    assert [row["step"] for row in ran.folder.history(trial["key"])] == list(range(STEPS + 1))
    assert ran.lost.output.count("num_prompts=4 seed 0: starting") == 1
    told = [
        [int(step) for step in re.findall(r"num_prompts=4 seed 0: training (\d+)/", attempt)]
        for attempt in ran.lost.output.split("num_prompts=4 seed 0: retrying")
    ]
    assert len(told) > 1
    for before, after in pairwise(steps for steps in told if steps):
        assert after[0] > before[-1] - EVERY_STEPS, f"no step is repeated from before the last checkpoint: {told}"
    assert not list((ran.folder.path / "shared" / "checkpoints").iterdir())
    shown = ran.folder.mlflow()
    assert len(shown.children) == 3
    assert {run.info.status for run in shown.children.values()} == {"FINISHED"}


def test_without_its_token_nobody_joins_the_cluster(ran: Ran) -> None:
    assert "joined" not in ran.stranger.stdout
    assert ran.stranger.returncode != 0
    assert "token" in ran.stranger.stdout + ran.stranger.stderr
