"""The main table of a report, and the tables of every seed with its difference from the baseline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.analysis.comparisons import Comparison, refusals
from sweeps.engine.design import metrics
from sweeps.engine.plan.plan import Plan
from sweeps.engine.report.table import ABSENT, BASELINE, Table, TableEntry, TableRow, interval_text, number, p_entry


def main_table(plan: Plan, summaries: Sequence[CellSummary]) -> Table:
    """One row a cell of the plan, means over seeds, and the human replies below."""
    columns: dict[str, Callable[[CellSummary], TableEntry]] = {
        "seeds": _seeds,
        "steps": metric_column("train/steps"),
        "NLL": metric_column("test/nll", with_interval=True),
        "dev NLL": _dev_nll,
        "F1": metric_column("test/f1"),
        "BLEU": metric_column("test/bleu"),
        "ROUGE-L": metric_column("test/rouge_l"),
        "DIST_AVG": _dist,
        "prompts": _prompts_used,
        "seconds": metric_column("seconds"),
    }
    primary = plan.sweep.primary_metric
    if primary not in {"test/nll", "dev/nll", "test/f1", "test/bleu", "test/rouge_l", "test/dist_avg"}:
        columns = {metrics.title(primary): metric_column(primary, with_interval=True), **columns}
    rows = [cell_row(summary, list(columns.values())) for summary in summaries]
    return Table("cell", tuple(columns), (*rows, *_human_rows(summaries, list(columns))))


def seeds_table(summaries: Sequence[CellSummary], comparisons: Sequence[Comparison], metric: str) -> Table:
    """Every seed of a metric, its mean, and the paired difference from the baseline."""
    seeds = [trial.seed for trial in summaries[0].trials]
    decimals = metrics.of(metric).decimals
    by_cell = {id(comparison.summary): comparison for comparison in comparisons}
    baseline = next(summary for summary in summaries if summary.is_baseline)
    is_tested = len(seeds) > 1 or any(is_number(comparison.p) and comparison.p < 1 for comparison in comparisons)
    rows = []
    for summary in summaries:
        by_seed, interval = summary.by_seed(metric), summary.interval(metric)
        entries = [TableEntry(number(by_seed.get(seed), decimals), value=by_seed.get(seed)) for seed in seeds]
        if len(seeds) > 1:
            mean = None if interval is None else interval.mean
            detail = interval_text(interval.low, interval.high, decimals) if interval is not None else ""
            entries.append(TableEntry(number(mean, decimals), detail, mean))
        comparison = by_cell.get(id(summary))
        entries += _difference(comparison, decimals, several=len(seeds) > 1, is_tested=is_tested)
        row = cell_row(summary, [], entries)
        if comparison is not None:
            notes = [f"compared all the same: {caveat}" for caveat in comparison.caveats if not summary.problems]
        elif summary.is_baseline or not summary.is_whole or summary.same_as is not None:
            notes = []
        else:
            notes = [f"not compared: {why}" for why in refusals(summary, baseline, metric).values()]
        rows.append(replace(row, notes=(*row.notes, *notes)))
    tests = ("p", "Holm p") if is_tested else ()
    statistics = ("mean", "difference", *tests, "P(better)") if len(seeds) > 1 else ("difference", *tests)
    return Table("cell", (*(f"seed {seed}" for seed in seeds), *statistics), tuple(rows))


def cell_row(
    summary: CellSummary,
    columns: Sequence[Callable[[CellSummary], TableEntry]],
    entries: Sequence[TableEntry] | None = None,
) -> TableRow:
    """A row of a table: its label, its problems, and one entry a column."""
    notes = [*([BASELINE] if summary.is_baseline else []), *summary.problems]
    if summary.same_as is not None:
        notes.append(f"the same trials as {summary.same_as}")
    made = [column(summary) for column in columns] if entries is None else entries
    return TableRow(summary.label, tuple(made), tuple(notes), summary.is_baseline)


def metric_column(metric: str, *, with_interval: bool = False) -> Callable[[CellSummary], TableEntry]:
    """What makes the entry of a metric in a cell\'s row: its mean over seeds, with its interval if asked for."""
    places = metrics.of(metric).decimals

    def entry(summary: CellSummary) -> TableEntry:
        interval = summary.interval(metric)
        if interval is None:
            return TableEntry(ABSENT)
        detail = interval_text(interval.low, interval.high, places) if with_interval else ""
        return TableEntry(number(interval.mean, places), detail, interval.mean)

    return entry


def _seeds(summary: CellSummary) -> TableEntry:
    planned, finished = len(summary.trials), len(summary.finished)
    return TableEntry(str(planned) if summary.is_whole else f"{finished}/{planned}", value=finished)


def _dev_nll(summary: CellSummary) -> TableEntry:
    start, best = summary.mean("dev/nll_start"), summary.mean("dev/nll")
    return TableEntry(f"{number(start, 3)} -> {number(best, 3)}" if best is not None else ABSENT, value=best)


def _dist(summary: CellSummary) -> TableEntry:
    return _dist_entry({name: summary.mean(f"test/{name}") for name in ("dist_avg", "num_responses", "mean_length")})


def _dist_entry(of: Mapping[str, float | None]) -> TableEntry:
    if of["dist_avg"] is None:
        return TableEntry(ABSENT)
    detail = f"n={number(of['num_responses'], 0)} len={number(of['mean_length'], 1)}"
    return TableEntry(number(of["dist_avg"], 2), detail, of["dist_avg"])


def _prompts_used(summary: CellSummary) -> TableEntry:
    used, config = summary.mean("test/prompts_used"), summary.trials[0].config
    if used is None or config.method != "spt":
        return TableEntry(ABSENT)
    return TableEntry(f"{used:.3g}/{config.num_choices}", value=used)


def _human_rows(summaries: Sequence[CellSummary], titles: Sequence[str]) -> list[TableRow]:
    """The human replies, once for each n at which some cell was scored."""
    at_n: dict[float, TableEntry] = {}
    for summary in summaries:
        n = summary.mean("test/num_responses")
        if n is not None and n not in at_n:
            of = {name: summary.mean(f"human/{name}") for name in ("dist_avg", "mean_length")}
            at_n[n] = _dist_entry({**of, "num_responses": n})
    return [
        TableRow(
            "human replies",
            tuple(entry if title == "DIST_AVG" else TableEntry("") for title in titles),
            is_reference=True,
        )
        for entry in at_n.values()
        if entry.value is not None
    ]


def _difference(comparison: Comparison | None, decimals: int, *, several: bool, is_tested: bool) -> list[TableEntry]:
    if comparison is None:
        return [TableEntry(ABSENT)] * (1 + 2 * is_tested + several)
    delta = comparison.delta
    entries = [
        TableEntry(
            number(delta.mean, decimals, sign=True),
            interval_text(delta.low, delta.high, decimals, sign=True),
            delta.mean,
        )
    ]
    if is_tested:
        entries += [p_entry(comparison.p), p_entry(comparison.p_holm)]
    if several:
        better = comparison.probability_of_improvement
        entries.append(TableEntry(f"{better:.2f}", value=better))
    return entries
