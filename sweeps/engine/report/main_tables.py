"""The tables of a report, each made once; shown in Markdown here, in a terminal and in HTML elsewhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sweeps.engine.analysis.cells import CellSummary, Comparison, is_number, refusals
from sweeps.engine.design import metrics
from sweeps.engine.plan.plan import Plan

ABSENT = "-"
BASELINE = "baseline"


@dataclass(frozen=True)
class Entry:
    """What one place of a table says.

    Attributes:
        text: the number or words.
        detail: smaller, beneath: an interval, a sample size.
        value: to sort by; None sorts last.
    """

    text: str
    detail: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: what it is about.
        entries: one a column.
        notes: beside the label: the baseline, a failure.
        is_baseline: the others are compared with it.
        is_reference: not a cell: the human replies.
    """

    label: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    is_baseline: bool = False
    is_reference: bool = False


@dataclass(frozen=True)
class Table:
    """A table: the title of the labels, those of the other columns, the rows, and what to know of them."""

    about: str
    titles: tuple[str, ...]
    rows: tuple[Row, ...] = field(default=())
    note: str = ""

    @property
    def cell_rows(self) -> list[Row]:
        """The rows that can be sorted."""
        return [row for row in self.rows if not row.is_reference]

    @property
    def reference_rows(self) -> list[Row]:
        """The rows that stay below."""
        return [row for row in self.rows if row.is_reference]


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number for people, a dash where there is none, `nan` where it is not one."""
    if value is None:
        return ABSENT
    return format(value, f"{'+' if sign else ''},.{decimals}f") if math.isfinite(value) else str(value)


def interval_text(low: float, high: float, decimals: int, *, sign: bool = False) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{number(low, decimals, sign=sign)}, {number(high, decimals, sign=sign)}]"


def main_table(plan: Plan, summaries: Sequence[CellSummary]) -> Table:
    """One row a cell of the plan, means over seeds, and the human replies below."""
    columns: dict[str, Callable[[CellSummary], Entry]] = {
        "seeds": _seeds,
        "steps": _metric("train/steps", 0),
        "NLL": _metric("test/nll", with_interval=True),
        "dev NLL": _dev_nll,
        "F1": _metric("test/f1"),
        "BLEU": _metric("test/bleu"),
        "ROUGE-L": _metric("test/rouge_l"),
        "DIST_AVG": _dist,
        "prompts": _prompts_used,
        "seconds": _metric("seconds", 0),
    }
    primary = plan.sweep.primary_metric
    if primary not in {"test/nll", "dev/nll", "test/f1", "test/bleu", "test/rouge_l", "test/dist_avg"}:
        columns = {metrics.title(primary): _metric(primary, with_interval=True), **columns}
    rows = [_row(summary, list(columns.values())) for summary in summaries]
    return Table("cell", tuple(columns), (*rows, *_human_rows(summaries, list(columns))))


def further_tables(summaries: Sequence[CellSummary]) -> dict[str, Table]:
    """What the main table leaves out, by heading: only what some cell has."""
    most_prompts = max((summary.trials[0].config.num_choices for summary in summaries), default=1)
    headings: dict[str, dict[str, tuple[str, int]]] = {
        "Does selection matter? Test NLL by who chooses the prompt": {
            "retriever": ("routing/retriever/nll", 3),
            "retriever, shuffled contexts": ("routing/shuffled/nll", 3),
            "rule by turn": ("routing/turn/nll", 3),
            "random": ("routing/random/nll", 3),
            **{f"always {k + 1}": (f"routing/fixed_{k}/nll", 3) for k in range(most_prompts)},
            "least NLL (a bound)": ("routing/oracle/nll", 3),
        },
        "The group of prompts": {
            "usage entropy": ("test/usage_entropy", 3),
            "never chosen": ("test/dead_prompts", 1),
            "LM agrees, %": ("test/lm_agreement", 1),
            "rank correlation with the LM": ("test/lm_rank_correlation", 2),
        },
        "Overlap with the persona": {
            "BLEU": ("test/persona_bleu", 2),
            **{f"{n}-gram precision": (f"test/persona_bleu_{n}", 2) for n in (1, 2, 3, 4)},
            "mean length": ("test/mean_length", 1),
            "with emoji, %": ("test/emoji_rate", 1),
        },
        "Further metrics": {
            "ROUGE-1": ("test/rouge_1", 2),
            "ROUGE-2": ("test/rouge_2", 2),
            "BERT F1": ("test/bert_f1", 2),
            "DIST-1": ("test/dist_1", 2),
            "DIST-2": ("test/dist_2", 2),
            "trained parameters": ("trainable_parameters", 0),
        },
        "Uncut replies": {
            "shortened by the cut, %": ("test/share_cut", 1),
            "F1": ("raw/f1", 2),
            "BLEU": ("raw/bleu", 2),
            "ROUGE-L": ("raw/rouge_l", 2),
            "DIST_AVG": ("raw/dist_avg", 2),
            "mean length": ("raw/mean_length", 1),
        },
    }
    known = {metric for summary in summaries for _, result in summary.finished for metric in result.metrics}
    found = {}
    for heading, columns in headings.items():
        shown = {title: (metric, decimals) for title, (metric, decimals) in columns.items() if metric in known}
        make = [_metric(metric, decimals) for metric, decimals in shown.values()]
        if shown:
            found[heading] = Table("cell", tuple(shown), tuple(_row(summary, make) for summary in summaries))
    return found


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
        entries = [Entry(number(by_seed.get(seed), decimals), value=by_seed.get(seed)) for seed in seeds]
        if len(seeds) > 1:
            mean = None if interval is None else interval.mean
            detail = interval_text(interval.low, interval.high, decimals) if interval is not None else ""
            entries.append(Entry(number(mean, decimals), detail, mean))
        comparison = by_cell.get(id(summary))
        entries += _difference(comparison, decimals, several=len(seeds) > 1, is_tested=is_tested)
        row = _row(summary, [], entries)
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


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, with what others wrote escaped."""
    lines = [[table.about, *table.titles], ["---", *("---:" for _ in table.titles)]]
    for row in table.rows:
        label = "; ".join([row.label, *row.notes])
        lines.append([escape(label), *(escape(f"{one.text} {one.detail}".strip()) for one in row.entries)])
    note = f"\n\n{escape(table.note)}" if table.note else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + note


