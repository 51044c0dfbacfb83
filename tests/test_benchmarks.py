"""The benchmarks compare equal mathematics: checked on the tiny model, where speed says nothing."""

from pathlib import Path

from benchmarks.step import measure
from tests.conftest import tiny_config


def test_both_schedules_of_a_step_have_the_same_loss(tiny_llama: Path) -> None:
    found = measure(tiny_config(tiny_llama, data__max_tokens=400), repeats=2)
    assert found["largest_relative_loss_difference"] < 1e-5
    assert len(found["seconds"]["released"]) == len(found["seconds"]["ours"]) == 2
    assert found["ratio"] > 0
