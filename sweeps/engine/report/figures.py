"""The figures of a report as geometry: what is drawn where, in the units of an SVG viewBox. The template draws it."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeps.engine.analysis.cells import CellSummary, dev_nll_curve, is_number
from sweeps.engine.analysis.comparisons import Comparison
from sweeps.engine.analysis.stats import Interval
from sweeps.engine.design import metrics
from sweeps.engine.report.table import number
from sweeps.engine.store import trial_folder

WIDTH = 520
_RIGHT, _TOP, _ROW, _AXIS = 18, 14, 30, 44
_CHARACTER = 8.6
_LONGEST_LABEL = 26
_FIRST_HUE, _LAST_HUE = 262, 28
_MOST_TURNS = 12


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class DotRow:
    """One cell of a dot plot: its seeds as points, their mean and interval where there are."""

    label: str
    short: str
    y: float
    points: tuple[Tick, ...]
    mean: float | None
    span: tuple[float, float] | None
    hue: int | None
    missing: str


@dataclass(frozen=True)
class DotPlot:
    """Cells down, a value across."""

    title: str
    about: str
    height: float
    left: float
    right: float
    ticks: tuple[Tick, ...]
    rows: tuple[DotRow, ...]
    reference: float | None


@dataclass(frozen=True)
class Line:
    """One trial's learning curve: the path, and its best point."""

    label: str
    cell: int
    hue: int | None
    path: str
    best: tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """Dev NLL by step or by time, a line a trial. `cut_at` is the NLL above which lines leave the plot, if any does.

    `about` is the title of the horizontal axis, and `name` tells the figure from the others of its page.
    """

    name: str
    about: str

    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    cut_at: float | None


@dataclass(frozen=True)
class Usage:
    """How often a trial chose each prompt, by turn: `shares[prompt][turn]`, with the responses of each turn."""

    label: str
    is_first: bool
    turns: tuple[str, ...]
    counts: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]


def hues(summaries: Sequence[CellSummary]) -> list[int | None]:
    """A hue a cell in the order of the table, from blue to red; the baseline has none and is drawn in ink."""
    others = max(1, sum(not summary.is_baseline for summary in summaries) - 1)
    places = itertools.count()
    return [
        None if summary.is_baseline else round(_FIRST_HUE + next(places) / others * (_LAST_HUE - _FIRST_HUE))
        for summary in summaries
    ]


def values_plot(summaries: Sequence[CellSummary], metric: str, title: str) -> DotPlot | None:
    """Every seed's value of a metric, by cell, with the baseline's mean as the reference."""
    baseline = next(summary for summary in summaries if summary.is_baseline)
    rows = [(list(summary.by_seed(metric).items()), summary.interval(metric)) for summary in summaries]
    return _dot_plot(summaries, rows, title, metrics.of(metric).decimals, reference=baseline.mean(metric))


def differences_plot(
    summaries: Sequence[CellSummary], comparisons: Sequence[Comparison], metric: str, title: str
) -> DotPlot | None:
    """Every seed's difference from the baseline, by cell, with no difference as the reference."""
    by_cell = {id(comparison.summary): comparison for comparison in comparisons}
    rows: list[tuple[list[tuple[int, float]], Interval | None]] = []
    for summary in summaries:
        comparison = by_cell.get(id(summary))
        rows.append((list(comparison.by_seed.items()), comparison.delta) if comparison else ([], None))
    return _dot_plot(summaries, rows, title, metrics.of(metric).decimals, reference=0.0) if comparisons else None


def _dot_plot(
    summaries: Sequence[CellSummary],
    rows: Sequence[tuple[list[tuple[int, float]], Interval | None]],
    title: str,
    decimals: int,
    *,
    reference: float | None,
) -> DotPlot | None:
    drawn = [value for points, interval in rows for value in (*(v for _, v in points), *(interval or ()))]
    drawn = [value for value in (*drawn, reference) if is_number(value)]
    if not drawn:
        return None
    about, labels = _short_labels(summaries)
    left = 16 + _CHARACTER * min(_LONGEST_LABEL, max(map(len, [about, *labels])))
    low, high = _padded(min(drawn), max(drawn))
    scale = _Scale(low, high, left, WIDTH - _RIGHT)
    placed = []
    for index, (summary, (points, interval), hue) in enumerate(zip(summaries, rows, hues(summaries), strict=True)):
        ends = (interval.low, interval.high) if interval and is_number(interval.low) else None
        placed.append(
            DotRow(
                label=summary.label,
                short=_shortened(labels[index]),
                y=_TOP + _ROW * (index + 0.5),
                points=tuple(
                    Tick(scale(value), f"{summary.label}, seed {seed}: {number(value, decimals)}")
                    for seed, value in points
                    if is_number(value)
                ),
                mean=scale(interval.mean) if interval and is_number(interval.mean) else None,
                span=(scale(ends[0]), scale(ends[1])) if ends else None,
                hue=hue,
                missing="baseline" if summary.is_baseline and not points else "; ".join(summary.problems),
            )
        )
    return DotPlot(
        title=title,
        about=about,
        height=_TOP + _ROW * len(rows) + _AXIS,
        left=left,
        right=WIDTH - _RIGHT,
        ticks=tuple(Tick(scale(value), text) for value, text in nice_ticks(low, high)),
        rows=tuple(placed),
        reference=None if reference is None or not is_number(reference) else scale(reference),
    )


