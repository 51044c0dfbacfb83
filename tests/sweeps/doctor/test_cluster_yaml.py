"""What the doctor finds in a cluster's YAML file with one fault planted."""

from pathlib import Path

import pytest
import yaml

from sweeps.engine.doctor import cluster_yaml
from sweeps.engine.doctor.finding import Finding
from tests.conftest import PROJECT
from tests.sweeps.doctor.findings import levels, only


@pytest.fixture
def on_prem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """That of the project, edited as a person would."""
    monkeypatch.chdir(PROJECT)
    (tmp_path / "key").write_text("a key")
    config: dict[str, object] = yaml.safe_load((PROJECT / "clusters" / "on_prem.yaml").read_text())
    config["auth"] = {"ssh_user": "ann", "ssh_private_key": str(tmp_path / "key")}
    return config


def examined(config: object, folder: Path) -> list[Finding]:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    return cluster_yaml.examine(path)


def test_an_edited_cluster_file_is_green(on_prem: dict[str, object], tmp_path: Path) -> None:
    assert levels(examined(on_prem, tmp_path)) == {"ok"}


def test_a_cluster_file_that_ray_refuses(on_prem: dict[str, object], tmp_path: Path) -> None:
    found = only(examined({**on_prem, "max_workrs": 3}, tmp_path), "cluster file")
    assert "max_workrs" in found.what


def test_a_cluster_file_with_places_left_to_edit() -> None:
    findings = cluster_yaml.examine(PROJECT / "clusters" / "v100.yaml")
    (found,) = [finding for finding in findings if finding.check == "cluster edits"]
    assert "YOUR-BUCKET" in found.what
    assert "ami-" in found.what


def test_a_cluster_file_whose_key_is_not_there(on_prem: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "key").unlink()
    assert "ssh-keygen" in only(examined(on_prem, tmp_path), "ssh key").cure


def test_a_cluster_file_whose_mounts_are_not_there(
    on_prem: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "pyproject.toml" in only(examined(on_prem, tmp_path), "file mounts").what


def test_a_cluster_file_without_a_token(on_prem: dict[str, object], tmp_path: Path) -> None:
    found = only(examined({**on_prem, "setup_commands": ["pip install ray"]}, tmp_path), "cluster token")
    assert "environment.sh" in found.cure


def test_a_cluster_file_with_a_server_open_to_all(on_prem: dict[str, object], tmp_path: Path) -> None:
    opened = {**on_prem, "head_start_ray_commands": ["ray start --head --dashboard-host=0.0.0.0"]}
    assert "0.0.0.0" in only(examined(opened, tmp_path), "open ports").what


def test_an_aws_file_that_leaves_the_firewall_to_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    config = yaml.safe_load((PROJECT / "clusters" / "v100.yaml").read_text())
    for kind in config["available_node_types"].values():
        kind["node_config"] = {**kind["node_config"], "ImageId": "ami-1"}
        kind["node_config"].pop("SecurityGroupIds")
    config["head_setup_commands"] = ["true"]
    assert "whole world" in only(examined(config, tmp_path), "open ports").why


def test_a_cluster_that_is_not_up(on_prem: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    on_prem["cluster_name"] = "spt-never-started"
    path.write_text(yaml.safe_dump(on_prem))
    found = only(cluster_yaml.ask_head(path, []), "head")
    assert "ray up" in found.cure
