"""Runs that cannot be verified: each is refused with the reason and the remedy."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sweeps.engine.store.trial_folder import TrialResult
from tests.sweeps.command_line import assert_refused, invoke
from tests.sweeps.verify.logged_run import Logged, Ran, track


def test_a_run_that_is_not_there_is_refused(logged: Logged) -> None:
    assert_refused(logged.verify(run_id="0" * 32), f"RUN_ID {'0' * 32}: there is no such run", "spt ui")


def test_a_folder_without_a_store_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    answer = invoke("verify", "abc", "--output", tmp_path / "none")
    assert_refused(answer, f"--output {tmp_path / 'none'}", "--tracking-uri")
    assert not (tmp_path / "none").exists()


def test_a_whole_sweep_is_refused(logged: Logged) -> None:
    refusal = logged.verify(run_id=logged.shown.parent.info.run_id)
    assert_refused(refusal, f"it is a whole sweep, {logged.plan.sweep_id}", "one of its child runs")


@pytest.mark.parametrize(
    ("state", "error", "reason"),
    [
        ("failed", "NonFiniteLossError: step 2", "the trial failed (NonFiniteLossError: step 2), so there is nothing"),
        ("interrupted", None, "nothing to verify yet: it was interrupted"),
    ],
)
def test_a_trial_that_did_not_finish_is_refused(
    ran: Ran, tmp_path: Path, state: Any, error: str | None, reason: str
) -> None:
    plan, folder, _ = ran
    shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db")
    track(plan, tmp_path, [TrialResult(plan.trials[0].key, state, {}, tmp_path / "nothing", error=error)])
    assert_refused(Logged(tmp_path, plan).verify(), reason, "run its sweep again")


@pytest.mark.parametrize("name", ["config.json", "environment.json", "metrics.json"])
def test_a_run_without_one_of_its_files_is_refused(logged: Logged, name: str) -> None:
    logged.artifact(name).unlink()
    assert_refused(logged.verify(), f"its file {name} cannot be had", "run its sweep again")


def test_a_file_that_is_not_json_is_refused(logged: Logged) -> None:
    logged.artifact("config.json").write_text("{")
    assert_refused(logged.verify(), "its file config.json is no JSON", "changed")