def learning_curves(summaries: Sequence[CellSummary], *, by: str = "step") -> Curves | None:
    """Dev NLL by step (or by seconds since its start) of every trial that has a history, finished or not.

    Untrained prompts start far above where they end. The axis reaches up to what was measured after the start, so that
    the ends can be told apart; lines come in from above it.
    """
    series: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for index, summary in enumerate(summaries):
        if summary.same_as is not None:
            continue
        for trial, result in zip(summary.trials, summary.results, strict=True):
            points = [] if result is None else dev_nll_curve(result, by=by)
            if len(points) > 1:
                series[index, trial.label] = points
    if not series:
        return None
    later = [nll for points in series.values() for _, nll in points[1:]]
    lowest = min(nll for points in series.values() for _, nll in points)
    low, top = _padded(lowest, max(later))
    highest = max(nll for points in series.values() for _, nll in points)
    is_cut = highest - low > 1.5 * (top - low)
    high = top if is_cut else _padded(lowest, highest)[1]
    last_step = max(step for points in series.values() for step, _ in points)
    left, right, above, below = 52, WIDTH - _RIGHT, _TOP, 300
    x, y = _Scale(0, last_step, left, right), _Scale(low, high, below, above)
    of_cell = hues(summaries)
    lines = []
    for (index, label), points in series.items():
        best_step, best_nll = min(points, key=lambda point: point[1])
        path = "M" + " L".join(f"{x(step):.1f} {y(nll):.1f}" for step, nll in points)
        lines.append(Line(label, index, of_cell[index], path, (x(best_step), y(best_nll))))
    return Curves(
        name=by,
        about="optimisation step" if by == "step" else "seconds since the start of the trial",
        height=below + _AXIS,
        left=left,
        right=right,
        top=above,
        bottom=below,
        x_ticks=tuple(
            Tick(x(value), text) for value, text in nice_ticks(0, last_step) if by != "step" or value == int(value)
        ),
        y_ticks=tuple(Tick(y(value), text) for value, text in nice_ticks(low, high)),
        lines=tuple(lines),
        cut_at=high if is_cut else None,
    )


def usages(summaries: Sequence[CellSummary]) -> list[Usage]:
    """How often each finished trial with several prompts chose each of them, by turn.

    Trials are not pooled: prompt k of one seed has nothing in common with prompt k of another. `is_first` marks the
    first seed of its cell.
    """
    found = []
    for summary in summaries:
        for position, (trial, result) in enumerate(summary.finished if summary.same_as is None else []):
            num_prompts = trial.config.num_choices
            columns = trial_folder.read_arrays(result.folder, ["turn", "prompt"]) if num_prompts > 1 else None
            if columns is not None and len(columns["turn"]):
                found.append(_usage(trial.label, columns, num_prompts, is_first=position == 0))
    return found


def _usage(label: str, columns: Mapping[str, NDArray[Any]], num_prompts: int, *, is_first: bool) -> Usage:
    turn_of = np.minimum(columns["turn"].astype(int), _MOST_TURNS - 1)
    of_both = np.zeros((num_prompts, _MOST_TURNS))
    np.add.at(of_both, (columns["prompt"].astype(int), turn_of), 1)
    of_turn = of_both.sum(0)
    turns = np.flatnonzero(of_turn).tolist()
    return Usage(
        label=label,
        is_first=is_first,
        turns=tuple(f"{turn + 1}+" if turn == _MOST_TURNS - 1 else str(turn + 1) for turn in turns),
        counts=tuple(int(of_turn[turn]) for turn in turns),
        shares=tuple(tuple(float(of_both[k, turn] / of_turn[turn]) for turn in turns) for k in range(num_prompts)),
    )


def nice_ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Round values between two numbers, evenly spaced by 1, 2 or 5 times a power of ten, at most `most` of them."""
    magnitude = math.floor(math.log10((high - low) / most))
    exponent, digit = next(
        (exponent, digit)
        for exponent in (magnitude, magnitude + 1)
        for digit in (1, 2, 5)
        if math.floor(high / (digit * 10.0**exponent)) - math.ceil(low / (digit * 10.0**exponent)) < most
    )
    step = digit * 10.0**exponent
    values = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(value, f"{value:,.{max(0, -exponent)}f}") for value in values]


def axis(values: Sequence[float], start: float, end: float) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    """A scale over some values with a margin, from one place to another, and its ticks."""
    low, high = _padded(min(values), max(values))
    scale = _Scale(low, high, start, end)
    return scale, tuple(Tick(scale(value), text) for value, text in nice_ticks(low, high))


@dataclass(frozen=True)
class _Scale:
    """A linear scale: from values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _short_labels(summaries: Sequence[CellSummary]) -> tuple[str, list[str]]:
    """With one factor its name once and its levels; with several, whole labels."""
    paths = list(summaries[0].cell)
    if len(paths) == 1 and all(list(summary.cell) == paths for summary in summaries):
        return paths[0].rsplit(".", 1)[-1], [str(summary.cell[paths[0]]) for summary in summaries]
    return "", [summary.label for summary in summaries]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
