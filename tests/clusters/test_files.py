"""The cluster files: what Ray's own validator says of them, and what they must not leave open."""

import copy
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import PROJECT

CLUSTERS = PROJECT / "clusters"
FILES = ("v100", "on_prem", "loopback")


def load(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    return read


def commands(config: dict[str, Any]) -> list[str]:
    return [command for name, value in config.items() if name.endswith("_commands") for command in value]


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_it(name: str) -> None:
    validate_config(prepare_config(load(name)))


def test_ray_would_refuse_a_word_that_it_does_not_know() -> None:
    """The validator validates: one slip in a file fails the test above."""
    config = load("on_prem")
    config["provider"]["worker_ip"] = config["provider"].pop("worker_ips")
    config["max_worker"] = config.pop("max_workers")
    with pytest.raises(Exception, match=r"max_worker|worker_ips"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("name", FILES)
def test_a_node_gets_what_is_there_and_no_environment_results_or_data(name: str) -> None:
    config = load(name)
    local = list(config["file_mounts"].values())
    for path in local:
        assert (PROJECT / path).exists(), path
    for kept in (".venv", "runs", "data"):
        assert kept not in local
        assert kept in config["rsync_exclude"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages == {"spt_core", "sweeps"}
    assert packages <= set(local), "setuptools needs every package that pyproject.toml names"


@pytest.mark.parametrize("name", FILES)
def test_every_node_is_behind_the_token_and_nothing_listens_everywhere(name: str) -> None:
    config = load(name)
    text = "\n".join(commands(config))
    assert "environment.sh" in "\n".join(config["setup_commands"])
    assert "ray get-auth-token --generate" in "\n".join(config["head_setup_commands"])
    assert "0.0.0.0" not in text
    if name != "loopback":  # which has no other node
        assert config["cluster_synced_files"] == ["~/.ray/auth_token"]


def test_on_aws_workers_come_from_zero_and_go_and_no_group_of_rays_own_is_used() -> None:
    config = load("v100")
    types = config["available_node_types"]
    assert types["head"]["node_config"]["InstanceType"].startswith("m5")
    assert types["v100"]["node_config"]["InstanceType"] == "p3dn.24xlarge"
    assert types["v100"]["min_workers"] == types["v100_spot"]["min_workers"] == 0
    assert types["v100_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["idle_timeout_minutes"] <= 15
    for kind in types.values():
        assert kind["node_config"]["SecurityGroupIds"]
        assert kind["node_config"]["IamInstanceProfile"]
    assert "'torch==2.10.*'" in "\n".join(config["setup_commands"])


def test_what_only_a_person_knows_is_marked() -> None:
    for name, values in (("v100", ("ami-", "sg-", "s3://")), ("on_prem", ("head_ip", "worker_ips", "SPT_STORAGE"))):
        lines = (CLUSTERS / f"{name}.yaml").read_text().splitlines()
        for value in values:
            assert any(value in line and "EDIT" in line for line in lines), (name, value)


@pytest.mark.parametrize("script", ["environment.sh", "head.sh"])
def test_the_scripts_are_shell(script: str) -> None:
    done = subprocess.run(["bash", "-n", CLUSTERS / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_shell_of_a_node_knows_what_the_head_said(tmp_path: Path) -> None:
    (tmp_path / ".spt").mkdir()
    (tmp_path / ".spt" / "storage.sh").write_text("export SPT_STORAGE=s3://bucket/spt\n")
    program = f". {CLUSTERS / 'environment.sh'}; echo $RAY_AUTH_MODE $SPT_STORAGE $PATH"
    environment = {**copy.copy(dict(os.environ)), "HOME": str(tmp_path)}
    said = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, check=True).stdout
    mode, storage, path = said.split(maxsplit=2)
    assert (mode, storage) == ("token", "s3://bucket/spt")
    assert path.startswith(str(tmp_path / "spt-sweeps" / ".venv" / "bin"))
