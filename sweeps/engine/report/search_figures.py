"""The figures of a search: its two objectives against each other, and parallel coordinates."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from sweeps.engine.design import metrics
from sweeps.engine.design.search import Search
from sweeps.engine.report.drawing import DASHED, INK, PAPER, SOFT, Drawn, blank, colour, explain, finish, our_style
from sweeps.engine.report.figures import short, text_of
from sweeps.engine.report.table import number
from sweeps.engine.search.study import KEY

MOST_TRIALS = 500
"""Trials of a search in a figure: the best."""
_BEST_HUE, _OTHER_HUE = 28, 262
_ABSENT = 1.1


@our_style()
def scatter(trials: Sequence[FrozenTrial], design: Search, best: Sequence[FrozenTrial]) -> Drawn | None:
    """The first two objectives of the trials of a search, the best joined; None with one objective or no trial."""
    if len(design.objectives) < 2 or not trials:
        return None
    figure = blank(344)
    axes = figure.subplots()
    axes.grid(axis="y")
    axes.set(xlabel=design.objectives[0], ylabel=design.objectives[1])
    axes.plot(*zip(*sorted(one.values[:2] for one in best), strict=True), **DASHED)
    others = [one for one in trials[:MOST_TRIALS] if one not in best]
    for some, hue, size in ((others, _OTHER_HUE, 7.2), (best, _BEST_HUE, 10)):
        across, up = ([one.values[place] for one in some] for place in (0, 1))
        (dots,) = axes.plot(across, up, "o", color=colour(hue), markersize=size)
        explain(dots, [_told(one, design) for one in some])
    return finish(figure, "pareto_front", f"{axes.get_ylabel()} against {axes.get_xlabel()}, a point a trial")


def _told(one: FrozenTrial, design: Search) -> str:
    named = zip(design.objectives, one.values, strict=True)
    values = ", ".join(f"{name} {number(value, metrics.of(name).decimals)}" for name, value in named)
    return f"{one.user_attrs[KEY][:8]}: {values}"


@our_style()
def coordinates(trials: Sequence[FrozenTrial], design: Search, best: Sequence[FrozenTrial]) -> Drawn | None:
    """Parallel coordinates of the trials of a search, best last: an axis a parameter and an objective, a line a trial.

    Args:
        trials: that ended at full budget, in the order of the ranking; of fewer than two there is no figure.
        design: the search.
        best: those that are marked.
    """
    trials = trials[:MOST_TRIALS]
    if len(trials) < 2:
        return None
    names = [*map(short, design.space), *design.objectives]
    ends = [[end(values) for end in (min, max)] for values in zip(*(one.values for one in trials), strict=True)]
    scales = [_scale(one) for one in [*design.space.values(), *(FloatDistribution(*pair) for pair in ends)]]
    figure = blank(60 + 38 * (len(names) - 1))
    axes = figure.subplots()
    axes.spines["bottom"].set_visible(False)
    axes.set(xticks=[], xlim=(-0.08, _ABSENT + 0.04), ylim=(len(names) - 0.4, -0.5))
    axes.set_yticks(range(len(names)), names, color=INK)
    for label in axes.get_yticklabels()[len(design.space) :]:
        label.set_fontweight("bold")
    for y, (_, ticks) in enumerate(scales):
        axes.plot([0, 1], [y, y], color=SOFT, linewidth=1)
        for place, text in ticks.items():
            tick = axes.text(place, y + 0.12, text, color=SOFT, fontsize=11, ha="center", va="top", zorder=5)
            tick.set_bbox({"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
    if any(path not in one.params for one in trials for path in design.space):
        axes.text(_ABSENT, -0.2, "none", color=SOFT, ha="center", va="bottom")
    for one in sorted(trials, key=best.__contains__):
        values = [*map(one.params.get, design.space), *one.values]
        places = [_ABSENT if value is None else scale(value) for value, (scale, _) in zip(values, scales, strict=True)]
        hue, width, alpha = (_BEST_HUE, 1.7, 1) if one in best else (_OTHER_HUE, 1.1, 0.45)
        (line,) = axes.plot(places, range(len(names)), color=colour(hue), linewidth=width, alpha=alpha)
        told = (f"{name} {text_of(value)}" for name, value in zip(names, values, strict=True) if value is not None)
        explain(line, [", ".join(told)])
    return finish(figure, "parallel_coordinates", "Parallel coordinates of the search, a line a trial")


def _scale(distribution: BaseDistribution) -> tuple[Callable[[Any], float], dict[float, str]]:
    """From a value to its place on an axis from 0 to 1, and the ticks: place to text."""
    if isinstance(distribution, CategoricalDistribution):
        places = {value: (index + 0.5) / len(distribution.choices) for index, value in enumerate(distribution.choices)}
        return places.__getitem__, {place: text_of(value) for value, place in places.items()}
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if low == high:
        return lambda value: 0.5, {0.5: text_of(low)}
    bend = math.log if distribution.log else float
    return lambda value: (bend(value) - bend(low)) / (bend(high) - bend(low)), {0: text_of(low), 1: text_of(high)}
