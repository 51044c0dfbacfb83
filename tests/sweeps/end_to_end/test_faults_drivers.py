"""Drivers that die, and drivers that share a sweep."""

import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.sweeps.end_to_end.as_a_user import EXACT, Ended, Folder, assert_whole, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

IN_PROCESS = (*EXACT, "--workers", "0")


def test_a_driver_killed_at_a_random_moment_loses_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10_000)
    dice = random.Random(seed)
    finished, seconds = dice.randrange(8), dice.uniform(0, 1.5)
    print(f"seed {seed}: SIGKILL {seconds:.1f} s after {finished} of 8 trials have finished")
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [1, 2, 3, 4]}), "--model", tiny_llama, *IN_PROCESS, "--seeds", "2"]
    first = folder.start(*command)
    first.until(": starting")
    for _ in range(finished):
        first.until(": finished")
    time.sleep(seconds)
    first.signal(signal.SIGKILL)
    killed = first.wait()
    assert killed.code == -signal.SIGKILL, "it was still there"
    ended = folder.run(*command)
    assert ended.code == 0, ended.output
    children = assert_whole(folder, steps=4)
    assert len(children) == 8
    over = set(labels(killed, "finished"))
    assert not over & labels(ended, "starting"), "what had finished is not run again"


def test_two_drivers_share_a_sweep_and_no_trial_runs_twice(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [2, 3, 4]}), "--model", tiny_llama, *IN_PROCESS, "--seeds", "2"]
    command += ["--set", "optim.max_steps=60"]
    pair = [folder.start(*command, "--concurrency", "1") for _ in range(2)]
    ended = [sweep.wait() for sweep in pair]
    said = ended[0].output + ended[1].output
    assert [one.code for one in ended] == [0, 0], said
    assert "MLflow" not in said, "two that make its tables at once would be refused"
    ran = Counter(label for one in ended for label in labels(one, "training"))
    assert len(ran) == 6
    assert set(ran.values()) == {1}
    assert all(labels(one, "training") for one in ended), "both had their share"
    assert len(assert_whole(folder, steps=60, retries={0})) == 6


def labels(ended: Ended, what: str) -> set[str]:
    """The trials of which a driver said something."""
    return {found[1] for found in re.finditer(rf"^ *[\d:]+  (num_prompts=\d seed \d): {what}", ended.output, re.M)}
