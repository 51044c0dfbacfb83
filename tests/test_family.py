"""Tests of `tests.family`, and of the condition under which `benchmarks.soak` counts a sweep as sound."""

import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import sound
from tests.family import Family

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import sys; print('child', flush=True); sys.stdin.read()"],
                         stdin=subprocess.PIPE, start_new_session=True)
print("one", flush=True)
time.sleep(60)
"""


def test_descendants_are_followed_killed_and_counted(tmp_path: Path) -> None:
    family = Family(["-c", PARENT], folder=tmp_path)
    family.until("one|child", timeout=30)
    family.until("one|child", timeout=30)
    with pytest.raises(TimeoutError, match="no 'three' in"):
        family.until("three", timeout=0.1)
    (child,) = family.processes()
    assert family.processes("import sys; print") == [child]
    assert family.processes("another title") == []
    child.suspend()  # it cannot see that its parent is gone
    family.driver.send_signal(signal.SIGKILL)
    assert family.wait(timeout=30, grace=0.5) == [child]
    child.kill()
    assert family.wait(timeout=30, grace=30) == []
    assert sorted(family.output.split()) == ["child", "one"]


FOUND: dict[str, Any] = {
    "trials": 4,
    "lost": 0,
    "duplicated": 0,
    "faults": [],
    "orphans": [],
    "parents": 1,
    "ledger": {"finished": 4},
    "table": {"finished": 4},
    "mlflow": {"FINISHED": 4},
}


def test_a_soak_is_sound_when_every_trial_is_everywhere_once() -> None:
    assert sound(FOUND)


@pytest.mark.parametrize(
    "broken",
    [
        {"lost": 1},
        {"duplicated": 1},
        {"faults": ["a"]},
        {"orphans": ["ray"]},
        {"parents": 2},
        {"ledger": {"finished": 3, "failed": 1}},
        {"mlflow": {"FINISHED": 3, "RUNNING": 1}},
        {"mlflow": {"FINISHED": 5}},
    ],
    ids=str,
)
def test_a_soak_that_lacks_anything_is_not_sound(broken: dict[str, Any]) -> None:
    assert not sound(FOUND | broken)
