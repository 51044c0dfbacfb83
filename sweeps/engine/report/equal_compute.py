"""Cells at equal compute: dev NLL at the same step, and at the same worker seconds, since more prompts cost more."""

import json
from collections.abc import Sequence
from pathlib import Path

from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.report.figures import read_dev_nll
from sweeps.engine.report.main_tables import ABSENT, Entry, Row, Table, number
from sweeps.engine.store.trial_folder import ENVIRONMENT


def at_equal_compute(summaries: Sequence[CellSummary]) -> Table | None:
    """The best dev NLL that each cell had reached at a step and at worker seconds that all of them reached.

    Args:
        summaries: the cells; those without a history of two evaluations or more on every seed are left out.

    Returns:
        None with fewer than two cells to compare.
    """
    by_step, by_seconds = ({one.label: _curves(one, by=by) for one in summaries} for by in ("step", "seconds"))
    kept = [one for one in summaries if by_step[one.label] and by_seconds[one.label] and one.same_as is None]
    if len(kept) < 2:
        return None
    step = min(points[-1][0] for one in kept for points in by_step[one.label])
    seconds = min(points[-1][0] for one in kept for points in by_seconds[one.label])
    rows = []
    for one in kept:
        whole = [min(nll for _, nll in points) for points in by_step[one.label]]
        ends = [points[-1][0] for points in by_seconds[one.label]]
        reached = [_best_by(by_step[one.label], step), _best_by(by_seconds[one.label], seconds), _mean(whole)]
        entries = [Entry(number(value, 3) if value is not None else ABSENT, value=value) for value in reached]
        rows.append(Row(one.label, (*entries, Entry(number(_mean(ends), 0), value=_mean(ends)))))
    titles = (f"at step {step:.0f}", f"at {seconds:.0f} worker seconds", "at its end", "worker seconds")
    return Table("dev NLL", titles, tuple(rows))


def worker_count(folder: Path) -> int:
    """Train workers of a trial, from what it recorded of its execution; 1 where it did not."""
    try:
        recorded = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return 1
    return int(recorded.get("execution", {}).get("workers", 1))


def _curves(summary: CellSummary, *, by: str) -> list[list[tuple[float, float]]]:
    """Each seed's dev NLL by step or by worker seconds; empty unless every seed has two evaluations or more."""
    found = []
    for _, result in summary.finished if summary.is_whole else ():
        points = read_dev_nll(result.folder, by=by)
        if len(points) < 2:
            return []
        workers = worker_count(result.folder) if by == "seconds" else 1
        found.append([(workers * at, nll) for at, nll in points])
    return found


def _best_by(curves: Sequence[Sequence[tuple[float, float]]], limit: float) -> float:
    """Mean over seeds of the lowest dev NLL up to a limit."""
    return _mean([min(nll for at, nll in points if at <= limit) for points in curves])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
