"""One trial as MLflow holds it, read back by its run id: what `spt verify` starts from."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.engine.store import trial_folder
from sweeps.engine.store.redact import redact
from sweeps.engine.tracking import mlflow_runs
from sweeps.engine.tracking.tags import ERROR, PARENT, SWEEP_ID, TRIAL_KEY

_FILES = (trial_folder.CONFIG, trial_folder.ENVIRONMENT, trial_folder.METRICS)
_NOT_FINISHED = {
    "RUNNING": "it is running, or its driver died: run its sweep again, then verify it",
    "SCHEDULED": "it has not started: run its sweep, then verify it",
    "KILLED": "it was interrupted or stopped early: run its sweep again, then verify it",
}
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class LoggedTrial:
    """A finished trial, as it was logged.

    Attributes:
        run_id: of the MLflow run.
        name: of the run, for people: cell and seed.
        config: nested, as it ran.
        environment: key, identity, facts and execution, as `environment.json` holds them.
        metrics: final metrics by name, of the trial's own file.
        shown: the same, as MLflow shows them.
        seeds: final metrics of every finished seed of the same cell of the same sweep, this one among them.
        primary_metric: the one that its sweep is about; None where the sweep is not there.
    """

    run_id: str
    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Mapping[str, float]
    shown: Mapping[str, float]
    seeds: tuple[Mapping[str, float], ...]
    primary_metric: str | None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its numbers beside its config."""
        identity: Mapping[str, Any] = self.environment["identity"]
        return identity


def read(uri: str, run_id: str) -> LoggedTrial:
    """A trial from its run id alone.

    Args:
        uri: of the MLflow store.
        run_id: of a child run: a trial.

    Raises:
        ValueError: the store cannot be asked, or the run is none, no trial, not finished or not whole.
    """
    client = mlflow_runs.open_client(uri)
    try:
        run = client.get_run(run_id)
    except mlflow_runs.StoreError:
        raise ValueError(
            f"RUN_ID {run_id}: there is no such run in {redact(uri)}; the run ids are in the MLflow UI (spt "
            "ui), and --tracking-uri or --output says which store is asked"
        ) from None
    _refuse_all_but_finished(run)
    with tempfile.TemporaryDirectory(prefix="spt-verify-") as folder:
        config, environment, metrics = (_read_json(client, run_id, name, folder) for name in _FILES)
    if not {"key", "identity", "facts"} <= environment.keys():
        raise ValueError(
            f"RUN_ID {run_id}: its {trial_folder.ENVIRONMENT} says not what it ran on, so it cannot be verified"
        )
    tags = run.data.tags
    return LoggedTrial(
        run_id=run_id,
        name=run.info.run_name,
        config=config,
        environment=environment,
        metrics=metrics,
        shown=dict(run.data.metrics),
        seeds=_seeds(client, run),
        primary_metric=_primary_metric(client, tags.get(PARENT)),
    )


def _refuse_all_but_finished(run: Any) -> None:
    run_id, tags = run.info.run_id, run.data.tags
    if run.info.lifecycle_stage == "deleted":
        raise ValueError(f"RUN_ID {run_id}: it is in MLflow's trash; restore it there, or take the run in its place")
    if SWEEP_ID in tags:
        raise ValueError(f"RUN_ID {run_id}: it is a whole sweep, {tags[SWEEP_ID]}; give one of its child runs")
    if TRIAL_KEY not in tags:
        raise ValueError(f"RUN_ID {run_id}: it is no trial of a sweep; give a child run of one")
    status = run.info.status
    if status == "FAILED":
        raise ValueError(
            f"RUN_ID {run_id}: the trial failed ({tags.get(ERROR, 'no reason was logged')}), so there is "
            "nothing to verify; run its sweep again, then verify it"
        )
    if status != "FINISHED":
        raise ValueError(f"RUN_ID {run_id}: there is nothing to verify yet: {_NOT_FINISHED.get(status, status)}")


def _read_json(client: Any, run_id: str, name: str, folder: str) -> dict[str, Any]:
    try:
        path = Path(client.download_artifacts(run_id, name, folder))
    except (mlflow_runs.StoreError, OSError):
        raise ValueError(
            f"RUN_ID {run_id}: its file {name} cannot be had, so it cannot be verified; run its sweep again, which "
            "delivers what MLflow lacks"
        ) from None
    try:
        read: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"RUN_ID {run_id}: its file {name} is no JSON ({error}), so it was changed") from None
    return read


def _seeds(client: Any, run: Any) -> tuple[Mapping[str, float], ...]:
    tags = run.data.tags
    parent, cell = tags.get(PARENT), tags.get("cell")
    if parent is None or cell is None:
        return (dict(run.data.metrics),)
    found = client.search_runs(
        [run.info.experiment_id],
        f"tags.`{PARENT}` = '{parent}' and attributes.status = 'FINISHED'",
        max_results=_MOST_SEEDS,
    )
    # A cell's name may hold quotes, which a filter cannot.
    return tuple(dict(one.data.metrics) for one in found if one.data.tags.get("cell") == cell)


def _primary_metric(client: Any, parent: str | None) -> str | None:
    if parent is None:
        return None
    try:
        return client.get_run(parent).data.params.get("primary_metric")  # type: ignore[no-any-return]
    except mlflow_runs.StoreError:
        return None
