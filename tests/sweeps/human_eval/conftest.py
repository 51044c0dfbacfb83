"""Two runs, and the sheet exported of them."""

from pathlib import Path

import pytest

from tests.sweeps.human_eval.evaluation_of_two_runs import Evaluation, spt, write_run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return write_run(tmp_path / "one", name="apple"), write_run(tmp_path / "two", name="berry")


@pytest.fixture
def evaluation(runs: tuple[Path, Path], tmp_path: Path) -> Evaluation:
    """All six examples, two of each of three dialogues."""
    assert spt("export", *runs, "--responses", 6, "--output", tmp_path / "out")[0] == 0
    return Evaluation(tmp_path / "out")
