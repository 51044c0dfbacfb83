"""The answer of a sweep for programs: `results.json` and `trials.csv`.

`results.json`, schema `spt-sweeps/results` version 1. What is not a finite number is null.

- `schema`, `version`: this format. `facts`: where the numbers come from, as text by name.
- `sweep`: `id`, `name`, `scale`, `question`, `primary_metric`, `baseline` (a label), `seeds`, `smallest_p`.
- `verdict`: as in the report.
- `cells`: in the order of the table: `label`, `levels` (config path to value), `is_baseline`, `same_as` (label of an
  earlier cell with the same trials, or null), `is_whole` (every seed finished), `problems`, and `metrics`: by name
  `mean`, `low`, `high` (95% t interval over seeds), for whole cells only.
- `trials`: one a cell and seed: `key`, `cell` (a label), `seed`, `state` (`finished`, `failed`, `interrupted`,
  `not run`), `error`, `reused`, `folder` (relative to the report), `metrics`, `config`, `identity`.
- `effects`: of a whole factorial, in the primary metric: `components` (one, or two of an interaction), `mean`, `low`,
  `high`, `p`, `p_holm`; else empty.
- `retuned`: of a sweep with nuisance factors, else null: `metric` and `seed` they were tuned on, `trials_a_cell`,
  `levels` (config path to values), `ended`, and by cell `chosen` (levels), `at_edge` (paths) and `tried` (`levels`,
  `key`, `state`, `dev_nll`, `error`).
- `deltas`: cell minus baseline: `cell`, `metric`, `mean`, `low`, `high`, `by_seed`, `covers` (`seeds`: paired t
  interval, exact sign-flip `p`, `p_holm` across the cells; `examples`: one seed resampled over test dialogues, with a p
  of the swap test for DIST alone), `probability_of_improvement`, and `caveats`: what was overlooked to compare them.
- `published`: tables of the paper that the sweep has cells of: `table`, `conditions` (in what ours differ from the
  paper's; empty where values compare), `rows`: `row`, `cell` (a label, or null) and by metric `paper`, `ours`,
  `paper_effect` and `effect` (change from the reference row in percent; `mean`, `low`, `high`).
- `checklist`: answers by item.

`trials.csv` has a row a trial: `key`, `cell`, `seed`, `state`, then every metric by name.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.engine.analysis.answer import Answer
from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.analysis.comparisons import Comparison
from sweeps.engine.analysis.factorial import Effect
from sweeps.engine.design.designs import label
from sweeps.engine.plan.trial import Trial
from sweeps.engine.report.further_tables import retuned_document
from sweeps.engine.store.redact import redact
from sweeps.engine.store.states import NOT_RUN
from sweeps.engine.store.trial_folder import TrialResult

SCHEMA, SCHEMA_VERSION = "spt-sweeps/results", 1


def results_json(
    answer: Answer,
    folder: Path,
    *,
    facts: Mapping[str, str],
    effects: Sequence[Effect],
    published: Sequence[Mapping[str, Any]],
    checklist: Mapping[str, str],
) -> str:
    """The text of `results.json`.

    Args:
        answer: of the sweep.
        folder: of the report, which the trials' folders are named relative to.
        facts: where the numbers come from.
        effects: of a factorial, in the primary metric.
        published: documents of the paper's tables.
        checklist: answers by item.
    """
    plan, sweep = answer.plan, answer.plan.sweep
    document = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "sweep": {
            "id": plan.sweep_id,
            "name": sweep.name,
            "scale": plan.scale,
            "question": sweep.question,
            "primary_metric": sweep.primary_metric,
            "baseline": label(sweep.baseline),
            "seeds": list(plan.seeds),
            "smallest_p": plan.smallest_p,
        },
        "verdict": answer.verdict,
        "facts": facts,
        "cells": [_cell(summary) for summary in answer.summaries],
        "trials": [
            {
                **describe_trial(trial, answer.results.get(trial.key), folder),
                "config": trial.config.model_dump(mode="json"),
            }
            for trial in plan.trials
        ],
        "effects": [
            {"components": list(one.components), **one.delta._asdict(), "p_holm": one.p_holm} for one in effects
        ],
        "retuned": retuned_document(plan, answer.results),
        "deltas": [_delta(one) for found in answer.comparisons.values() for one in found],
        "published": list(published),
        "checklist": checklist,
    }
    return _json(document)


def trials_csv(answer: Answer, folder: Path) -> str:
    """The text of `trials.csv`."""
    trials = [describe_trial(trial, answer.results.get(trial.key), folder) for trial in answer.plan.trials]
    names = list(dict.fromkeys(name for trial in trials for name in trial["metrics"]))
    columns = ("key", "cell", "seed", "state")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *names])
    for trial in trials:
        values: Iterable[Any] = (trial["metrics"].get(name, "") for name in names)
        writer.writerow([*(trial[column] for column in columns), *values])
    return text.getvalue()


def describe_trial(trial: Trial, result: TrialResult | None, folder: Path) -> dict[str, Any]:
    """One trial of `trials`, without its config.

    Args:
        trial: of the plan.
        result: how it ended, if it ran.
        folder: of the report.
    """
    return {
        "key": trial.key,
        "cell": label(trial.cell),
        "seed": trial.seed,
        "state": NOT_RUN if result is None else result.state,
        "error": None if result is None or result.error is None else redact(result.error),
        "reused": result is not None and result.reused,
        "folder": None if result is None else Path(os.path.relpath(result.folder, folder)).as_posix(),
        "metrics": {} if result is None else dict(result.metrics),
        "identity": dict(trial.identity),
    }


def _cell(summary: CellSummary) -> dict[str, Any]:
    names = dict.fromkeys(name for _, result in summary.finished for name in result.metrics)
    intervals = {name: summary.interval(name) for name in names}
    return {
        "label": summary.label,
        "levels": dict(summary.cell),
        "is_baseline": summary.is_baseline,
        "same_as": summary.same_as,
        "is_whole": summary.is_whole,
        "problems": summary.problems,
        "metrics": {name: interval._asdict() for name, interval in intervals.items() if interval is not None},
    }


def _delta(comparison: Comparison) -> dict[str, Any]:
    return {
        "cell": comparison.summary.label,
        "metric": comparison.metric,
        **comparison.delta._asdict(),
        "by_seed": {str(seed): difference for seed, difference in comparison.by_seed.items()},
        "p": comparison.p,
        "p_holm": comparison.p_holm,
        "probability_of_improvement": comparison.probability_of_improvement,
        "covers": comparison.covers,
        "caveats": list(comparison.caveats),
    }


def _json(document: Mapping[str, Any]) -> str:
    """A document with each entry of its lists on a line of its own.

    Indented all through, it would be written by the Python half of the standard library's encoder, which takes longer
    than the rest of a report of thousands of trials.
    """
    fields = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            entries = ",\n".join(f"    {_dump(entry)}" for entry in value)
            fields.append(f"  {_dump(name)}: [\n{entries}\n  ]")
        else:
            fields.append(f"  {_dump(name)}: {_dump(value)}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    """The same tree with null for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(leaf) for name, leaf in value.items()}
    return [_finite(leaf) for leaf in value] if isinstance(value, list | tuple) else value
