"""`spt` on the tiny model, in a process in which Ray must not start."""

from pathlib import Path

import pytest
import ray

from tests.sweeps.cli.sweep_commands import K_SWEEP, Spt
from tests.sweeps.command_line import Answer, invoke


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def spt(tiny_llama: Path, tmp_path: Path) -> Spt:
    """Runs `spt COMMAND FILE ...` on the tiny model, with its output in `out`."""

    def run(*arguments: str, file: Path = K_SWEEP, command: str = "run") -> Answer:
        quick = ["--scale", "tiny", "--model", str(tiny_llama), "--output", str(tmp_path / "out")]
        return invoke(command, file, *quick, *arguments)

    return run
