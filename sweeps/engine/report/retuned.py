"""What was retuned within each cell, for the report: over which values, at which budget, and what each cell chose."""

from collections.abc import Mapping
from typing import Any

from sweeps.engine.design.designs import label
from sweeps.engine.design.metrics import DEV_NLL
from sweeps.engine.plan.plan import SEARCH_SEED, Plan
from sweeps.engine.plan.tuning import Choice, Tried
from sweeps.engine.report.main_tables import ABSENT, Entry, Row, Table, number
from sweeps.engine.store.trial_folder import TrialResult

HEADING = "Nuisance factors, retuned within each cell"


def choices(plan: Plan, results: Mapping[str, TrialResult]) -> tuple[Choice, ...]:
    """What each cell chose; where the round has not ended, what it would choose by the trials that have."""
    assert plan.tuning is not None
    return plan.choices or plan.tuning.so_far(results)


def retuned_table(plan: Plan, results: Mapping[str, TrialResult]) -> Table:
    """A row a cell: what it chose, and the dev NLL at each combination that was tried."""
    assert plan.sweep.retune is not None
    combinations = plan.sweep.retune.combinations()
    rows = []
    for cell, choice in zip(plan.cells, choices(plan, results), strict=True):
        tried = {label(one.levels): one for one in choice.tried}
        edge = f"{', '.join(choice.at_edge)} at the edge of what was tried" if choice.at_edge else ""
        entries = [Entry(_chosen(choice, ended=not plan.awaits_tuning), detail=edge)]
        entries += [_dev_nll(tried.get(label(levels))) for levels in combinations]
        rows.append(Row(label(cell), tuple(entries)))
    titles = [", ".join(map(str, levels.values())) for levels in combinations]
    return Table("cell", ("chosen", *titles), tuple(rows), note=_note(plan))


def retuned_document(plan: Plan, results: Mapping[str, TrialResult]) -> dict[str, Any] | None:
    """The same for programs; None for a sweep without nuisance factors."""
    if plan.tuning is None or plan.sweep.retune is None:
        return None
    return {
        "metric": DEV_NLL,
        "seed": SEARCH_SEED,
        "trials_a_cell": len(plan.sweep.retune.combinations()),
        "levels": {path: list(levels) for path, levels in plan.tuning.factors.items()},
        "ended": not plan.awaits_tuning,
        "cells": [
            {
                "cell": label(cell),
                "chosen": None if choice.best is None else choice.levels,
                "at_edge": choice.at_edge,
                "tried": [vars(one) for one in choice.tried],
            }
            for cell, choice in zip(plan.cells, choices(plan, results), strict=True)
        ],
    }


def _note(plan: Plan) -> str:
    assert plan.sweep.retune is not None
    budget = len(plan.sweep.retune.combinations())
    return (
        f"Dev NLL by {', '.join(plan.sweep.retune.factors)}. Each cell had the same budget, {budget} "
        f"trial{'s' * (budget > 1)} on seed {SEARCH_SEED}, which no cell is compared on, and took the levels of "
        "least dev NLL; test was not read. A dash is a combination that is the same trial as another of its cell. A "
        "choice at the edge of what was tried may have a better one beyond."
    )


def _chosen(choice: Choice, *, ended: bool) -> str:
    if choice.tried and choice.best is None:
        return "none finished: the base's own levels" if ended else "not known yet"
    chosen = label(choice.levels) if choice.tried else choice.describe()
    return chosen if ended or not choice.tried else f"so far {chosen}"


def _dev_nll(tried: Tried | None) -> Entry:
    if tried is None:
        return Entry(ABSENT)
    if tried.dev_nll is None:
        return Entry(tried.state, detail=tried.error or "")
    return Entry(number(tried.dev_nll, 3), value=tried.dev_nll)
