"""A search as a value: which config fields to explore, for which objectives, and how much of the best to confirm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sweeps.engine.design import metrics
from sweeps.engine.design.designs import Case, Cell

Distribution = Any
"""One of Optuna's, which takes a third of a second to import: a sweep without a search need not wait for it."""


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving on dev NLL (Li et al. 2020), by share of the training budget.

    Args:
        grace_percent: of the budget before which no trial is stopped.
        reduction_factor: one in so many goes on from each rung; rungs are so many times apart.
    """

    grace_percent: float = 25.0
    reduction_factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.grace_percent <= 100:
            raise ValueError(f"Asha grace_percent = {self.grace_percent}: it should be above 0 and at most 100")
        if self.reduction_factor <= 1:
            raise ValueError(f"Asha reduction_factor = {self.reduction_factor}: it should be above 1")


@dataclass(frozen=True)
class Search:
    """An exploratory design: Optuna proposes trials, and the best of them are run again as cells of their own.

    A search reads dev alone, on a seed that no cell has. Its trials that ended at full budget are ranked; the best
    distinct ones become cells beside the base, on the sweep's seeds, scored on test: only these are compared.

    Args:
        space: dotted config path to an Optuna distribution.
        only_if: path to the paths of boolean fields of the space that must be on for it to exist.
        objectives: dev metrics, one or more; `dev/nll`, or one of the decoded dev replies, such as `dev/f1`, or
            `dev/avg`, relative to the base.
        num_trials: distinct trials, those stopped early and those answered from a finished trial included.
        sampler: of Optuna's.
        pruner: what stops a trial early; None: nothing.
        confirm: how many of the best are run again.

    Raises:
        ValueError: a number that is none, an objective that is not of dev, or a condition outside the space.
    """

    space: Mapping[str, Distribution]
    only_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    objectives: tuple[str, ...] = (metrics.DEV_NLL,)
    num_trials: int = 100
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Asha | None = field(default_factory=Asha)
    confirm: int = 3

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError("Search has no space: name at least one config field and its distribution")
        if self.num_trials < 1:
            raise ValueError(f"Search num_trials = {self.num_trials}: it should be at least 1")
        if self.confirm < 1:
            raise ValueError(f"Search confirm = {self.confirm}: it should be at least 1")
        if not self.objectives:
            raise ValueError("Search has no objectives: name at least one, for example 'dev/nll'")
        for objective in self.objectives:
            metrics.refuse_unknown(objective, "Search objective (a search reads dev alone)", splits=("dev",))
        order = list(self.space)
        for path, conditions in self.only_if.items():
            for condition in conditions:
                if path not in order or condition not in order or order.index(condition) > order.index(path):
                    raise ValueError(
                        f"Search only_if {path!r}: it and {condition!r} should be in the space, the latter first"
                    )

    @property
    def directions(self) -> list[str]:
        """`minimize` or `maximize`, one an objective."""
        return ["minimize" if metrics.is_lower_better(name) else "maximize" for name in self.objectives]

    @property
    def split(self) -> Literal["dev", "none"]:
        """What a trial of the search decodes: nothing where the objective is known from training."""
        return "none" if self.objectives == (metrics.DEV_NLL,) else "dev"

    def cells(self) -> list[Cell]:
        """What is known before the search: the base, which the best of it are compared with."""
        return [Case("base", {})]
