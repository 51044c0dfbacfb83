"""A question as a value: which cells to compare, from which base, against which baseline, on how many seeds."""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from spt_core.config import TrialConfig

Cell = dict[str, Any]
"""One combination of factor levels: dotted config path to value."""


class Design(Protocol):
    """What tells a sweep which cells it has."""

    def cells(self) -> list[Cell]:
        """The cells, in the order of the table."""


@dataclass(frozen=True)
class Grid:
    """Every combination of the levels of some factors (a confirmatory design: all cells, all seeds, full budget).

    Args:
        factors: dotted config path to its levels, for example `{"prompts.num_prompts": range(1, 9)}`.

    Raises:
        ValueError: no factor, or a factor without levels or with a level twice.
    """

    factors: Mapping[str, Iterable[Any]]

    def __post_init__(self) -> None:
        levels = {path: tuple(values) for path, values in self.factors.items()}
        if not levels:
            raise ValueError("Grid has no factors: name at least one, for example {'prompts.num_prompts': [1, 4]}")
        for path, values in levels.items():
            if not values:
                raise ValueError(f"factor {path!r} has no levels: give it at least one")
            if len(values) > len({repr(value) for value in values}):
                raise ValueError(f"factor {path!r} has a level twice: {', '.join(map(repr, values))}")
        object.__setattr__(self, "factors", levels)

    def cells(self) -> list[Cell]:
        """All combinations; the last factor varies fastest."""
        return [dict(zip(self.factors, values, strict=True)) for values in itertools.product(*self.factors.values())]


class Case(dict[str, Any]):
    """A cell with a name of its own, for levels that would make no phrase.

    Args:
        name: for people.
        values: dotted config path to value.
    """

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, dict(self))


@dataclass(frozen=True)
class Cases:
    """Cells that differ in more than the levels of a few factors, each by its name (a confirmatory design).

    Args:
        cases: name to what it sets; `{}` is the base itself.

    Raises:
        ValueError: no case, or two that set the same.
    """

    cases: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("Cases has none: name at least one, for example {'released': {...}}")
        seen: dict[str, str] = {}
        for name, values in self.cases.items():
            twin = seen.setdefault(repr(sorted(values.items())), name)
            if twin != name:
                raise ValueError(f"cases {twin!r} and {name!r} set the same; drop one")

    def cells(self) -> list[Cell]:
        """The cases, in their order."""
        return [Case(name, values) for name, values in self.cases.items()]


LOWER_IS_BETTER = frozenset({"test/nll", "dev/nll", "test/oracle_nll"})
"""Metrics that improve downwards; all others improve upwards."""


@dataclass(frozen=True)
class Sweep:
    """One question, whole.

    Args:
        name: of the MLflow experiment and of the output folder: lower-case letters, digits and underscores.
        base: the config that every cell varies.
        design: the cells at full scale.
        baseline: the cell that the others are compared with, by its factor levels.
        seeds: how many seeds each cell gets (0, 1, ...), paired across cells.
        paper: the config of the published table, for `--scale paper`.
        demo: fewer cells, for a first look in minutes (`--scale demo`).
        primary_metric: the one metric that the verdict is about.

    Raises:
        ValueError: a name of another form, fewer than one seed, a factor that is no config field, or a baseline that
            is no cell of the design.
    """

    name: str
    base: TrialConfig
    design: Design
    baseline: Cell
    seeds: int = 1
    paper: TrialConfig | None = None
    demo: Design | None = None
    primary_metric: str = "test/nll"
    question: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"Sweep name = {self.name!r}: use lower-case letters, digits and underscores")
        if self.seeds < 1:
            raise ValueError(f"Sweep {self.name}: seeds = {self.seeds}: it should be at least 1")
        for design in filter(None, (self.design, self.demo)):
            cells = design.cells()
            for cell in cells:
                self.base.override(cell)  # names the field that does not exist or the level it refuses
            if self.baseline not in cells:
                raise ValueError(
                    f"Sweep {self.name}: the baseline {label(self.baseline)} is no cell of the design; "
                    f"its cells are {'; '.join(label(cell) for cell in cells)}"
                )


def factors(cell: Cell) -> dict[str, Any]:
    """A cell as a point of a study: its levels, or its name where it is a case."""
    return {"case": cell.name} if isinstance(cell, Case) else dict(cell)


def label(cell: Cell) -> str:
    """A cell in one short phrase: its name, or the last part of each path and its level, as `num_prompts=4`."""
    if isinstance(cell, Case):
        return cell.name
    return ", ".join(f"{path.rsplit('.', 1)[-1]}={value}" for path, value in cell.items()) or "base"
