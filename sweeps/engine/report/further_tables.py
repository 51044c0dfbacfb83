"""The tables below the main one: routing, prompts, overlap, equal compute, AVG, effects, and nuisance factors."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.engine.analysis.average_improvement import CAVEAT, Improvement, improvement
from sweeps.engine.analysis.cells import CellSummary, dev_nll_curve
from sweeps.engine.analysis.factorial import Effect
from sweeps.engine.design import metrics
from sweeps.engine.design.designs import label
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import SEARCH_SEED
from sweeps.engine.plan.tuning import Choice, Tried
from sweeps.engine.report.main_tables import cell_row, metric_column
from sweeps.engine.report.table import ABSENT, Table, TableEntry, TableRow, interval_text, number
from sweeps.engine.store import trial_folder
from sweeps.engine.store.trial_folder import TrialResult


def further_tables(
    plan: Plan, results: Mapping[str, TrialResult], summaries: Sequence[CellSummary]
) -> dict[str, Table]:
    """All tables of one row a cell, by heading: metrics, AVG, and what was retuned."""
    found = measured_tables(summaries)
    gains = improvement_table(summaries)
    if gains.rows:
        found[IMPROVEMENT_HEADING] = gains
    if plan.tuning is not None:
        found[RETUNED_HEADING] = retuned_table(plan, results)
    return found


def measured_tables(summaries: Sequence[CellSummary]) -> dict[str, Table]:
    """Metrics that the main table leaves out, by heading; only those that some cell has."""
    most_prompts = max((summary.trials[0].config.num_choices for summary in summaries), default=1)
    headings: dict[str, dict[str, str]] = {
        "Does selection matter? Test NLL by who chooses the prompt": {
            "routing/retriever/nll": "retriever",
            "routing/shuffled/nll": "retriever, shuffled contexts",
            "routing/turn/nll": "rule by turn",
            "routing/random/nll": "random",
            **{f"routing/fixed_{k}/nll": f"always {k + 1}" for k in range(most_prompts)},
            "routing/oracle/nll": "least NLL (a bound)",
        },
        "The group of prompts": _titled("test", "usage_entropy", "dead_prompts", "lm_agreement", "lm_rank_correlation"),
        "Overlap with the persona": {
            "test/persona_bleu": "BLEU",
            **{f"test/persona_bleu_{n}": f"{n}-gram precision" for n in (1, 2, 3, 4)},
            **_titled("test", "mean_length", "emoji_rate"),
        },
        "Further metrics": {
            **_titled("test", "rouge_1", "rouge_2", "bert_f1", "dist_1", "dist_2"),
            "trainable_parameters": metrics.of("trainable_parameters").title,
        },
        "Uncut replies": {
            **_titled("test", "share_cut"),
            **_titled("raw", "f1", "bleu", "rouge_l", "dist_avg", "mean_length"),
        },
    }
    known = {metric for summary in summaries for _, result in summary.finished for metric in result.metrics}
    found = {}
    for heading, columns in headings.items():
        shown = {metric: title for metric, title in columns.items() if metric in known}
        make = [metric_column(metric) for metric in shown]
        if shown:
            rows = tuple(cell_row(summary, make) for summary in summaries)
            found[heading] = Table("cell", tuple(shown.values()), rows)
    return found


def _titled(split: str, *names: str) -> dict[str, str]:
    return {f"{split}/{name}": metrics.of(name).title for name in names}


def effects_table(effects: Sequence[Effect], metric: str) -> Table:
    """One row an effect."""
    decimals = metrics.of(metric).decimals
    rows = [
        TableRow(
            effect.label,
            (
                TableEntry(
                    number(effect.delta.mean, decimals, sign=True),
                    interval_text(effect.delta.low, effect.delta.high, decimals, sign=True),
                    effect.delta.mean,
                ),
                TableEntry(f"{effect.delta.p:.2g}", value=effect.delta.p),
                TableEntry(f"{effect.p_holm:.2g}", value=effect.p_holm),
            ),
        )
        for effect in effects
    ]
    return Table("effect", ("on minus off", "sign-flip p", "Holm"), tuple(rows))


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
        entries = [TableEntry(number(value, 3) if value is not None else ABSENT, value=value) for value in reached]
        rows.append(TableRow(one.label, (*entries, TableEntry(number(_mean(ends), 0), value=_mean(ends)))))
    titles = (f"at step {step:.0f}", f"at {seconds:.0f} worker seconds", "at its end", "worker seconds")
    return Table("dev NLL", titles, tuple(rows))


def _curves(summary: CellSummary, *, by: str) -> list[list[tuple[float, float]]]:
    """Each seed's dev NLL by step or by worker seconds; empty unless every seed has two evaluations or more."""
    found = []
    for _, result in summary.finished if summary.is_whole else ():
        points = dev_nll_curve(result, by=by)
        if len(points) < 2:
            return []
        workers = _num_workers(result) if by == "seconds" else 1
        found.append([(workers * at, nll) for at, nll in points])
    return found