def escape(text: str) -> str:
    """Text as Markdown shows it literally, on one line."""
    return " ".join(text.translate(_LITERAL).split())


_LITERAL = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|#~!"}
    | {character: f"&#{ord(character)};" for character in "<>&"}
)


def _row(
    summary: CellSummary, columns: Sequence[Callable[[CellSummary], Entry]], entries: Sequence[Entry] | None = None
) -> Row:
    notes = [*([BASELINE] if summary.is_baseline else []), *summary.problems]
    if summary.same_as is not None:
        notes.append(f"the same trials as {summary.same_as}")
    made = [column(summary) for column in columns] if entries is None else entries
    return Row(summary.label, tuple(made), tuple(notes), summary.is_baseline)


def _metric(metric: str, decimals: int | None = None, *, with_interval: bool = False) -> Callable[[CellSummary], Entry]:
    places = metrics.of(metric).decimals if decimals is None else decimals

    def entry(summary: CellSummary) -> Entry:
        interval = summary.interval(metric)
        if interval is None:
            return Entry(ABSENT)
        detail = interval_text(interval.low, interval.high, places) if with_interval else ""
        return Entry(number(interval.mean, places), detail, interval.mean)

    return entry


def _seeds(summary: CellSummary) -> Entry:
    planned, finished = len(summary.trials), len(summary.finished)
    return Entry(str(planned) if summary.is_whole else f"{finished}/{planned}", value=finished)


def _dev_nll(summary: CellSummary) -> Entry:
    start, best = summary.mean("dev/nll_start"), summary.mean("dev/nll")
    return Entry(f"{number(start, 3)} -> {number(best, 3)}" if best is not None else ABSENT, value=best)


def _dist(summary: CellSummary) -> Entry:
    return _dist_entry({name: summary.mean(f"test/{name}") for name in ("dist_avg", "num_responses", "mean_length")})


def _dist_entry(of: Mapping[str, float | None]) -> Entry:
    if of["dist_avg"] is None:
        return Entry(ABSENT)
    detail = f"n={number(of['num_responses'], 0)} len={number(of['mean_length'], 1)}"
    return Entry(number(of["dist_avg"], 2), detail, of["dist_avg"])


def _prompts_used(summary: CellSummary) -> Entry:
    used, config = summary.mean("test/prompts_used"), summary.trials[0].config
    if used is None or config.method != "spt":
        return Entry(ABSENT)
    return Entry(f"{used:.3g}/{config.num_choices}", value=used)


def _human_rows(summaries: Sequence[CellSummary], titles: Sequence[str]) -> list[Row]:
    """The human replies, once for each n at which some cell was scored."""
    at_n: dict[float, Entry] = {}
    for summary in summaries:
        n = summary.mean("test/num_responses")
        if n is not None and n not in at_n:
            of = {name: summary.mean(f"human/{name}") for name in ("dist_avg", "mean_length")}
            at_n[n] = _dist_entry({**of, "num_responses": n})
    return [
        Row("human replies", tuple(entry if title == "DIST_AVG" else Entry("") for title in titles), is_reference=True)
        for entry in at_n.values()
        if entry.value is not None
    ]


def _difference(comparison: Comparison | None, decimals: int, *, several: bool, is_tested: bool) -> list[Entry]:
    if comparison is None:
        return [Entry(ABSENT)] * (1 + 2 * is_tested + several)
    delta = comparison.delta
    entries = [
        Entry(
            number(delta.mean, decimals, sign=True),
            interval_text(delta.low, delta.high, decimals, sign=True),
            delta.mean,
        )
    ]
    if is_tested:
        entries += [_p(comparison.p), _p(comparison.p_holm)]
    if several:
        better = comparison.probability_of_improvement
        entries.append(Entry(f"{better:.2f}", value=better))
    return entries


def _p(value: float) -> Entry:
    if not is_number(value):
        return Entry(ABSENT)
    return Entry(f"{value:.1e}" if value < 0.001 else f"{value:.3f}", value=value)
