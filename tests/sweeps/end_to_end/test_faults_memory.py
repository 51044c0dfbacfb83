"""Memory that runs out while a sweep goes on: a process's own limit, and that of the machine, which Ray watches."""

import re
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory

from tests.family import TRAIN_WORKER, TUNE_FUNCTION
from tests.sweeps.end_to_end.as_a_user import EXACT, Folder, Running, assert_whole, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

MIB = 2**20
TOO_LITTLE = 350 * MIB
"""Bytes: a third of what a step of the first test takes, and less than half of its rows save."""
ROOM, SPARE = 6144 * MIB, 2048 * MIB
"""Bytes that the second test fills, of which a sweep takes a quarter, and that it leaves to all others."""


def test_a_trial_out_of_memory_goes_on_with_half_the_micro_batch(tiny_llama: Path, tmp_path: Path) -> None:
    """A process that has trained is lost, and those that go on for it may hold less than that one held."""
    folder = Folder(tmp_path)
    large = [
        *("--set", "optim.batch_size=192", "--set", "optim.max_steps=5", "--set", "optim.epochs=5"),
        *("--set", "data.max_tokens=160"),
    ]
    sweep = folder.start(*spt(folder, {"prompts.num_prompts": [4]}), "--model", tiny_llama, *EXACT, *large)
    sweep.until(r"training [1-3]/5")
    (worker,) = sweep.family.processes(TRAIN_WORKER)
    most = most_data(worker, sweep) - TOO_LITTLE
    for process in [*sweep.family.processes("raylet/raylet"), *sweep.family.processes("ray::IDLE")]:
        process.rlimit(psutil.RLIMIT_DATA, (most, psutil.RLIM_INFINITY))  # and so whatever they start
    worker.kill()
    assert "died" in sweep.until(": retrying: ")
    retrying = sweep.until(": retrying: ").strip()
    assert "memory" in retrying.lower()
    assert retrying.endswith("compute.micro_batch_size=96")
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    (child,) = assert_whole(folder, steps=5, retries={2}).values()
    assert child.data.tags["spt.micro_batch_size"] == "96"
    assert "memory" in child.data.tags["spt.retry_reasons"].lower()
    assert child.data.params["compute.micro_batch_size"] == "None", "what was asked for stays what was asked for"


def most_data(process: psutil.Process, sweep: Running) -> int:
    """The most data that a process has, in bytes, until its trial is told of again: a step or more."""
    told, most = sweep.family.output.count(": training "), 0
    while sweep.family.output.count(": training ") == told:
        most = max(most, process.memory_info().data)
        time.sleep(0.05)
    return most


def test_what_rays_memory_monitor_kills_goes_on_with_half_the_micro_batch(tiny_llama: Path, tmp_path: Path) -> None:
    used, there_is = get_used_memory(), get_system_memory()
    if used + ROOM + SPARE > 0.9 * there_is:  # at 0.95 Ray would end what else runs here
        pytest.skip(f"{used / 2**30:.0f} of {there_is / 2**30:.0f} GiB are in use, and 8 more would be too many")
    share = (used + ROOM) / there_is
    monitor = {"RAY_memory_usage_threshold": f"{share:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    folder = Folder(tmp_path, environment=monitor)
    command = [*spt(folder, {"prompts.num_prompts": [2]}), "--model", tiny_llama, *EXACT, "--set", "optim.max_steps=60"]
    sweep = folder.start(*command, "--set", "optim.batch_size=8", "--set", "optim.epochs=60", "--workers", "0")
    sweep.until(r"training \d\d/60")
    (process,) = sweep.family.processes(TUNE_FUNCTION)
    process.suspend()  # it waits for its end
    fill_memory(process)
    retrying = sweep.until(": retrying: ")
    assert "low on memory" in retrying
    assert re.search(r"compute\.micro_batch_size=[421]$", retrying.strip()), retrying
    assert "training 0/60" not in sweep.until(r": training \d+/60"), "it goes on from its checkpoint"
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
    (child,) = assert_whole(folder, steps=60).values()
    assert "low on memory" in child.data.tags["spt.retry_reasons"]


def fill_memory(process: psutil.Process) -> None:
    """Take memory until a process has been killed, and give it back."""
    taken = []
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert len(taken) * 64 * MIB < ROOM + SPARE, "nobody has killed it"
            taken.append(b"1" * (64 * MIB))
            time.sleep(0.05)
