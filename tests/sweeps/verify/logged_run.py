"""A logged trial as a test sees it: its run in MLflow, its files to change, and `spt verify` on it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Run

from sweeps.engine.plan.plan import Plan
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.tracking.tracker import Tracker
from tests.sweeps.command_line import Answer, invoke
from tests.sweeps.end_to_end.shown import Shown

Ran = tuple[Plan, Path, dict[str, Any]]
"""A plan that ran, the folder with model, data and trials, and the metrics by trial key."""


@dataclass(frozen=True)
class Logged:
    """A folder whose MLflow holds the sweep, and what a test asks of it.

    Attributes:
        folder: with the MLflow store, this test's own.
        plan: of the sweep.
    """

    folder: Path
    plan: Plan

    @property
    def shown(self) -> Shown:
        return Shown(f"sqlite:///{self.folder / 'mlflow.db'}", "mine")

    @property
    def child(self) -> Run:
        return self.shown.children[self.plan.trials[0].key]

    @property
    def run_id(self) -> str:
        return str(self.child.info.run_id)

    def artifact(self, name: str) -> Path:
        return Path(url2pathname(urlsplit(self.child.info.artifact_uri).path)) / name

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a JSON file of the logged run in place."""
        values = json.loads(self.artifact(name).read_text())
        change(values)
        self.artifact(name).write_text(json.dumps(values))

    def verify(self, *arguments: str, run_id: str | None = None) -> Answer:
        return invoke("verify", run_id or self.run_id, "--output", self.folder, *arguments)


def track(plan: Plan, folder: Path, results: list[TrialResult]) -> None:
    uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "mlartifacts")
    with Tracker(uri, plan=plan, artifacts=artifacts, facts={}) as tracker:
        for result in results:
            tracker.finish(plan.distinct[result.key], result)
        assert tracker.close() == ()
