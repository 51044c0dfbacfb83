"""What the doctor finds on one machine with one fault planted, and between two nodes that differ."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.engine.doctor.checks import compare, examine_machine
from sweeps.engine.doctor.facts import Facts, Gpu, look
from sweeps.engine.doctor.finding import Finding, Needs
from tests.sweeps.doctor.findings import levels, only

V100 = Gpu("Tesla V100-SXM2-32GB", (7, 0), has_bfloat16=False)
A100 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), has_bfloat16=True)
TORCH_2_10 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
LATER_TORCH = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


def test_an_old_python(facts: Facts, request_: Needs) -> None:
    assert "3.10.12" in only(examine_machine(replace(facts, python=(3, 10, 12)), request_), "python").what


def test_a_package_that_is_missing(facts: Facts, request_: Needs) -> None:
    without = replace(facts, packages={**facts.packages, "mlflow": None})
    assert only(examine_machine(without, request_), "packages").what == "not installed: mlflow"


def test_ray_without_its_dashboard(facts: Facts, request_: Needs) -> None:
    found = only(examine_machine(replace(facts, without_dashboard="aiohttp_cors"), request_), "dashboard")
    assert "deadlocks" in found.why
    assert "ray[default" in found.cure


def test_a_v100_with_a_torch_that_has_no_kernels_for_it(facts: Facts, request_: Needs) -> None:
    machine = replace(facts, gpus=(V100,), gpus_of_driver=1, architectures=LATER_TORCH, cuda="12.8")
    found = only(examine_machine(machine, request_), "gpu")
    assert "sm_70" in found.what
    assert "torch==2.10.*" in found.cure


@pytest.mark.parametrize(("gpu", "auto"), [(V100, "float16"), (A100, "bfloat16")])
def test_a_supported_gpu_is_green_with_its_precision(gpu: Gpu, auto: str, facts: Facts, request_: Needs) -> None:
    machine = replace(facts, gpus=(gpu,), gpus_of_driver=1, architectures=TORCH_2_10, cuda="12.8")
    findings = examine_machine(machine, request_)
    assert levels(findings) == {"ok"}
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
def test_which_build_of_torch_supports_which_gpu(
    capability: tuple[int, int], architectures: tuple[str, ...], served: bool
) -> None:
    assert Gpu("any", capability, has_bfloat16=True).is_served_by(architectures) is served


def test_a_torch_for_the_cpu_where_there_are_gpus(facts: Facts, request_: Needs) -> None:
    found = only(examine_machine(replace(facts, gpus_of_driver=8, cuda=None), request_), "gpu")
    assert "8 GPUs" in found.what
    assert "CPU alone" in found.what


def test_gpus_of_which_some_have_no_bfloat16(facts: Facts, request_: Needs) -> None:
    machine = replace(facts, gpus=(V100, A100), gpus_of_driver=2, architectures=TORCH_2_10, cuda="12.8")
    assert "float16" in only(examine_machine(machine, request_), "precision").cure


def test_a_disk_that_the_plan_would_fill(facts: Facts, request_: Needs) -> None:
    machine = replace(facts, disk_gib={"/data": 12.0, "/": 500.0})
    assert levels(examine_machine(machine, request_)) == {"ok"}
    found = only(examine_machine(machine, replace(request_, num_trials=1000)), "disk")
    assert "12.0 GiB free at /data" in found.what


def test_memory_that_one_trial_would_fill(facts: Facts, request_: Needs) -> None:
    assert "1.5 GiB" in only(examine_machine(replace(facts, memory_gib=1.5), request_), "memory").what


def test_a_model_and_data_that_cannot_be_loaded(request_: Needs, tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text("no dialogue at all\n")
    seen = look("no-such-folder/no-such-model", str(tmp_path / "broken.txt"), request_.test, str(request_.output))
    seen = replace(seen, disk_gib={"/": 500.0}, memory_gib=32.0)
    bad = [finding for finding in examine_machine(seen, request_) if finding.level == "error"]
    assert [finding.check for finding in bad] == ["model", "train"]
    assert "no-such-model" in bad[0].what


# --- the token ---


@pytest.fixture
def token(request_: Needs, facts: Facts) -> Callable[[], Finding]:
    """The finding on the token, as environment and files are when it is called."""

    def finding() -> Finding:
        seen = replace(look(*request_.sources), disk_gib=facts.disk_gib, memory_gib=facts.memory_gib)
        return only(examine_machine(seen, request_), "token")

    return finding


def test_a_cluster_without_token_mode(token: Callable[[], Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "RAY_AUTH_MODE" in token().what


def test_token_mode_without_a_token(token: Callable[[], Finding], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (home / ".ray" / "auth_token").unlink()
    assert "cannot join" in token().why


def test_a_token_that_others_can_read(token: Callable[[], Finding], home: Path) -> None:
    (home / ".ray" / "auth_token").chmod(0o644)
    found = token()
    assert found.level == "warning"
    assert found.cure == f"chmod 600 {home / '.ray' / 'auth_token'}"


# --- two nodes that differ ---


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
    assert levels(slow_answer) == {"ok"}, "a node that answers late has no wrong clock"
