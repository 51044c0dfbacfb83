"""Processes of a trial that die, and memory that runs out, while a sweep goes on."""

import time
from pathlib import Path

import psutil
import pytest

from benchmarks.family import TRAIN_WORKER, TUNE_FUNCTION
from tests.sweeps.as_a_user import EXACT, Folder, assert_whole, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

MIB = 2**20


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


def test_a_killed_tune_function_is_replaced_and_the_trial_goes_on(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [2]}), "--model", tiny_llama, *EXACT, "--set", "optim.max_steps=60"]
    sweep = folder.start(*command, "--workers", "0")
    sweep.until(r"training \d\d/60")
    sweep.kill_one(TUNE_FUNCTION)
    assert "Error" in sweep.until(": retrying: ")
    assert "training 0/60" not in sweep.until(r": training \d+/60"), "it goes on from its checkpoint"
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert_whole(folder, steps=60, retries={1})


def test_a_process_that_dies_between_two_trials_takes_none_along(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [1, 2]}), "--model", tiny_llama, *EXACT, "--seeds", "2"]
    sweep = folder.start(*command, "--workers", "0", "--concurrency", "1")
    for _ in range(3):
        sweep.until(": finished")
        sweep.kill_one(TUNE_FUNCTION)
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert len(assert_whole(folder, steps=4)) == 4


def test_a_trial_out_of_memory_goes_on_with_half_the_micro_batch(tiny_llama: Path, tmp_path: Path) -> None:
    """The limit of the process falls, in the middle of training, below what a step of the whole batch takes."""
    folder = Folder(tmp_path)
    large = [
        *("--set", "optim.batch_size=192", "--set", "optim.max_steps=10", "--set", "optim.epochs=10"),
        *("--set", "data.max_tokens=160"),
    ]
    command = [*spt(folder, {"prompts.num_prompts": [4]}), "--model", tiny_llama, *EXACT, *large, "--workers", "0"]
    sweep = folder.start(*command)
    sweep.until(r"training 2/10")
    (process,) = sweep.family.processes(TUNE_FUNCTION)
    lowest, highest = memory_range(process, seconds=5)
    process.rlimit(psutil.RLIMIT_DATA, (lowest + 6 * (highest - lowest) // 10, psutil.RLIM_INFINITY))
    retrying = sweep.until(": retrying: ")
    assert "can't allocate memory" in retrying or "MemoryError" in retrying
    assert "compute.micro_batch_size=96" in retrying
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    (child,) = assert_whole(folder, steps=10).values()
    assert int(child.data.tags["spt.retries"]) >= 1
    assert int(child.data.tags["spt.micro_batch_size"]) <= 96
    assert "memory" in child.data.tags["spt.retry_reasons"].lower()
    assert child.data.params["compute.micro_batch_size"] == "None", "what was asked for stays what was asked for"


def memory_range(process: psutil.Process, *, seconds: float) -> tuple[int, int]:
    """The least and the most data that a process has had, in bytes, over some steps."""
    seen: list[int] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen.append(process.memory_info().data)
    assert max(seen) - min(seen) > 100 * MIB, "a step should take more than this process can find in its heap"
    return min(seen), max(seen)
