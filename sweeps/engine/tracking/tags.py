"""What MLflow is told of a sweep and of its trials, as plain values: tags, names, and the plan as a document."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from spt_core.config import flatten
from sweeps.engine.design.designs import label
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.store.redact import redact
from sweeps.engine.store.trial_folder import Retries

SWEEP_ID = "spt.sweep_id"
"""Tag of a parent: the plan it stands for."""
TRIAL_KEY = "spt.trial_key"
"""Tag of a child: the trial it stands for."""
COMPLETE = "spt.complete"
"""Tag of a child, set last: all there is of a finished trial has arrived."""
REUSED = "spt.reused"
"""Tag of a child made from the folder of a trial that had finished before this sweep asked for it."""
STATE = "spt.state"
"""Tag of a child that ended: how, as the ledger says it (MLflow has no word for a trial that a search stopped)."""
ERROR = "spt.error"
"""Tag of a child that failed: why."""
RETRIED = "spt.retries"
"""Tag of a child that ended: how often it was tried again; `spt.retry_reasons` says why, once it was."""
PARENT = "mlflow.parentRunId"
REPORT_FILES = ("report.html", "report.md", "results.json")
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}
"""MLflow's word for each state of a trial."""


def outline(plan: Plan) -> dict[str, Any]:
    """A sweep as the document `plan.json` of its parent run."""
    return {
        "sweep": plan.sweep.name,
        "sweep_id": plan.sweep_id,
        "question": plan.sweep.question,
        "scale": plan.scale,
        "primary_metric": plan.sweep.primary_metric,
        "baseline": plan.sweep.baseline,
        "cells": plan.cells,
        "seeds": plan.seeds,
        "smallest_p": plan.smallest_p,
        "trials": [{"key": trial.key, "cell": trial.cell, "seed": trial.seed} for trial in plan.trials],
    }


def trial_tags(trial: Trial, factors: Iterable[str]) -> dict[str, Any]:
    """What a child run is found by: its cell, its seed, its factors, and what its key was made from.

    Args:
        trial: of the run.
        factors: paths of the config fields that the sweep varies.
    """
    flat = flatten(trial.config)
    return {
        "cell": label(trial.cell),
        "seed": trial.seed,
        **{f"factor.{path}": flat[path] for path in factors},
        **_leaves("identity", trial.identity),
    }


def retry_tags(retried: Retries) -> dict[str, object]:
    """How often, why, and the layout it went on with."""
    why = {"spt.retry_reasons": "; ".join(retried.reasons)} if retried.reasons else {}
    layout = {f"spt.{name}": value for name, value in retried.layout.items()}
    return {RETRIED: len(retried.reasons), **why, **layout}


def metric_name(name: str) -> str:
    """The name as MLflow takes it: word characters, dots, dashes, single spaces and slashes."""
    return re.sub(r"/+", "/", " ".join(re.sub(r"[^\w.\-/]+", " ", name).split()))


def shortened(value: object, length: int) -> str:
    """A value as text without secrets, cut to a length that MLflow takes."""
    text = redact(str(value))
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _leaves(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}"
        flat |= _leaves(path, value) if isinstance(value, Mapping) else {path: value}
    return flat
