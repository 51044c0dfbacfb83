"""The runs of a sweep in MLflow: one parent, one child a trial. The only importer of mlflow.

Whatever is said here may be said twice, late, or by a later run of the same sweep: MLflow shows it once.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spt_core.config import flatten
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.store import trial_folder
from sweeps.engine.store.ledger import Ledger, alone
from sweeps.engine.store.redact import redact
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.tracking import tags
from sweeps.engine.tracking.uri import check
from sweeps.engine.worker.job import MetricRow

for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox tries again, in order
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)  # MLflow takes these from nowhere else, and one of them when it is imported

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

for _chatty in ("mlflow", "alembic"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it raises it also logs, for a page

_PROBE = "spt-doctor"
_PARAM_LENGTH, _TAG_LENGTH, _DATASET_LENGTH, _DIGEST_LENGTH, _LOCK_LENGTH = 6000, 5000, 500, 36, 250
_PARAMS_A_BATCH, _METRICS_A_BATCH, _RUNS_A_PAGE = 100, 1000, 1000


class _Child:
    """A child run and what of it has arrived. `sent`: its metrics by name and step; None: not asked yet."""

    def __init__(self, run: Run) -> None:
        self.id: str = run.info.run_id
        self.started: int = run.info.start_time
        self.complete = tags.COMPLETE in run.data.tags
        self.params = set() if self.complete else set(run.data.params)
        self.has_error = tags.ERROR in run.data.tags
        self.has_inputs = bool(run.inputs and run.inputs.dataset_inputs)
        self.sent: dict[tuple[str, int], float] | None = None

    def end(self) -> None:
        """All of it has arrived: a sweep of thousands keeps no more of it than that."""
        self.complete = True
        self.params, self.sent = set(), None


class SweepRuns:
    """The parent of a sweep, found or made, and its children.

    Args:
        uri: of the store.
        plan: the sweep. Its parent is found by the plan's `sweep_id`, its children by their trial keys.
        artifacts: folder or URI for the files of a new experiment; None leaves it to the server.
        facts: of this run of the sweep: tags of the parent.
        ledger: if given, drivers that share it never make a run twice, even at the same moment.
        owner: of the claims that keep the others out; the same when a construction that failed is tried again.

    Raises:
        Exception: of the store, from any method: what was asked may have been done in part, and can be asked again.
    """

    def __init__(
        self,
        uri: str,
        *,
        plan: Plan,
        artifacts: str | None,
        facts: Mapping[str, str],
        ledger: Ledger | None,
        owner: str,
    ) -> None:
        self._plan, self._artifacts = plan, artifacts
        self._ledger, self._owner = ledger, owner
        # The first to ask a new database makes its tables, and two at once break the migrations.
        with self._alone(f"mlflow {redact(uri)}"[:_LOCK_LENGTH]):
            self._client: Any = MlflowClient(uri)
            self._experiment_id = self._find_or_make_experiment()
        parent = self._find_or_make({tags.SWEEP_ID: plan.sweep_id}, name=plan.sweep_id, about={}, started=now())
        self._parent_id: str = parent.info.run_id
        params = {"scale": plan.scale, "cells": len(plan.cells), "seeds": len(plan.seeds)}
        params |= {"primary_metric": plan.sweep.primary_metric}
        self._add_params(self._parent_id, params, known=parent.data.params)
        note = {"mlflow.note.content": plan.sweep.question} if plan.sweep.question else {}
        for name, value in {**facts, **note}.items():
            self._client.set_tag(self._parent_id, name, tags.shortened(value, _TAG_LENGTH))
        self.replan(plan)
        self._client.update_run(self._parent_id, status="RUNNING")
        self._children: dict[str, _Child] = {}
        for run in self._search({tags.PARENT: self._parent_id}):
            self._children.setdefault(run.data.tags.get(tags.TRIAL_KEY, ""), _Child(run))

    def replan(self, plan: Plan) -> None:
        """The sweep, as it is known by now."""
        self._plan = plan
        self._client.log_text(
            self._parent_id, redact(json.dumps(tags.outline(plan), indent=2, default=str)), "plan.json"
        )

    def begin(self, trial: Trial, started: int) -> None:
        """A trial starts, or goes on: its child is RUNNING.

        A child that was complete goes to MLflow's trash, and a new one takes its place: the trial is measured anew.
        """
        child = self._find_or_make_child(trial, started)
        if child.complete:
            del self._children[trial.key]
            self._client.delete_run(child.id)
            child = self._find_or_make_child(trial, started)
        self._client.update_run(child.id, status="RUNNING")

    def progress(self, trial: Trial, rows: Sequence[MetricRow], at: int) -> None:
        """Metrics of moments of a trial."""
        started = at - _milliseconds(rows[0].seconds)
        self._add_rows(self._find_or_make_child(trial, started), rows)

    def finish(self, trial: Trial, result: TrialResult, at: int) -> None:
        """A trial ended: its child gets what its folder holds, and its status. A complete child is left alone."""
        history = [MetricRow.of(row) for row in trial_folder.read_history(result.folder)]
        finished = result.folder / trial_folder.METRICS
        last = history[-1] if history else MetricRow(0, 0, 0.0, {})
        ended = _milliseconds(finished.stat().st_mtime) if result.reused and finished.exists() else at
        extra = {tags.REUSED: "true"} if result.reused else {}
        child = self._find_or_make_child(trial, ended - _milliseconds(last.seconds), extra)
        if child.complete:
            return
        self._add_rows(child, history)
        self._add_rows(child, [replace(last, metrics=result.metrics)], is_final=True)
        self._add_files(child.id, result.folder, trial_folder.FILES)
        if result.error or child.has_error:
            self._client.set_tag(child.id, tags.ERROR, tags.shortened(result.error or "", _TAG_LENGTH))
            child.has_error = True
        for name, value in tags.retry_tags(trial_folder.read_retries(result.folder)).items():
            self._client.set_tag(child.id, name, tags.shortened(value, _TAG_LENGTH))
        self._client.set_terminated(child.id, tags.STATUS[result.state], end_time=ended)
        self._client.set_tag(child.id, tags.STATE, result.state)
        if result.state == "finished":
            self._client.set_tag(child.id, tags.COMPLETE, "true")
            child.end()

    def summarise(self, folder: Path, metrics: Mapping[str, float], at: int) -> None:
        """The sweep ended: its parent gets its main figures and the files of its report, and is FINISHED.

        Characters that MLflow has no place for in a metric's name become spaces.
        """
        shown = self._client.get_run(self._parent_id).data.metrics
        named = {tags.metric_name(name): value for name, value in metrics.items()}
        changed = [Metric(name, value, at, 0) for name, value in named.items() if shown.get(name) != value]
        for batch in _batches(changed, _METRICS_A_BATCH):
            self._client.log_batch(self._parent_id, metrics=batch)
        self._add_files(self._parent_id, folder, tags.REPORT_FILES)
        self.end("FINISHED", at)

    def end(self, status: str, at: int) -> None:
        """The sweep ended so."""
        self._client.set_terminated(self._parent_id, status, end_time=at)

    def _find_or_make_experiment(self) -> str:
        name, artifacts = self._plan.sweep.name, self._artifacts
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            if artifacts and not urlsplit(artifacts).scheme:
                artifacts = Path(artifacts).resolve().as_uri()
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find_or_make_child(self, trial: Trial, started: int, extra: Mapping[str, str] | None = None) -> _Child:
        child = self._children.get(trial.key)
        if child is None:
            identity = {tags.PARENT: self._parent_id, tags.TRIAL_KEY: trial.key}
            run = self._find_or_make(
                identity,
                name=trial.label,
                about={**tags.trial_tags(trial, self._plan.factors), **(extra or {})},
                started=started,
            )
            child = self._children[trial.key] = _Child(run)
        if child.complete:
            return child
        params = flatten(trial.config)
        self._add_params(child.id, params, known=child.params)
        child.params.update(params)
        if not child.has_inputs:
            self._client.log_inputs(child.id, datasets=_inputs(trial))
            child.has_inputs = True
        return child

    def _find_or_make(self, identity: Mapping[str, str], *, name: str, about: Mapping[str, Any], started: int) -> Run:
        with self._alone(" ".join(("mlflow", self._experiment_id, *identity.values()))):
            for run in self._search(identity):
                return run
            described = {path: tags.shortened(value, _TAG_LENGTH) for path, value in about.items()} | dict(identity)
            return self._client.create_run(self._experiment_id, start_time=started, tags=described, run_name=name)

    def _alone(self, what: str) -> AbstractContextManager[None]:
        """Keeps other drivers out, where there is a ledger to agree in."""
        return alone(self._ledger, what, owner=self._owner) if self._ledger else nullcontext()

    def _search(self, wanted: Mapping[str, str]) -> Iterator[Run]:
        """The runs that have these tags, oldest first."""
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
        search = partial(
            self._client.search_runs,
            [self._experiment_id],
            condition,
            max_results=_RUNS_A_PAGE,
            order_by=["attributes.start_time ASC"],
        )
        page = search()
        yield from page
        while page.token:
            page = search(page_token=page.token)
            yield from page

    def _add_params(self, run_id: str, params: Mapping[str, Any], *, known: Iterable[str]) -> None:
        """Those that the run lacks: MLflow refuses a second value."""
        fresh = [
            Param(path, tags.shortened(value, _PARAM_LENGTH)) for path, value in params.items() if path not in known
        ]
        for batch in _batches(fresh, _PARAMS_A_BATCH):
            self._client.log_batch(run_id, params=batch)

    def _add_rows(self, child: _Child, rows: Iterable[MetricRow], *, is_final: bool = False) -> None:
        """The metrics that the run lacks, at times that depend on the trial alone: a second delivery is the same.

        What was sent is not sent again, but for a final metric of another value.
        """
        if child.sent is None:
            names = self._client.get_run(child.id).data.metrics
            points = [point for name in names for point in self._client.get_metric_history(child.id, name)]
            child.sent = {(point.key, point.step): point.value for point in points}
        fresh: dict[tuple[str, int], Metric] = {}
        for row in rows:
            at = child.started + _milliseconds(row.seconds) + is_final
            for name, value in row.metrics.items():
                before = child.sent.get((name, row.step))
                if before is None or (is_final and before != value):
                    fresh[name, row.step] = Metric(name, value, at, row.step)
        for batch in _batches(list(fresh.values()), _METRICS_A_BATCH):
            self._client.log_batch(child.id, metrics=batch)
            child.sent.update({(point.key, point.step): point.value for point in batch})

    def _add_files(self, run_id: str, folder: Path, names: Iterable[str]) -> None:
        for path in (folder / name for name in names):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), path.name)
            elif path.exists():
                self._client.log_artifact(run_id, str(path))


def fetch(uri: str, run_id: str, artifact: str) -> Path | None:
    """A copy of an artifact folder of a run, in a temporary folder; None where there is no such run or artifact.

    Raises:
        ValueError: the store cannot be asked.
    """
    client = open_client(uri)
    try:
        client.get_run(run_id)
        return Path(client.download_artifacts(run_id, artifact, tempfile.mkdtemp(prefix="spt-artifact-")))
    except (MlflowException, OSError):
        return None


StoreError = MlflowException
"""What a store that answers raises when it cannot do what it was asked."""


def open_client(uri: str) -> Any:
    """A client of the store, which was seen to be there.

    Raises:
        ValueError: the store cannot be asked.
    """
    check(uri)
    return MlflowClient(tracking_uri=uri)


def try_writing(uri: str) -> None:
    """Make a run in an experiment of its own, and delete it.

    Raises:
        StoreError: the store does not take it; the credentials are not the store's, say.
    """
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(_PROBE)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(_PROBE)
    client.delete_run(client.create_run(experiment_id).info.run_id)


def _inputs(trial: Trial) -> list[DatasetInput]:
    """The dialogues that a trial reads, by their fingerprints; a trial made by hand may have none."""
    fingerprints: Mapping[str, str] = trial.identity.get("data", {})
    sources = {"train": trial.config.data.train, "test": trial.config.data.test}
    contexts = {"train": "training", "test": "evaluation"}
    return [
        DatasetInput(
            Dataset(
                name=tags.shortened(source.rsplit("/", 1)[-1], _DATASET_LENGTH),
                digest=fingerprints[split][:_DIGEST_LENGTH],
                source_type="hugging_face" if source.startswith("hf://") else "local",
                source=json.dumps({"uri": redact(source)}),
            ),
            [InputTag("mlflow.data.context", contexts[split])],
        )
        for split, source in sources.items()
        if split in fingerprints
    ]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def now() -> int:
    """As MLflow counts time: in milliseconds."""
    return _milliseconds(time.time())


def _milliseconds(seconds: float) -> int:
    """Seconds, likewise."""
    return round(1000 * seconds)
