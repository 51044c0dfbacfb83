"""One logged trial run again from its run id alone, as logged or with what it ran on changed since."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spt_core import conversations
from tests.sweeps.command_line import assert_refused
from tests.sweeps.verify.logged_run import Logged


def test_a_trial_reproduces_to_the_bit_from_its_run_id_alone(logged: Logged) -> None:
    torch.set_num_threads(2)  # the trial ran on one
    code, out, _ = logged.verify()
    assert code == 0, out
    assert "to the bit, on 1 thread: processor, torch and versions are those of the run" in out
    assert "num_prompts=2 seed 0: finished in" in out
    compared = sum(not name.endswith("seconds") for name in json.loads(logged.artifact("metrics.json").read_text()))
    assert compared > 50
    assert f"REPRODUCED exactly: {compared} metrics, all but timings, are equal" in out
    assert "NOT" not in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("test/nll")] == ["equal"]


def test_the_verdict_as_json(logged: Logged) -> None:
    code, out, err = logged.verify("--json")
    verdict = json.loads(out)
    assert code == 0
    assert verdict["reproduced"]
    assert verdict["equal"]
    assert verdict["had_to_be_equal"]
    assert verdict["threads"] == 1
    now = verdict["metrics"]["test/nll"]
    assert now["logged"] == now["now"] == logged.child.data.metrics["test/nll"]
    assert "seconds" not in " ".join(verdict["metrics"])
    assert "training 2/2" in err


@pytest.mark.parametrize(("name", "split"), [("train.txt", "train"), ("valid.txt", "test")])
def test_one_byte_of_the_data_is_refused_with_file_and_fingerprints(
    logged: Logged, source: Callable[[str], Path], name: str, split: str
) -> None:
    path = source(name)
    text = path.read_bytes()
    at = text.index(b"\t") + 1  # the first byte of the first reply
    path.write_bytes(text[:at] + (b"x" if text[at : at + 1] != b"x" else b"y") + text[at + 1 :])
    present = conversations.load(path).fingerprint
    fingerprint = logged.plan.trials[0].identity["data"][split]
    assert present != fingerprint
    assert_refused(
        logged.verify(),
        f"data.{split} = {path}: these are not the dialogues of the run",
        f"logged fingerprint {fingerprint}, present fingerprint {present}",
        f"--{split} FILE",
    )


def test_data_that_moved_is_the_same_data(logged: Logged, source: Callable[[str], Path], tmp_path: Path) -> None:
    path = source("train.txt")
    shutil.move(path, tmp_path / "elsewhere.txt")
    assert_refused(logged.verify(), f"data.train: {path}: there is no such file", "say where it is: --train FILE")
    code, out, _ = logged.verify("--train", str(tmp_path / "elsewhere.txt"))
    assert code == 0, out
    assert "REPRODUCED exactly" in out


def test_another_model_is_refused(logged: Logged, source: Callable[[str], Path]) -> None:
    path = source("model/model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fingerprint = logged.plan.trials[0].identity["backbone"]
    assert_refused(logged.verify(), "this is not the model of the run", f"logged fingerprint {fingerprint}", "--model")


def test_another_numerics_version_is_refused_with_the_commit_of_the_run(logged: Logged) -> None:
    def older(environment: dict[str, Any]) -> None:
        environment["identity"]["numerics"] = 1
        environment["facts"]["git_commit"] = "abc123 with uncommitted changes"

    logged.edit("environment.json", older)
    assert_refused(
        logged.verify(), "numerics version: logged 1, here", "git checkout abc123, then apply the run's code.diff"
    )


def test_on_another_machine_the_tolerance_is_the_spread_of_the_seeds(logged: Logged) -> None:
    def elsewhere(environment: dict[str, Any]) -> None:
        environment["execution"] |= {"processor": "Z80", "threads": 2}
        environment["facts"]["git_commit"] = "abc123"
        environment["facts"]["ray"] = "1.0"
        environment["identity"]["versions"]["transformers"] = "4.0"

    logged.edit("environment.json", elsewhere)
    code, out, _ = logged.verify()
    assert code == 0, out
    for needle in (
        "to a tolerance, on 2 threads: transformers was 4.0, is ",
        "the processor was Z80, is ",
        "note: code: logged abc123, here ",
        "note: ray: logged 1.0, here ",
        "2 standard deviations over the 2 seeds of its cell",
        "REPRODUCED",
    ):
        assert needle in out


def test_a_config_changed_in_the_run_is_not_reproduced(logged: Logged) -> None:
    logged.edit("config.json", lambda config: config["optim"].update(learning_rate=0.5))
    code, out, _ = logged.verify()
    assert code == 1
    assert "key: logged" in out
    assert "NOT REPRODUCED" in out


def test_a_trial_that_fails_now_is_not_reproduced(logged: Logged) -> None:
    logged.edit("config.json", lambda config: config["optim"].update(learning_rate=1e30))
    code, out, _ = logged.verify()
    assert code == 1
    assert "NOT REPRODUCED: the trial finished then and failed now: NonFiniteLossError" in out
