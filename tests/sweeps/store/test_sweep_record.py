"""How a sweep was asked for, what is kept of it, and how sweeps stand by it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.engine.design.designs import Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.driver.recall import record_of
from sweeps.engine.driver.status import statuses
from sweeps.engine.plan.plan import Plan, expand
from sweeps.engine.store import sweep_record, trial_folder
from sweeps.engine.store.ledger import Ledger, owner_here
from tests.conftest import tiny_config

K = "prompts.num_prompts"


@pytest.fixture
def plan_of(tiny_llama: Path) -> Callable[..., Plan]:
    def expanded(*levels: int, name: str = "mine") -> Plan:
        return expand(
            Sweep(name, tiny_config(tiny_llama), Grid({K: levels or (1, 2, 4)})), scale="full", device_type="cpu"
        )

    return expanded


def keep(plan: Plan, output: Path, *arguments: str, started: float = 1000.0) -> sweep_record.SweepRecord:
    made = record_of(
        plan,
        file=f"{plan.sweep.name}.py",
        arguments=arguments,
        concurrency=2,
        study=f"sqlite:///{output}/optuna.db",
        started=started,
    )
    sweep_record.write(made, output / plan.sweep_id)
    return made


def test_what_is_written_is_read(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of()
    kept = keep(plan, tmp_path, "--seeds", "3")
    assert sweep_record.read(tmp_path / plan.sweep_id) == kept
    assert kept.trials == {trial.key: trial.label for trial in plan.trials}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--seeds", "3", "--rerun"], ["--seeds", "3"]),
        (["--budget-hours", "2", "--steps=4"], ["--steps=4"]),
        (["--output", "there", "--workers", "0"], ["--workers", "0"]),
        (["--output=there", "--price-per-hour=2", "--calibrate"], []),
        (["--as-sweep=mine-full-1", "--set", "a=b"], ["--set", "a=b"]),
        (["--tracking-uri", "http://host:5000"], ["--tracking-uri=http://host:5000"]),
        (["--study", "postgresql://me:secret@host/db"], ["--study=postgresql://***@host/db"]),
        (["--tracking-uri=http://me:secret@host"], ["--tracking-uri=http://***@host"]),
        (["--storage", "s3://me:sec@ret/+@bucket/x"], ["--storage=s3://***@bucket/x"]),
        (["--storage", "s3://bucket/x"], ["--storage=s3://bucket/x"]),
        (["--study=postgresql://host/db?password=secret"], ["--study=postgresql://***@host/db?password=***"]),
    ],
)
def test_what_is_for_one_run_and_passwords_are_not_kept(
    plan_of: Callable[..., Plan], tmp_path: Path, given: list[str], kept: list[str]
) -> None:
    found = keep(plan_of(), tmp_path, *given)
    assert list(found.arguments) == kept
    assert "secret" not in next(tmp_path.glob("*/sweep.json")).read_text()
    assert found.not_kept == [one.partition("=")[0] for one in kept if "***" in one]


def test_a_sweep_is_found_by_its_id_its_start_or_its_file(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    mine, other = plan_of(), plan_of(name="other")
    for plan in (mine, other):
        keep(plan, tmp_path)
    for name in (mine.sweep_id, "mine", "mine-full", "mine.py"):
        assert sweep_record.find(tmp_path, name).sweep_id == mine.sweep_id
    keep(plan_of(1, 2), tmp_path)
    with pytest.raises(ValueError, match=r"^mine: several sweeps of .* are meant; name one: mine-full-.*, mine-full-"):
        sweep_record.find(tmp_path, "mine")
    with pytest.raises(ValueError, match=r"nothing: no sweep of .* has this id or file; there are .*other-full"):
        sweep_record.find(tmp_path, "nothing")
    with pytest.raises(ValueError, match="there is none"):
        sweep_record.find(tmp_path / "empty", "mine")


def test_status_counts_what_the_ledger_says(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(1, 2, 3, 4, 5, 6)
    keep(plan, tmp_path)
    finished, fails, runs, dies, stops, _ = (trial.key for trial in plan.trials)
    ledger, owner = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"), owner_here()
    long_ago = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", clock=lambda: time.time() - 3600)
    for key in (finished, fails, runs, stops):
        assert ledger.claim(key, owner=owner)
    assert long_ago.claim(dies, owner="another machine")
    ledger.finish(finished, owner=owner, metrics={"worker/seconds": 60.0})
    ledger.fail(fails, owner=owner, error="ValueError: no")
    ledger.release(stops, owner=owner)
    history = tmp_path / "trials" / runs / trial_folder.HISTORY
    history.parent.mkdir(parents=True)
    history.write_text(json.dumps({"step": 1, "total_steps": 4}) + "\n" + '{"step": 2, "tot')
    (status,) = statuses(tmp_path)
    assert status.counts == {"finished": 1, "failed": 1, "running": 1, "left": 1, "interrupted": 1, "not run": 1}
    assert (status.total, status.is_left) == (6, False)
    shown = {trial.key: trial for trial in status.trials}
    assert shown.keys() == {fails, runs, dies}
    assert (shown[runs].share, shown[runs].state) == (0.25, "running")
    assert shown[runs].last_beat < 30
    assert 3500 < shown[dies].last_beat < 3700
    assert shown[fails].error == "ValueError: no"
    assert status.mean_seconds == 60.0
    assert status.eta_seconds == pytest.approx(60 * (3 + 0.75) / 2)
    ledger.release(runs, owner=owner)
    assert statuses(tmp_path)[0].is_left


def test_the_sweep_started_last_comes_first(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    early, late = plan_of(1), plan_of(2)
    keep(early, tmp_path, started=1.0)
    keep(late, tmp_path, started=2.0)
    assert [one.sweep_id for one in statuses(tmp_path)] == [late.sweep_id, early.sweep_id]
    assert [one.sweep_id for one in statuses(tmp_path, only=early.sweep_id)] == [early.sweep_id]


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sweep has been started in it; spt run starts one"):
        statuses(tmp_path)