def _num_workers(result: TrialResult) -> int:
    """Train workers of a trial, from what it recorded of its execution; 1 where it did not."""
    return int(trial_folder.read_environment(result.folder).get("execution", {}).get("workers", 1))


def _best_by(curves: Sequence[Sequence[tuple[float, float]]], limit: float) -> float:
    """Mean over seeds of the lowest dev NLL up to a limit."""
    return _mean([min(nll for at, nll in points if at <= limit) for points in curves])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


IMPROVEMENT_HEADING = "AVG: relative improvement over the baseline, in percent"


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
            rows.append(TableRow(summary.label, tuple(map(_entry, (gain.average, gain.of_dist, *_parts(gain))))))
    return Table("cell", ("AVG", "of it DIST", *map(metrics.title, metrics.TABLE_1)), tuple(rows), note=CAVEAT)


def _parts(gain: Improvement) -> list[float | None]:
    return [gain.by_metric.get(name) for name in metrics.TABLE_1]


def _entry(value: float | None) -> TableEntry:
    return TableEntry(ABSENT if value is None else number(value, 1, sign=True), value=value)


RETUNED_HEADING = "Nuisance factors, retuned within each cell"


def _choices(plan: Plan, results: Mapping[str, TrialResult]) -> tuple[Choice, ...]:
    """What each cell chose; where the round has not ended, what it would choose by the trials that have."""
    assert plan.tuning is not None
    return plan.choices or plan.tuning.so_far(results)


def retuned_table(plan: Plan, results: Mapping[str, TrialResult]) -> Table:
    """A row a cell: what it chose, and the dev NLL at each combination that was tried."""
    assert plan.sweep.retune is not None
    combinations = plan.sweep.retune.combinations()
    rows = []
    for cell, choice in zip(plan.cells, _choices(plan, results), strict=True):
        tried = {label(one.levels): one for one in choice.tried}
        edge = f"{', '.join(choice.at_edge)} at the edge of what was tried" if choice.at_edge else ""
        entries = [TableEntry(_chosen(choice, ended=not plan.awaits_tuning), detail=edge)]
        entries += [_dev_nll(tried.get(label(levels))) for levels in combinations]
        rows.append(TableRow(label(cell), tuple(entries)))
    titles = [", ".join(map(str, levels.values())) for levels in combinations]
    return Table("cell", ("chosen", *titles), tuple(rows), note=_note(plan))


def retuned_document(plan: Plan, results: Mapping[str, TrialResult]) -> dict[str, Any] | None:
    """The same for programs; None for a sweep without nuisance factors."""
    if plan.tuning is None or plan.sweep.retune is None:
        return None
    return {
        "metric": metrics.DEV_NLL,
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
            for cell, choice in zip(plan.cells, _choices(plan, results), strict=True)
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


def _dev_nll(tried: Tried | None) -> TableEntry:
    if tried is None:
        return TableEntry(ABSENT)
    if tried.dev_nll is None:
        return TableEntry(tried.state, detail=tried.error or "")
    return TableEntry(number(tried.dev_nll, 3), value=tried.dev_nll)
