"""How much a cluster holds, what its GPUs can do, and how files go from node to node, without Ray."""

import json
from pathlib import Path

import pytest

from sweeps.engine.cluster import nodes as cluster
from sweeps.engine.cluster.nodes import Cluster, Nodes
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.store import shared_storage
from sweeps.engine.store.layout import OutputLayout

HEAD = Nodes(1, cpus=7.0)
P3DN = Nodes(4, cpus=96.0, gpus=8.0, memory=700.0, accelerator="V100", alive=False)


@pytest.mark.parametrize(
    ("gpus", "room"),
    [(1.0, 32), (0.5, 64), (0.1, 320), (2.0, 16), (3.0, 8), (8.0, 4), (9.0, 0)],
)
def test_workers_are_counted_node_by_node(gpus: float, room: int) -> None:
    """A worker's GPUs are of one node: 32 GPUs on four nodes hold eight workers of three, not ten."""
    assert Cluster((HEAD, P3DN)).room(cpus=1, gpus=gpus) == room


def test_cpus_and_memory_limit_as_gpus_do() -> None:
    assert Cluster((HEAD, P3DN)).room(cpus=48, gpus=1) == 8
    assert Cluster((HEAD, P3DN)).room(cpus=1, gpus=1, memory=300.0) == 8
    assert Cluster((HEAD, P3DN)).room(cpus=1, gpus=0) == 7 + 4 * 96


def test_each_gpu_has_its_share_of_the_cpus() -> None:
    assert Cluster((HEAD, P3DN)).share_of_cpus(1.0) == 12
    assert Cluster((HEAD, P3DN)).share_of_cpus(0.5) == 6


@pytest.mark.parametrize(
    ("kinds", "half"),
    [(["V100"], "float16"), (["A100"], "bfloat16"), (["A100", "T4"], "float16"), ([""], None), (["A100", ""], None)],
)
def test_what_auto_means_on_gpus_that_the_driver_has_not(kinds: list[str], half: str | None) -> None:
    nodes = tuple(Nodes(1, cpus=8.0, gpus=1.0, accelerator=kind) for kind in kinds)
    assert Cluster((HEAD, *nodes)).half_precision == half


def test_the_launchers_file_says_what_may_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cluster._autoscaler() == ([], ())
    types = {
        "head": {"resources": {"CPU": 8}},
        "v100": {"resources": {"CPU": 96, "GPU": 8, "accelerator_type:V100": 1}, "max_workers": 4},
        "spot": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 0},
    }
    config = {
        "head_node_type": "head",
        "max_workers": 3,
        "available_node_types": types,
        "file_mounts": {"~/data": "/somewhere"},
    }
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
    groups, mounts = cluster._autoscaler()
    assert [(group.count, group.gpus, group.accelerator) for group in groups] == [(3, 8.0, "V100"), (0, 8.0, "")]
    assert mounts == (str(tmp_path / "data"),)


def test_this_machines_own_disk_is_on_no_network(tmp_path: Path) -> None:
    assert not cluster.is_on_network(tmp_path / "not" / "made" / "yet")


@pytest.mark.parametrize(("workers", "gpus"), [(2, 0.5), (1, 1.5)])
def test_a_fraction_of_a_gpu_is_for_trials_of_one_worker_that_share_one(workers: int, gpus: float) -> None:
    with pytest.raises(ValueError, match="whole GPUs, or --workers 1"):
        Resources(workers=workers, gpus_per_worker=gpus)


def test_files_go_through_a_shared_folder_and_back(tmp_path: Path) -> None:
    trial, place, back = tmp_path / "trial", str(tmp_path / "shared" / "files" / "key"), tmp_path / "back"
    (trial / "adapter").mkdir(parents=True)
    (trial / "adapter" / "adapter.json").write_text("{}")
    (trial / "history.jsonl").write_text("one\n")
    assert not shared_storage.fetch(place, back)
    shared_storage.put(trial, place)
    (trial / "history.jsonl").write_text("one\ntwo\n")
    shared_storage.put(trial, place)
    assert shared_storage.fetch(place, back)
    assert (back / "history.jsonl").read_text() == "one\ntwo\n"
    assert (back / "adapter" / "adapter.json").read_text() == "{}"
    shared_storage.remove(place)
    assert not shared_storage.fetch(place, tmp_path / "again")
    shared_storage.remove(place)


def test_what_a_place_keeps_is_the_last_that_was_written_to_its_end(tmp_path: Path) -> None:
    given, place = tmp_path / "given", str(tmp_path / "kept")
    given.mkdir()
    assert not shared_storage.fetch_kept(place, tmp_path / "none")
    for step in range(12):
        (given / "step").write_text(str(step))
        (given / f"of-{step}").write_text("")
        shared_storage.keep(given, place)
        (given / f"of-{step}").unlink()
    (tmp_path / "kept" / "13").mkdir()  # its writer died before it came to the end
    (tmp_path / "kept" / "13" / "of-12").write_text("")
    assert shared_storage.fetch_kept(place, tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["of-11", "step"]
    assert (tmp_path / "back" / "step").read_text() == "11"
    assert len(list((tmp_path / "kept").iterdir())) == 3, "what is kept, its mark, and what was broken off"
    shared_storage.keep(given, place)
    assert shared_storage.fetch_kept(place, tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["step"]


def test_places_below_a_bucket_keep_its_options_at_the_end() -> None:
    places = OutputLayout(Path("/runs"), storage="s3://bucket/spt/?region=us-east-1")
    assert places.handed_over("key") == "s3://bucket/spt/files/key?region=us-east-1"
    assert places.checkpoints == "s3://bucket/spt/checkpoints?region=us-east-1"
    assert OutputLayout(Path("/runs")).handed_over("key") == ""
    assert OutputLayout(Path("/runs")).checkpoints == "/runs/checkpoints"


@pytest.mark.parametrize(
    ("place", "remote"), [("s3://bucket", True), ("gs://b/f", True), ("/mnt/s3", False), ("a:b", False)]
)
def test_a_bucket_is_told_from_a_folder(place: str, remote: bool) -> None:
    assert shared_storage.is_remote(place) is remote


def test_storage_that_cannot_be_used_is_refused_with_the_cure(tmp_path: Path) -> None:
    shared_storage.probe(str(tmp_path / "new"))
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"--storage .*file/below: it cannot be written and read here"):
        shared_storage.probe(str(tmp_path / "file" / "below"))
    with pytest.raises(ValueError, match="--storage nowhere://bucket"):
        shared_storage.probe("nowhere://bucket")
