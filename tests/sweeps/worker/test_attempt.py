"""The work of one trial without Ray: resumed, repeated, refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.engine.store import trial_folder
from sweeps.engine.worker import attempt, supervisor
from sweeps.engine.worker.attempt import Outcome
from sweeps.engine.worker.failures import one_line
from sweeps.engine.worker.job import Job, Message, MetricRow, Retrying, Scoring, as_report, message_of
from tests.conftest import tiny_config


class KilledError(BaseException):
    """What the power going off is to a test."""


@dataclass
class Reports:
    """Keeps what a trial reports, and a copy of its last checkpoint in a folder; dies at a step if told to."""

    folder: Path
    die_at: int | None = None
    rows: list[MetricRow] = field(default_factory=list)

    def say(self, message: Message) -> None:
        if isinstance(message, MetricRow):
            if message.step == self.die_at:
                raise KilledError
            self.rows.append(message)

    def keep(self, checkpoint: Path) -> None:
        shutil.copytree(checkpoint, self.folder, dirs_exist_ok=True)


def run(job: Job, reports: Reports, *, resume_from: Path | None = None) -> Outcome:
    return attempt.run(job, say=reports.say, keep=reports.keep, resume_from=resume_from)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def job(tiny_llama: Path, tmp_path: Path) -> Callable[..., Job]:
    def made(name: str = "trial", **settings: object) -> Job:
        return Job(
            key=name,
            config=tiny_config(tiny_llama, **settings).model_dump(),
            environment={"key": name},
            folder=str(tmp_path / name),
            checkpoints=str(tmp_path / "checkpoints"),
            train_runs=str(tmp_path / "tune"),
            ledger=f"sqlite:///{tmp_path / 'ledger.db'}",
            owner="ann",
            workers=0,
            cpus_per_worker=1,
            gpus_per_worker=0.0,
        )

    return made


def history(job: Job) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(job.folder) / "history.jsonl").read_text().splitlines()]


def but_for_the_machine(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("seconds") and "system/" not in name}


@pytest.mark.parametrize("cut", ["", '{"step": 5.0, "tot'], ids=["whole", "cut-short"])
def test_a_trial_that_died_goes_on_and_its_history_has_each_step_once(
    job: Callable[..., Job], tmp_path: Path, cut: str
) -> None:
    whole = job("whole")
    uninterrupted = run(whole, Reports(tmp_path / "a"))

    broken, first = job("broken"), Reports(tmp_path / "b", die_at=5)
    with pytest.raises(KilledError):
        run(broken, first)
    assert [row["step"] for row in history(broken)] == [0, 1, 2, 3, 4, 5]  # and the checkpoint is of step 3
    with (Path(broken.folder) / "history.jsonl").open("a") as file:
        file.write(cut)
    again = run(broken, Reports(tmp_path / "b"), resume_from=tmp_path / "b")

    assert [row["step"] for row in history(broken)] == [0, 1, 2, 3, 4, 5, 6]
    assert [but_for_the_machine(row) for row in history(broken)] == [but_for_the_machine(row) for row in history(whole)]
    assert but_for_the_machine(again["metrics"]) == but_for_the_machine(uninterrupted["metrics"])


def test_tune_gets_a_row_as_one_value_and_no_number_that_nothing_compares_trials_by() -> None:
    row = MetricRow(4, 8, 2.0, {"train/total": 2.5, "dev/nll": 3.5, "dev/dead_prompts": 1.0})
    report = as_report(row)
    assert message_of(report) == row
    numbers = {name: value for name, value in report.items() if isinstance(value, float)}
    assert numbers == {"percent": 50.0, "dev/nll": 3.5}
    assert message_of(as_report(Scoring(0.5))) == Scoring(0.5)
    assert message_of({"done": True}) is None


def test_a_trial_that_ended_unrecorded_answers_from_its_folder(job: Callable[..., Job], tmp_path: Path) -> None:
    one = job()
    first = run(one, Reports(tmp_path / "a"))
    again = Reports(tmp_path / "b")
    assert run(one, again) == first
    assert again.rows == []


def test_each_row_says_what_the_trial_takes_of_its_machine(job: Callable[..., Job], tmp_path: Path) -> None:
    one, reports = job(), Reports(tmp_path / "a")
    run(one, reports)
    for row in (*history(one), *(row.metrics for row in reports.rows)):
        assert row["system/process_peak_memory_megabytes"] >= row["system/process_memory_megabytes"] > 50
        assert 0 < row["system/system_memory_usage_percentage"] < 100
    assert max(row["system/process_cpu_percentage"] for row in history(one)) > 0


def test_a_smaller_layout_changes_neither_the_numbers_nor_what_was_asked_for(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    whole, small = job("whole"), job("small")
    compute = {**small.config["compute"], "micro_batch_size": 1, "prompts_per_pass": 1}
    expected = run(whole, Reports(tmp_path / "a"))["metrics"]
    found = run(replace(small, compute=compute), Reports(tmp_path / "b"))["metrics"]
    assert but_for_the_machine(found) == pytest.approx(but_for_the_machine(expected), rel=1e-4, nan_ok=True)
    assert json.loads((Path(small.folder) / "config.json").read_text()) == json.loads(json.dumps(small.config))


def test_a_trial_that_fails_by_itself_says_why_and_leaves_no_result(job: Callable[..., Job], tmp_path: Path) -> None:
    one = job(optim__learning_rate=1e30)
    outcome = run(one, Reports(tmp_path / "a"))
    assert outcome.keys() == {"error"}
    assert outcome["error"].startswith("NonFiniteLossError: step 2: contrastive = nan")
    assert "\n" not in outcome["error"]
    assert not (Path(one.folder) / "metrics.json").exists()


def test_what_a_retry_may_cure_is_raised(job: Callable[..., Job]) -> None:
    def full(message: Message) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        attempt.run(job(), say=full)


def test_an_error_is_told_in_one_line() -> None:
    of_workers = Exception("a\nlong\nstory")
    of_workers.worker_failures = {0: KeyError("prompts"), 1: ValueError("later")}  # type: ignore[attr-defined]
    assert one_line(of_workers) == "KeyError: 'prompts'"
    assert one_line(RuntimeError("first line\nCUDA out of memory\n")) == "RuntimeError: CUDA out of memory"
    assert one_line(TimeoutError()) == "TimeoutError"


def test_what_only_waits_for_a_trial_does_not_import_torch() -> None:
    """Two of a Train trial's processes import the module for its functions; torch costs them seconds and memory."""
    program = "import sys, sweeps.engine.worker.supervisor; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_attempt_out_of_memory_is_followed_in_the_same_process_by_a_smaller_one(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []
    reports: list[dict[str, Any]] = []

    def lacks(now: Job, *, say: object) -> dict[str, dict[str, float]]:
        assert now.compute is not None
        seen.append(now.compute["micro_batch_size"])
        if len(seen) < 3:
            raise MemoryError
        return {"metrics": {"dev/nll": 3.0}}

    monkeypatch.setattr(attempt, "attempt", lacks)
    monkeypatch.setattr("ray.tune.report", reports.append)
    asked = job(**{"optim.batch_size": 8})
    assert supervisor._attempt_until_it_ends(asked) == {"metrics": {"dev/nll": 3.0}}
    assert seen == [None, 4, 2]
    assert [message_of(report) for report in reports] == [Retrying(), Retrying()]
    assert trial_folder.read_retries(Path(asked.folder)).layout == {"micro_batch_size": 2}
