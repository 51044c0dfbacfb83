"""Run a sweep in a process of its own, as a person starts it, look at what it leaves, and interfere meanwhile."""

import functools
import json
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.entities import Run

from sweeps.engine.store.ledger import Entry, Ledger
from tests.family import Family
from tests.sweeps.end_to_end.shown import Shown

_MOST_SECONDS, _GRACE_SECONDS = 400.0, 30.0
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
        home = self.path / "home"
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **self.environment}
        return Running(Family([*command, "--output", "out"], folder=self.path, environment=own))

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
    """A sweep that was started, and what a test does to it meanwhile."""

    def __init__(self, family: Family) -> None:
        self.family = family

    def until(self, pattern: str) -> str:
        """Read on to a line in which the pattern is found."""
        try:
            return self.family.until(pattern)
        except TimeoutError as error:
            self.family.driver.kill()
            pytest.fail(str(error))

    def signal(self, number: signal.Signals) -> None:
        self.family.driver.send_signal(number)

    def kill_one(self, title: str) -> None:
        """SIGKILL a descendant of that title."""
        victims = self.family.processes(title)
        assert victims, f"no process {title}"
        victims[0].kill()

    def wait(self) -> Ended:
        """Wait for its end; nobody may outlive it for long."""
        orphans = self.family.wait(timeout=_MOST_SECONDS, grace=_GRACE_SECONDS)
        assert not orphans
        return Ended(self.family.driver.returncode, self.family.output)


def write_sweep(folder: Folder, factors: Mapping[str, list[Any]]) -> Path:
    """A sweep file over some factors, `mine.py`, whose baseline is the first level of each."""
    path = folder.path / "mine.py"
    baseline = {name: levels[0] for name, levels in factors.items()}
    path.write_text(
        '"""What about these?"""\n'
        "from spt_core import recipes\n"
        "from sweeps.engine import Grid, Sweep\n"
        f"SWEEP = Sweep('mine', recipes.smollm2_135m(), Grid({dict(factors)}), {baseline})\n"
    )
    return path


def spt(folder: Folder, factors: Mapping[str, list[Any]]) -> list[str | Path]:
    """The command that runs such a sweep."""
    return ["-m", "sweeps.engine.cli.main", "run", write_sweep(folder, factors), "--scale", "tiny"]


def but_for_the_machine(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("seconds") and "system/" not in name}


def assert_whole(
    folder: Folder, *, steps: int, retries: Collection[int] | None = None, shown: Shown | None = None
) -> dict[str, Run]:
    """Every trial of the report finished: once everywhere, with each step once and the numbers of the last.

    Args:
        folder: of a sweep that has ended.
        steps: of each trial.
        retries: that each trial may have had; None leaves that open.
        shown: in MLflow; None asks the folder's own store.

    Returns:
        The child runs by trial key.
    """
    folder.__dict__.pop("results", None)
    trials = folder.results["trials"]
    keys = [trial["key"] for trial in trials]
    assert len(set(keys)) == len(keys) > 0
    entries, shown = folder.ledger(*keys), shown or folder.mlflow()
    assert shown.parent.info.status == "FINISHED"
    assert sorted(shown.children) == sorted(keys)
    for trial in trials:
        key, child = trial["key"], shown.children[trial["key"]]
        assert (trial["state"], entries[key].state, child.info.status) == ("finished", "finished", "FINISHED")
        assert child.data.tags["spt.complete"] == "true"
        assert entries[key].metrics == trial["metrics"]
        assert child.data.metrics.items() >= trial["metrics"].items()
        assert trial["metrics"]["train/steps"] == steps
        history = folder.history(key)
        assert [row["step"] for row in history] == list(range(steps + 1))
        assert min(row["dev/nll"] for row in history if "dev/nll" in row) == trial["metrics"]["dev/nll"]
        told = [(row["step"], row["train/total"]) for row in history if "train/total" in row]
        assert sorted(shown.steps(key, "train/total")) == told
        if retries is not None:
            assert int(child.data.tags["spt.retries"]) in retries
    complete = [one.user_attrs["key"] for one in folder.study().trials if one.state.name == "COMPLETE"]
    assert len(set(complete)) == len(complete)
    assert not list((folder.out / "checkpoints").iterdir()), "checkpoints have served when a trial has finished"
    return shown.children
