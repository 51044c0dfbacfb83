"""Processes of a trial that die, and memory that runs out, while a sweep goes on."""

import re
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.family import TRAIN_WORKER, TUNE_FUNCTION
from tests.sweeps.as_a_user import EXACT, Folder, Running, assert_whole, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

TOO_LITTLE = 350 * 2**20
"""Of memory, in bytes: a third of what a step of the out-of-memory test takes, and less than half of its rows save."""


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
    """A process that has trained is lost, and the one that goes on for it may hold less than that one held."""
    folder = Folder(tmp_path)
    large = [
        *("--set", "optim.batch_size=192", "--set", "optim.max_steps=10", "--set", "optim.epochs=10"),
        *("--set", "data.max_tokens=160"),
    ]
    command = [*spt(folder, {"prompts.num_prompts": [4]}), "--model", tiny_llama, *EXACT, *large, "--workers", "0"]
    sweep = folder.start(*command)
    sweep.until(r"training [1-9]/10")
    (process,) = sweep.family.processes(TUNE_FUNCTION)
    most = most_data(process, seconds=4) - TOO_LITTLE
    process.kill()
    sweep.until(": retrying: ")
    replacement = another(sweep, process)
    assert replacement.memory_info().data < most - TOO_LITTLE, "it is limited before it trains"
    replacement.rlimit(psutil.RLIMIT_DATA, (most, psutil.RLIM_INFINITY))
    retrying = sweep.until(": retrying: ")
    assert "memory" in retrying.lower()
    assert re.search(r"compute\.micro_batch_size=(96|48|24)$", retrying.strip()), retrying  # two may be told as one
    # What it has freed it keeps, up to the limit, and oneDNN's code for a new shape would find no page beside it.
    replacement.rlimit(psutil.RLIMIT_DATA, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    (child,) = assert_whole(folder, steps=10).values()
    assert int(child.data.tags["spt.retries"]) >= 2
    assert int(child.data.tags["spt.micro_batch_size"]) <= 96
    assert "memory" in child.data.tags["spt.retry_reasons"].lower()
    assert child.data.params["compute.micro_batch_size"] == "None", "what was asked for stays what was asked for"


def most_data(process: psutil.Process, *, seconds: float) -> int:
    """The most data that a process has, in bytes, over some steps."""
    seen, end = [process.memory_info().data], time.monotonic() + seconds
    while time.monotonic() < end:
        seen.append(process.memory_info().data)
        time.sleep(0.05)
    return max(seen)


def another(sweep: Running, than: psutil.Process) -> psutil.Process:
    """The process that takes the place of one that has died."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in sweep.family.processes(TUNE_FUNCTION):
            if process != than:
                return process
        time.sleep(0.05)
    pytest.fail("no process has taken its place")
