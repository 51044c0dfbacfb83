"""An MLflow store of each test's own, and trackers that write to it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeps.engine.plan.plan import Plan
from sweeps.engine.tracking.tracker import Tracker
from tests.sweeps.tracking.tracked_trials import FACTS


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as MLflow makes it, once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def track(uri: str, tmp_path: Path) -> Callable[..., Tracker]:
    def start(plan: Plan, **options: Any) -> Tracker:
        return Tracker(uri, plan=plan, artifacts=str(tmp_path / "artifacts"), facts=FACTS, **options)

    return start
