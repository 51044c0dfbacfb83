"""Run a sweep in a process of its own, as a person starts it, look at what it leaves, and interfere meanwhile."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from sweeps.engine.ledger import Entry, Ledger
from tests.sweeps.shown import Shown

EXACT = ("--set", "backbone.precision=float32", "--cpus-per-worker", "1")


@dataclass
class Folder:
    """A folder that sweeps run in: their output, a home of their own, and what they leave.

    Attributes:
        path: the output folder is `out` below it.
        name: of the sweep that is asked about.
        environment: of the processes, beside this one's.
    """

    path: Path
    name: str = "mine"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.path / "out"

    def start(self, *command: str | Path) -> "Running":
        """Start `python COMMAND --output out`, apart from this process's terminal and Ray."""
        home, mark = self.path / "home", uuid.uuid4().hex
        home.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "SPT_TEST_MARK": mark, **self.environment}
        process = subprocess.Popen(
            [sys.executable, *map(str, command), "--output", "out"],
            cwd=self.path,
            env=inherited | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Running(process, mark)

    def run(self, *command: str | Path) -> "Ended":
        return self.start(*command).wait()

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """The `results.json` of the sweep's only report."""
        (path,) = self.out.glob(f"{self.name}-*/results.json")
        read: dict[str, Any] = json.loads(path.read_text())
        return read

    def trials(self) -> dict[str, dict[str, Any]]:
        """The report's trials by the label of their cell."""
        return {trial["cell"]: trial for trial in self.results["trials"]}

    def history(self, key: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.out / "trials" / key / "history.jsonl").read_text().splitlines()]

    def ledger(self, *keys: str) -> dict[str, Entry]:
        ledger = Ledger(f"sqlite:///{self.out / 'ledger.db'}")
        try:
            return ledger.entries(keys)
        finally:
            ledger.close()

    def study(self) -> optuna.Study:
        return optuna.load_study(study_name=self.results["sweep"]["id"], storage=f"sqlite:///{self.out / 'optuna.db'}")

    def mlflow(self) -> Shown:
        return Shown(f"sqlite:///{self.out / 'mlflow.db'}", self.name)


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it and its children said."""

    code: int
    output: str


class Running:
    """A process that was started, and all that descend from it, known by a mark in their environment."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self._process, self._mark = process, mark
        self._said: list[str] = []

    def until(self, pattern: str) -> str:
        """Read on to a line in which the pattern is found."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            if re.search(pattern, line):
                return line
        pytest.fail(f"ended without {pattern!r}:\n{''.join(self._said)}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> Ended:
        """Wait for its end; nobody may outlive it for long."""
        rest, _ = self._process.communicate()
        _, orphans = psutil.wait_procs(self._family(), timeout=30)
        assert not orphans
        return Ended(self._process.returncode, "".join(self._said) + rest)

    def _family(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SPT_TEST_MARK") == self._mark and process.pid != self._process.pid:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
        return found


def write_sweep(folder: Folder, factors: Mapping[str, list[Any]]) -> Path:
    """A sweep file over some factors, `mine.py`, whose baseline is the first level of each."""
    path = folder.path / "mine.py"
    baseline = {name: levels[0] for name, levels in factors.items()}
    path.write_text(
        '"""What about these?"""\n'
        "from spt_core import recipes\n"
        "from sweeps.engine.design import Grid, Sweep\n"
        f"SWEEP = Sweep('mine', recipes.smollm2_135m(), Grid({dict(factors)}), {baseline})\n"
    )
    return path


def spt(folder: Folder, factors: Mapping[str, list[Any]]) -> list[str | Path]:
    """The command that runs such a sweep."""
    return ["-m", "sweeps.engine.cli", "run", write_sweep(folder, factors), "--scale", "tiny"]


def but_for_the_machine(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("seconds") and "system/" not in name}
