"""Processes of a trial that die while a sweep goes on."""

from pathlib import Path

import pytest

from tests.family import TRAIN_WORKER, TUNE_FUNCTION
from tests.sweeps.end_to_end.as_a_user import EXACT, Folder, assert_whole, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]


def test_a_killed_train_worker_is_replaced_and_does_all_that_is_left(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [2, 1]}), "--model", tiny_llama, *EXACT]
    sweep = folder.start(*command, "--set", "optim.max_steps=60", "--workers", "1", "--concurrency", "1")
    sweep.until(r"training \d\d/60")
    sweep.kill_one(TRAIN_WORKER)
    retrying = sweep.until(": retrying: ")
    assert "its worker process has died" in retrying
    assert "training 0/60" not in sweep.until(r": training \d+/60"), "it goes on from its checkpoint"
    (replacement,) = sweep.family.processes(TRAIN_WORKER)
    sweep.until(": finished")
    sweep.until(": training ")
    assert sweep.family.processes(TRAIN_WORKER) == [replacement], "it does one trial after the other"
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert_whole(folder, steps=60, retries={0, 1})


def test_a_tune_function_that_dies_in_a_trial_or_between_two_takes_none_along(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [1, 2]}), "--model", tiny_llama, *EXACT, "--seeds", "2"]
    sweep = folder.start(*command, "--workers", "0", "--concurrency", "1", "--set", "optim.max_steps=60")
    sweep.until(r"training \d\d/60")
    sweep.kill_one(TUNE_FUNCTION)
    assert "its process was lost" in sweep.until(": retrying: ")
    assert "training 0/60" not in sweep.until(r": training \d+/60"), "it goes on from its checkpoint"
    for _ in range(3):
        sweep.until(": finished")
        for process in sweep.family.processes(TUNE_FUNCTION):  # of the last one Tune may have ended it
            process.kill()
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert len(assert_whole(folder, steps=60)) == 4
