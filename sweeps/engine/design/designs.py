"""Designs: which cells a sweep has, and the nuisance factors that are tuned within each."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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
        object.__setattr__(self, "factors", _levels("Grid", self.factors, "{'prompts.num_prompts': [1, 4]}"))

    def cells(self) -> list[Cell]:
        """All combinations; the last factor varies fastest."""
        return _combinations(self.factors)


def _levels(kind: str, factors: Mapping[str, Iterable[Any]], example: str) -> dict[str, tuple[Any, ...]]:
    levels = {path: tuple(values) for path, values in factors.items()}
    if not levels:
        raise ValueError(f"{kind} has no factors: name at least one, for example {example}")
    for path, values in levels.items():
        if not values:
            raise ValueError(f"factor {path!r} has no levels: give it at least one")
        if len(values) > len({repr(value) for value in values}):
            raise ValueError(f"factor {path!r} has a level twice: {', '.join(map(repr, values))}")
    return levels


def _combinations(levels: Mapping[str, Iterable[Any]]) -> list[Cell]:
    return [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]


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


LOSSES = ("losses.contrastive.enabled", "losses.selection.enabled", "losses.fusion.enabled")
"""The components of SPT's objective beside the soft prompt loss, by the fields that switch them."""


@dataclass(frozen=True)
class _Switched:
    """A design over components that are on or off.

    Args:
        components: dotted paths of boolean config fields.

    Raises:
        ValueError: no component, or one twice.
    """

    components: tuple[str, ...] = LOSSES

    def __post_init__(self) -> None:
        kind, components = type(self).__name__, tuple(self.components)
        if not components:
            raise ValueError(f"{kind} has no components: name at least one, for example {LOSSES[0]!r}")
        if len(set(components)) < len(components):
            raise ValueError(f"{kind} has a component twice: {', '.join(components)}")
        object.__setattr__(self, "components", components)

    def _case(self, name: str, on: Iterable[str]) -> Case:
        return Case(name, {path: path in set(on) for path in self.components})


@dataclass(frozen=True)
class LeaveOneOut(_Switched):
    """All components, and all but each in turn: what is lost without it (a confirmatory design; Table 2)."""

    def cells(self) -> list[Cell]:
        """The whole first, which is the baseline."""
        whole = self.components
        left_out = [(path, [other for other in whole if other != path]) for path in whole]
        return [self._case("all", whole), *(self._case(f"without {component(p)}", on) for p, on in left_out)]


@dataclass(frozen=True)
class AddOneIn(_Switched):
    """No component, and each alone: what it brings by itself (a confirmatory design)."""

    def cells(self) -> list[Cell]:
        """None of them first, which is the baseline."""
        return [self._case("none", ()), *(self._case(f"only {component(path)}", [path]) for path in self.components)]


@dataclass(frozen=True)
class Factorial(_Switched):
    """All 2^n combinations, from which main effects and interactions are estimated (a confirmatory design)."""

    def cells(self) -> list[Cell]:
        """From all of them, which is the baseline, to none."""
        whole = self.components
        chosen = [on for size in range(len(whole), -1, -1) for on in itertools.combinations(whole, size)]
        return [self._case(_combination(on, whole), on) for on in chosen]


def component(path: str) -> str:
    """What a component is called: `contrastive` for `losses.contrastive.enabled`."""
    return path.removesuffix(".enabled").rsplit(".", 1)[-1]


def _combination(on: tuple[str, ...], whole: tuple[str, ...]) -> str:
    if on == whole:
        return "all"
    return " + ".join(component(path) for path in on) or "none"


@dataclass(frozen=True)
class PerCellTuning:
    """Nuisance factors: no part of the question, so each cell gets its own best of them, for an equal budget.

    A cell first runs once at each combination of their levels, on a seed that no cell has, and is judged by dev NLL
    alone; it then runs on the sweep's seeds at the combination of least dev NLL. Fields that neither the design nor
    this names are fixed.

    Args:
        factors: dotted config path to its levels, for example `{"optim.learning_rate": [0.01, 0.03, 0.1]}`.

    Raises:
        ValueError: no factor, or a factor without levels or with a level twice.
    """

    factors: Mapping[str, Iterable[Any]]

    def __post_init__(self) -> None:
        example = "{'optim.learning_rate': [0.01, 0.1]}"
        object.__setattr__(self, "factors", _levels("PerCellTuning", self.factors, example))

    @property
    def levels(self) -> dict[str, tuple[Any, ...]]:
        """The levels of each factor."""
        return {path: tuple(values) for path, values in self.factors.items()}

    def combinations(self) -> list[Cell]:
        """All combinations of the levels: the budget of a cell, in trials."""
        return _combinations(self.factors)


def factors(cell: Cell) -> dict[str, Any]:
    """A cell as a point of a study: its levels, or its name where it is a case."""
    return {"case": cell.name} if isinstance(cell, Case) else dict(cell)


def label(cell: Cell) -> str:
    """A cell in one short phrase: its name, or the last part of each path and its level, as `num_prompts=4`."""
    if isinstance(cell, Case):
        return cell.name
    return ", ".join(f"{path.rsplit('.', 1)[-1]}={value}" for path, value in cell.items()) or "base"
