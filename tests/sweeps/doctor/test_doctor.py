"""`spt doctor` on a good machine, and on machines and clusters with one fault planted each."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from sweeps.engine.cli.main import app
from sweeps.engine.doctor import cluster_yaml, examine
from sweeps.engine.doctor.checks import compare, examine_machine
from sweeps.engine.doctor.facts import Facts, Gpu, look
from sweeps.engine.doctor.finding import Finding, Request
from tests.conftest import PROJECT

V100 = Gpu("Tesla V100-SXM2-32GB", (7, 0), has_bfloat16=False)
A100 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), has_bfloat16=True)
TORCH_2_10 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
LATER_TORCH = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with a token that only its owner reads, and no cluster."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "SPT_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("t" * 40)
    token.chmod(0o600)
    return tmp_path


@pytest.fixture
def request_(home: Path, tiny_llama: Path) -> Request:
    return Request(
        model=str(tiny_llama),
        train="sample:train",
        test="sample:valid",
        output=home / "runs",
        storage=None,
        tracking_uri=f"sqlite:///{home / 'runs' / 'mlflow.db'}",
        num_trials=24,
    )


@pytest.fixture
def facts(request_: Request) -> Facts:
    """Those of this machine, with enough disk and memory for any test to run beside others."""
    seen = look(*request_.sources)
    return replace(seen, disk_gib={"/": 500.0}, memory_gib=32.0)


def only(findings: list[Finding], check: str) -> Finding:
    """The one finding that is no `ok`; it says what, why and how."""
    bad = [finding for finding in findings if finding.level != "ok"]
    assert [finding.check for finding in bad] == [check], bad
    assert bad[0].what
    assert bad[0].why
    assert bad[0].cure
    return bad[0]


def spt_doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_a_good_machine_is_green(home: Path, tiny_llama: Path) -> None:
    result = spt_doctor("--model", str(tiny_llama), "--output", str(home / "runs"), "--json")
    assert result.exit_code == 0, result.output
    findings = json.loads(result.stdout)["findings"]
    assert {finding["level"] for finding in findings} == {"ok"}
    checks = ("python", "packages", "dashboard", "gpu", "precision", "disk", "memory", "token")
    assert {finding["check"] for finding in findings} >= {*checks, "model", "train", "test", "storage", "mlflow"}


def test_for_people_each_finding_says_what_why_and_how(home: Path, tiny_llama: Path) -> None:
    result = spt_doctor("--model", str(tiny_llama), "--output", str(home / "runs"), "--train", "nowhere.txt")
    assert result.exit_code == 1
    at = next(n for n, line in enumerate(result.stdout.splitlines()) if line.startswith("error"))
    problem, why, cure = result.stdout.splitlines()[at : at + 3]
    assert "nowhere.txt" in problem
    assert why.strip().startswith("why: ")
    assert cure.strip().startswith("cure: ")
    assert result.stdout.splitlines()[-1].endswith("0 warnings, 1 errors")


# --- faults of a machine ---


def test_an_old_python(facts: Facts, request_: Request) -> None:
    assert "3.10.12" in only(examine_machine(replace(facts, python=(3, 10, 12)), request_), "python").what


def test_a_package_that_is_missing(facts: Facts, request_: Request) -> None:
    without = replace(facts, packages={**facts.packages, "mlflow": None})
    assert only(examine_machine(without, request_), "packages").what == "not installed: mlflow"


def test_ray_without_its_dashboard(facts: Facts, request_: Request) -> None:
    found = only(examine_machine(replace(facts, without_dashboard="aiohttp_cors"), request_), "dashboard")
    assert "deadlocks" in found.why
    assert "ray[default" in found.cure


def test_a_v100_with_a_torch_that_has_no_kernels_for_it(facts: Facts, request_: Request) -> None:
    machine = replace(facts, gpus=(V100,), gpus_of_driver=1, architectures=LATER_TORCH, cuda="12.8")
    found = only(examine_machine(machine, request_), "gpu")
    assert "sm_70" in found.what
    assert "torch==2.10.*" in found.cure


@pytest.mark.parametrize(("gpu", "auto"), [(V100, "float16"), (A100, "bfloat16")])
def test_a_gpu_that_is_served_is_green_and_its_precision_is_said(
    gpu: Gpu, auto: str, facts: Facts, request_: Request
) -> None:
    machine = replace(facts, gpus=(gpu,), gpus_of_driver=1, architectures=TORCH_2_10, cuda="12.8")
    findings = examine_machine(machine, request_)
    assert {finding.level for finding in findings} == {"ok"}
    (precision,) = [finding for finding in findings if finding.check == "precision"]
    assert precision.what.startswith(f"auto means {auto}")


@pytest.mark.parametrize(
    ("capability", "architectures", "served"),
    [
        ((8, 6), ("sm_80",), True),  # binary compatible within a major version
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80",), False),
        ((9, 0), ("sm_80", "compute_80"), True),  # PTX, compiled by the driver
        ((9, 0), ("sm_90a",), True),
        ((10, 0), ("sm_100",), True),
    ],
)
def test_which_build_serves_which_gpu(
    capability: tuple[int, int], architectures: tuple[str, ...], served: bool
) -> None:
    assert Gpu("any", capability, has_bfloat16=True).is_served_by(architectures) is served


def test_a_torch_for_the_cpu_where_there_are_gpus(facts: Facts, request_: Request) -> None:
    found = only(examine_machine(replace(facts, gpus_of_driver=8, cuda=None), request_), "gpu")
    assert "8 GPUs" in found.what
    assert "CPU alone" in found.what


def test_gpus_of_which_some_have_no_bfloat16(facts: Facts, request_: Request) -> None:
    machine = replace(facts, gpus=(V100, A100), gpus_of_driver=2, architectures=TORCH_2_10, cuda="12.8")
    assert "float16" in only(examine_machine(machine, request_), "precision").cure


def test_a_disk_that_the_plan_would_fill(facts: Facts, request_: Request) -> None:
    machine = replace(facts, disk_gib={"/data": 12.0, "/": 500.0})
    assert {finding.level for finding in examine_machine(machine, request_)} == {"ok"}
    found = only(examine_machine(machine, replace(request_, num_trials=1000)), "disk")
    assert "12.0 GiB free at /data" in found.what


def test_memory_that_one_trial_would_fill(facts: Facts, request_: Request) -> None:
    assert "1.5 GiB" in only(examine_machine(replace(facts, memory_gib=1.5), request_), "memory").what


def test_a_model_and_data_that_cannot_be_had(request_: Request, tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text("no dialogue at all\n")
    seen = look("no-such-folder/no-such-model", str(tmp_path / "broken.txt"), request_.test, str(request_.output))
    seen = replace(seen, disk_gib={"/": 500.0}, memory_gib=32.0)
    bad = [finding for finding in examine_machine(seen, request_) if finding.level == "error"]
    assert [finding.check for finding in bad] == ["model", "train"]
    assert "no-such-model" in bad[0].what


# --- the token ---


def test_a_cluster_without_token_mode(request_: Request, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    seen = replace(look(*request_.sources), disk_gib=facts.disk_gib, memory_gib=facts.memory_gib)
    assert "RAY_AUTH_MODE" in only(examine_machine(seen, request_), "token").what


def test_token_mode_without_a_token(
    request_: Request, facts: Facts, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (home / ".ray" / "auth_token").unlink()
    seen = replace(look(*request_.sources), disk_gib=facts.disk_gib, memory_gib=facts.memory_gib)
    assert "cannot join" in only(examine_machine(seen, request_), "token").why


def test_a_token_that_others_can_read(request_: Request, facts: Facts, home: Path) -> None:
    (home / ".ray" / "auth_token").chmod(0o644)
    seen = replace(look(*request_.sources), disk_gib=facts.disk_gib, memory_gib=facts.memory_gib)
    found = only(examine_machine(seen, request_), "token")
    assert found.level == "warning"
    assert found.cure == f"chmod 600 {home / '.ray' / 'auth_token'}"


# --- nodes that differ, and what they share ---


def test_a_node_with_other_versions(facts: Facts) -> None:
    other = replace(facts, node="other", packages={**facts.packages, "torch": "2.10.0"})
    found = only(compare(facts, other, asked=facts.clock, answered=facts.clock), "same versions")
    assert found.node == "other"
    assert "torch 2.10.0" in found.what


@pytest.mark.parametrize("off", [-90.0, 90.0])
def test_a_clock_that_is_off(facts: Facts, off: float) -> None:
    now = time.time()
    other = replace(facts, clock=now + off)
    assert "90 s off" in only(compare(facts, other, asked=now, answered=now), "clock").what
    slow_answer = compare(facts, replace(facts, clock=now + 20), asked=now, answered=now + 40)
    assert {finding.level for finding in slow_answer} == {"ok"}, "a node that answers late has no wrong clock"


def test_a_folder_that_another_node_does_not_see(request_: Request) -> None:
    found = only([examine.examine_sharing(request_, ["10.0.0.7"], may_grow=False)], "sharing")
    assert "not there on 10.0.0.7" in found.what


def test_a_local_folder_where_nodes_may_be_added(request_: Request) -> None:
    found = only([examine.examine_sharing(request_, [], may_grow=True)], "sharing")
    assert "own disk" in found.what
    bucket = replace(request_, storage="s3://bucket/spt")
    assert examine.examine_sharing(bucket, [], may_grow=True).level == "ok"


def test_storage_that_cannot_be_written(request_: Request, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = replace(request_, storage=str(tmp_path / "file" / "below"))
    assert "--storage" in only([examine.examine_storage(blocked)], "storage").what


# --- MLflow ---


def test_mlflow_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = only([examine.examine_tracking(f"http://ann:secret@127.0.0.1:{port}")], "mlflow")
    assert "refused" in found.what
    assert "secret" not in str(found)


class _Locked(BaseHTTPRequestHandler):
    """What MLflow with basic authentication says to one without credentials."""

    def do_GET(self) -> None:
        healthy = self.path == "/health"
        self.send_response(200 if healthy else 401)
        self.end_headers()
        self.wfile.write(b"OK" if healthy else b"You are not authenticated.")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def locked() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Locked)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_mlflow_that_does_not_let_us_in(locked: str) -> None:
    assert "~/.mlflow/credentials" in only([examine.examine_tracking(locked)], "mlflow").cure


# --- the cluster's file ---


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
    assert {finding.level for finding in examined(on_prem, tmp_path)} == {"ok"}


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
