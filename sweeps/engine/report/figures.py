"""The figures of a report: the primary metric by cell, differences from the baseline, learning curves, prompt usage."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sweeps.engine.analysis.cells import CellSummary, dev_nll_curve, is_number
from sweeps.engine.analysis.comparisons import Comparison
from sweeps.engine.analysis.stats import Interval
from sweeps.engine.design import metrics
from sweeps.engine.design.designs import Case
from sweeps.engine.report import drawing
from sweeps.engine.report.drawing import Drawn, blank, colour, explain, finish, one_line, our_style
from sweeps.engine.report.table import number
from sweeps.engine.store import trial_folder

MOST_CELLS = 40
"""Cells in a figure: of a larger sweep, the baseline and the best."""
_FIRST_HUE, _LAST_HUE = 262, 28
_LONGEST_LABEL, _LONGEST_PROBLEM, _MOST_TURNS = 30, 46, 12


class Series(NamedTuple):
    """A cell in the figures: its row in the table, and its hue in degrees, None for ink."""

    row: int
    summary: CellSummary
    hue: int | None


class Usage(NamedTuple):
    """Share of the replies for which a trial chose each prompt (rows), by turn (columns), and the replies by turn."""

    label: str
    is_first: bool
    shares: pd.DataFrame
    counts: list[int]


def hues(summaries: Sequence[CellSummary]) -> list[int | None]:
    """A hue a cell in the order of the table, from blue to red; the baseline has none and is drawn in ink."""
    others = max(1, sum(not summary.is_baseline for summary in summaries) - 1)
    places = itertools.count()
    return [
        None if summary.is_baseline else round(_FIRST_HUE + next(places) / others * (_LAST_HUE - _FIRST_HUE))
        for summary in summaries
    ]


def series(summaries: Sequence[CellSummary], metric: str) -> list[Series]:
    """The cells that figures show, in the order of the table: at most `MOST_CELLS`, the best by a metric."""

    def rank(one: Series) -> tuple[bool, float]:
        mean, human = (one.summary.mean(name) for name in (metric, metric.replace("test/", "human/")))
        return not one.summary.is_baseline, metrics.badness(metric, mean, human=human) if is_number(mean) else math.inf

    cells = [Series(row, *both) for row, both in enumerate(zip(summaries, hues(summaries), strict=True))]
    return sorted(sorted(cells, key=rank)[:MOST_CELLS], key=lambda one: one.row)


@our_style()
def dot_plot(cells: Sequence[Series], metric: str, differences: Sequence[Comparison] | None = None) -> Drawn | None:
    """Every seed's value of a metric by cell, or its difference from the baseline; None if there is none.

    Args:
        cells: with the baseline, whose mean is the reference.
        metric: of the values.
        differences: that are drawn in place of values, with zero as the reference.
    """
    values: dict[int, tuple[Mapping[int, float], Interval | None]]
    if differences is None:
        values = {id(one.summary): (one.summary.by_seed(metric), one.summary.interval(metric)) for one in cells}
        reference = next(one.summary.mean(metric) for one in cells if one.summary.is_baseline)
    else:
        values, reference = {id(one.summary): (one.by_seed, one.delta) for one in differences}, 0.0
    if not any(is_number(value) for by_seed, _ in values.values() for value in by_seed.values()):
        return None
    title = "difference in " * (differences is not None) + metrics.title(metric)
    figure = blank(65 + 30 * len(cells))
    axes = figure.subplots()
    axes.grid(axis="x")
    axes.set(xlabel=title, ylim=(len(cells) - 0.5, -0.5))
    factors, labels = _labels(cells)
    axes.set_yticks(range(len(cells)), [one_line(label, _LONGEST_LABEL) for label in labels], color=drawing.INK)
    for line, words in enumerate(textwrap.wrap(factors, _LONGEST_LABEL)):
        below = axes.annotate(words, (0, 0), (-7, -23 - 15 * line), "axes fraction", "offset points")
        below.set(color=drawing.SOFT, ha="right", va="top")
    if is_number(reference):
        axes.axvline(reference, **drawing.DASHED)
    for y, (label, (_, summary, hue)) in enumerate(zip(axes.get_yticklabels(), cells, strict=True)):
        explain(label, [summary.label])
        label.set_fontweight("bold" if summary.is_baseline else "normal")
        by_seed, interval = values.get(id(summary), ({}, None))
        points = {seed: value for seed, value in by_seed.items() if is_number(value)}
        if interval and is_number(interval.low):
            axes.plot([interval.low, interval.high], [y, y], color=colour(hue), linewidth=2, alpha=0.5)
        if interval and is_number(interval.mean) and len(points) > 1:
            axes.plot([interval.mean] * 2, [y - 0.27, y + 0.27], color=colour(hue), linewidth=2.5)
        (dots,) = axes.plot([*points.values()], [y] * len(points), "o", color=colour(hue), markersize=8.4)
        decimals = metrics.of(metric).decimals
        explain(dots, [f"{summary.label}, seed {seed}: {number(points[seed], decimals)}" for seed in points])
        why = "baseline" if summary.is_baseline else "; ".join(summary.problems)
        if why and not points:
            shade, beside = drawing.SOFT if summary.is_baseline else drawing.BAD, axes.get_yaxis_transform()
            text = axes.text(0.02, y, one_line(why, _LONGEST_PROBLEM), color=shade, transform=beside, in_layout=False)
            text.set_verticalalignment("center_baseline")
            explain(text, [why])
    return finish(figure, "primary_metric" if differences is None else "differences", f"{title} by cell")


@our_style()
def learning_curves(cells: Sequence[Series], by: str) -> Drawn | None:
    """Dev NLL by `step`, or by `seconds` since its start, of every trial that has a history, finished or not.

    Untrained prompts start far above where they end. The axis reaches up to what was measured after the start, so that
    the ends can be told apart; lines come in from above it.
    """
    curves = [
        (one, trial.label, points)
        for one in cells
        for trial, result in zip(one.summary.trials, one.summary.results, strict=True)
        if result is not None and one.summary.same_as is None and len(points := dev_nll_curve(result, by=by)) > 1
    ]
    if not curves:
        return None
    about = "optimisation step" if by == "step" else "seconds since the start of the trial"
    figure = blank(344)
    axes = figure.subplots()
    axes.grid(axis="y")
    axes.set(xlabel=about, ylabel="dev NLL", xmargin=0.01)
    axes.locator_params(axis="x", integer=by == "step")
    rows: dict[int, None] = {}
    for (row, summary, hue), trial, points in curves:
        at, nll = zip(*points, strict=True)
        best = min(range(len(nll)), key=nll.__getitem__)
        (line,) = axes.plot(at, nll, "o-", color=colour(hue), linewidth=1.7, markevery=[best], markersize=6.8)
        explain(line, [trial, f"{trial}: best, {number(nll[best], 3)}"], row=row)
        line.set_label("_" if row in rows else one_line(summary.label))
        rows[row] = None
    lowest, highest = (end(nll for *_, points in curves for _, nll in points) for end in (min, max))
    later = max(nll for *_, points in curves for _, nll in points[1:])
    margin = 0.06 * (later - lowest) or 0.05 * abs(later) or 0.5
    if highest - lowest + margin > 1.5 * (later - lowest + 2 * margin):
        axes.set_ylim(lowest - margin, later + margin)
    return finish(figure, f"curves_by_{by}", f"Dev NLL by {about}, a line a trial", rows=[*rows])


def usages(cells: Sequence[Series]) -> list[Usage]:
    """How often each finished trial with several prompts chose each of them, by turn.

    Trials are not pooled: prompt k of one seed has nothing in common with prompt k of another. `is_first` marks the
    first seed of its cell.
    """
    found = []
    for summary in (one.summary for one in cells if one.summary.same_as is None):
        for position, (trial, result) in enumerate(summary.finished):
            num_prompts = trial.config.num_choices
            columns = trial_folder.read_arrays(result.folder, ["turn", "prompt"]) if num_prompts > 1 else None
            if columns is not None and len(columns["turn"]):
                turn = np.minimum(columns["turn"].astype(int) + 1, _MOST_TURNS)
                counts = pd.crosstab(columns["prompt"].astype(int) + 1, turn)
                counts = counts.reindex(range(1, num_prompts + 1), fill_value=0).rename(columns={_MOST_TURNS: "12+"})
                found.append(Usage(trial.label, position == 0, counts / counts.sum(), counts.sum().tolist()))
    return found


def _labels(cells: Sequence[Series]) -> tuple[str, list[str]]:
    """The names of the factors that differ, once, and the levels of each cell; whole labels where cells have names."""
    each = [one.summary.cell for one in cells]
    if any(isinstance(cell, Case) or list(cell) != list(each[0]) for cell in each):
        return "", [one.summary.label for one in cells]
    varied = [path for path in each[0] if len({str(cell[path]) for cell in each}) > 1] or list(each[0])
    return ", ".join(map(short, varied)), [", ".join(text_of(cell[path]) for path in varied) for cell in each]


def short(path: str) -> str:
    """`contrastive.weight` for `losses.contrastive.weight`, `num_prompts` for `prompts.num_prompts`."""
    return path.removeprefix("losses.").removesuffix(".enabled").removeprefix("prompts.").removeprefix("optim.")


def text_of(value: Any) -> str:
    """A level as a report shows it: on, off, or three digits of a number."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
