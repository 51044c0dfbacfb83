"""The round that tunes nuisance factors within each cell: its trials, what each cell chose, and the table of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sweeps.engine.design.designs import Cell, label
from sweeps.engine.design.metrics import DEV_NLL
from sweeps.engine.plan.trial import Trial


class Ended(Protocol):
    """How a trial ended: an entry of the ledger, or a result."""

    @property
    def state(self) -> str:
        """Of the trial."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """By name; empty unless finished."""

    @property
    def error(self) -> str | None:
        """Why it failed."""


@dataclass(frozen=True)
class Attempt:
    """A cell at one combination of the nuisance levels.

    Attributes:
        levels: of the nuisance factors.
        trial: it, on a seed that no cell has, with test left alone.
    """

    levels: Cell
    trial: Trial


@dataclass(frozen=True)
class Tuning:
    """The first round of a sweep with nuisance factors.

    Attributes:
        factors: dotted config path to its levels.
        attempts: of each cell, in the order of the plan's cells; none for a cell that none of the factors touches
            (a model in context has no learning rate).
        awaiting: keys of the trials that stand for the cells' own until the round has ended.
    """

    factors: Mapping[str, Sequence[Any]]
    attempts: tuple[tuple[Attempt, ...], ...]
    awaiting: tuple[str, ...]

    @property
    def trials(self) -> dict[str, Trial]:
        """The distinct trials of the round, by key."""
        first: dict[str, Trial] = {}
        for attempt in self:
            first.setdefault(attempt.trial.key, attempt.trial)
        return first

    def __iter__(self) -> Iterator[Attempt]:
        return (attempt for of_cell in self.attempts for attempt in of_cell)

    def choices(self, entries: Mapping[str, Ended]) -> tuple["Choice", ...] | None:
        """What each cell chooses; None as long as some trial of the round has neither finished nor failed.

        Args:
            entries: how trials ended or stand, by key.
        """
        if any(key not in entries or entries[key].state not in {"finished", "failed"} for key in self.trials):
            return None
        return self.so_far(entries)

    def so_far(self, entries: Mapping[str, Ended]) -> tuple["Choice", ...]:
        """What each cell would choose by the trials that have ended."""
        return tuple(Choice(tuple(map(Tried.of, of_cell, _of(of_cell, entries)))) for of_cell in self.attempts)


def _of(attempts: Sequence[Attempt], entries: Mapping[str, Ended]) -> list[Ended | None]:
    return [entries.get(attempt.trial.key) for attempt in attempts]


@dataclass(frozen=True)
class Tried:
    """How a cell did at one combination.

    Attributes:
        levels: of the nuisance factors.
        key: of the trial.
        state: of the trial, as the ledger has it, or `not run`.
        dev_nll: its best; None unless finished.
        error: why it failed.
    """

    levels: Cell
    key: str
    state: str
    dev_nll: float | None
    error: str | None

    @classmethod
    def of(cls, attempt: Attempt, entry: Ended | None) -> "Tried":
        """From what the ledger holds of it."""
        if entry is None:
            return cls(attempt.levels, attempt.trial.key, "not run", None, None)
        return cls(attempt.levels, attempt.trial.key, entry.state, entry.metrics.get(DEV_NLL), entry.error)


@dataclass(frozen=True)
class Choice:
    """What a cell was tried at, and the best of it."""

    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried | None:
        """The one of least dev NLL, the first of several; None where none finished, or there was nothing to tune."""
        finished = [one for one in self.tried if one.dev_nll is not None]
        return min(finished, key=lambda one: one.dev_nll or 0.0, default=None)

    @property
    def levels(self) -> Cell:
        """The levels to run at; none where there is no best: the base's own stay."""
        return {} if self.best is None else self.best.levels

    @property
    def at_edge(self) -> list[str]:
        """The factors whose chosen level is the least or greatest that was tried: a better one may lie beyond."""
        edges = []
        for path, level in self.levels.items():
            tried = [one.levels[path] for one in self.tried]
            is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried)
            if is_number and len(set(tried)) > 1 and level in {min(tried), max(tried)}:
                edges.append(path)
        return edges

    def describe(self) -> str:
        """For people: `learning_rate=0.03`."""
        if not self.tried:
            return "nothing to tune"
        if self.best is None:
            return "none finished"
        edges = "" if not self.at_edge else ", at the edge of what was tried"
        return f"{label(self.levels)}{edges}"
