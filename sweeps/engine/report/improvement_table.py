"""AVG of each cell over the sweep's baseline, with how much of it is DIST, and its parts."""

from collections.abc import Sequence

from sweeps.engine.analysis.average_improvement import CAVEAT, Improvement, improvement
from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.design import metrics
from sweeps.engine.report.main_tables import ABSENT, Entry, Row, Table, number

HEADING = "AVG: relative improvement over the baseline, in percent"


def improvement_table(summaries: Sequence[CellSummary]) -> Table:
    """AVG of each whole cell over the baseline's means, how much of it is DIST, and its parts.

    A cell that was scored on another number of responses has none: DIST falls with it.
    """
    baseline = next(summary for summary in summaries if summary.is_baseline)
    names = [f"test/{name}" for name in (*metrics.TABLE_1, "num_responses")]
    of_baseline = {name: baseline.mean(name) for name in names}
    rows = []
    for summary in summaries:
        found = {name: summary.mean(name) for name in names}
        if summary.is_baseline or found["test/num_responses"] != of_baseline["test/num_responses"]:
            continue
        gain = improvement(found, of_baseline)
        if gain.by_metric:
            rows.append(Row(summary.label, tuple(map(_entry, (gain.average, gain.of_dist, *_parts(gain))))))
    return Table("cell", ("AVG", "of it DIST", *map(metrics.title, metrics.TABLE_1)), tuple(rows), note=CAVEAT)


def _parts(gain: Improvement) -> list[float | None]:
    return [gain.by_metric.get(name) for name in metrics.TABLE_1]


def _entry(value: float | None) -> Entry:
    return Entry(ABSENT if value is None else number(value, 1, sign=True), value=value)
