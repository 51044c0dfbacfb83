"""Parallel coordinates of a search: an axis a parameter and an objective, a line a trial, as geometry."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from sweeps.engine.design import metrics
from sweeps.engine.design.search import Search
from sweeps.engine.report.figures import WIDTH, Tick
from sweeps.engine.report.table import number

_ROW, _TOP, _RIGHT, _ABSENT, _CHARACTER = 38, 22, 24, 56, 7.6

Place = Callable[[Any], float]
"""From a value to the share of an axis, 0 to 1, at which it lies."""


@dataclass(frozen=True)
class Axis:
    """One parameter or objective: a horizontal line, so that names are read without turning the head."""

    label: str
    y: float
    ticks: tuple[Tick, ...]
    is_objective: bool


@dataclass(frozen=True)
class Trace:
    """One trial, from axis to axis: the path of an SVG."""

    d: str
    text: str
    is_best: bool


@dataclass(frozen=True)
class Coordinates:
    """The axes below each other and the trials through them; the best are drawn last.

    `absent` is where a line passes that has no value on an axis; None if every line has all.
    """

    height: float
    left: float
    right: float
    absent: float | None
    axes: tuple[Axis, ...]
    traces: tuple[Trace, ...]


def coordinates(
    trials: Sequence[FrozenTrial], design: Search, *, best: Sequence[FrozenTrial], short: Callable[[str], str]
) -> Coordinates | None:
    """The trials of a search; None if there are fewer than two.

    Args:
        trials: that ended at full budget.
        design: the search.
        best: those that are marked.
        short: the name of a parameter as it is printed.
    """
    if len(trials) < 2:
        return None
    names = [*map(short, design.space), *design.objectives]
    left = 14 + _CHARACTER * max(map(len, names))
    some_absent = any(path not in one.params for one in trials for path in design.space)
    right = WIDTH - (_ABSENT if some_absent else _RIGHT)
    absent = WIDTH - 16.0 if some_absent else None
    scales = [*map(_of_parameter, design.space.values())]
    scales += [_of_objective([one.values[i] for one in trials], name) for i, name in enumerate(design.objectives)]

    def x(share: float) -> float:
        return round(left + share * (right - left), 1)

    axes = tuple(
        Axis(
            name,
            _TOP + _ROW * index,
            tuple(Tick(x(tick.at), tick.text) for tick in ticks),
            index >= len(design.space),
        )
        for index, (name, (_, ticks)) in enumerate(zip(names, scales, strict=True))
    )

    def trace(one: FrozenTrial) -> Trace:
        values = [*(one.params.get(path) for path in design.space), *one.values]
        points = [
            f"{absent if value is None else x(place(value))} {axis.y}"
            for value, (place, _), axis in zip(values, scales, axes, strict=True)
        ]
        told = (f"{name} {text_of(value)}" for name, value in zip(names, values, strict=True) if value is not None)
        return Trace("M" + " L".join(points), ", ".join(told), one in best)

    traces = sorted(map(trace, trials), key=lambda drawn: drawn.is_best)
    return Coordinates(axes[-1].y + 32, left, right, absent, axes, tuple(traces))


def _of_parameter(distribution: BaseDistribution) -> tuple[Place, tuple[Tick, ...]]:
    """Where its values lie; its ends or, of a choice, all of it as ticks."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        ticks = tuple(Tick((index + 0.5) / len(choices), text_of(value)) for index, value in enumerate(choices))
        return lambda value: (choices.index(value) + 0.5) / len(choices), ticks
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return _between(distribution.low, distribution.high, math.log if distribution.log else float, text_of)


def _of_objective(values: Sequence[float], name: str) -> tuple[Place, tuple[Tick, ...]]:
    return _between(min(values), max(values), float, lambda value: number(value, metrics.of(name).decimals))


def _between(
    low: float, high: float, bend: Callable[[float], float], text: Callable[[float], str]
) -> tuple[Place, tuple[Tick, ...]]:
    if low == high:
        return lambda value: 0.5, (Tick(0.5, text(low)),)
    span = bend(high) - bend(low)
    return lambda value: (bend(value) - bend(low)) / span, (Tick(0, text(low)), Tick(1, text(high)))


def text_of(value: Any) -> str:
    """A level as a report shows it: on, off, or three digits of a number."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
