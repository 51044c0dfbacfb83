"""A sweep expanded to its trials, and the rounds in which they run.

Most sweeps have one round: every cell on every seed. A search, or the tuning of nuisance factors, is a round before it,
and decides what the cells are. The plan before such a round stands for the plan after it.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from spt_core.config import TrialConfig
from sweeps.engine.design import metrics
from sweeps.engine.design.designs import Case, Cell, PerCellTuning, label
from sweeps.engine.design.scales import at_scale
from sweeps.engine.design.search import Search
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.plan.trial import AWAITS_TUNING, SEARCH_SEED, Trial, trials_of
from sweeps.engine.plan.tuning import Attempt, Choice, Ended, Tuning


class RoundFindings(Protocol):
    """What is known of the trials of a round once it has run."""

    def entries(self, keys: Collection[str]) -> Mapping[str, Ended]:
        """How trials ended or stand, by key."""

    def best(self, study: str, space: SearchSpace) -> Sequence[Mapping[str, Any]] | None:
        """What a search found, best first; None as long as it has not ended."""


@dataclass(frozen=True)
class Round:
    """Trials that run together.

    Attributes:
        study: name of the Optuna study that records them.
        trials: by key; those of a search are not known before Optuna proposes them.
        space: what a search explores; None where the trials are stated.
        choose_next: the plan after this round; None as long as it has not ended, and where it is the last.
    """

    study: str
    trials: Mapping[str, Trial]
    space: SearchSpace | None
    choose_next: Callable[[RoundFindings], "Plan | None"]


@dataclass(frozen=True)
class Plan:
    """A sweep expanded.

    Attributes:
        sweep: the question.
        scale: the name of its budget.
        cells: in the order of the table.
        seeds: paired across cells.
        trials: one for each cell and seed, cells outermost; some may share a key.
        search: what finds the cells beside the base; None for a design that states its cells.
        tuning: what finds each cell's nuisance levels; None for a sweep without nuisance factors.
        choices: what the tuning found, a cell each; empty before it has ended.
        knows_cells: the trials are those that will run; else a search or a tuning round comes first.
    """

    sweep: Sweep
    scale: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    search: SearchSpace | None = None
    tuning: Tuning | None = None
    choices: tuple[Choice, ...] = ()
    knows_cells: bool = True

    @functools.cached_property
    def distinct(self) -> dict[str, Trial]:
        """The trials that have to run, by key: the first of each that share one."""
        first: dict[str, Trial] = {}
        for trial in self.trials:
            first.setdefault(trial.key, trial)
        return first

    @functools.cached_property
    def sweep_id(self) -> str:
        """Name, scale and a hash of the set of trials: the same plan is the same sweep, found again by a resume."""
        keys: Iterable[str] = self.distinct
        if self.tuning is not None:  # which decides what the cells are
            keys = {*self.tuning.trials, *self.tuning.awaiting}
        digest = hashlib.sha256(" ".join(sorted(keys)).encode()).hexdigest()
        if self.search is not None:  # whose cells are not known before it has run
            digest = self.search.digest
        return f"{self.sweep.name}-{self.scale}-{digest[:8]}"

    @property
    def rounds(self) -> tuple[Round, ...]:
        """What is left to run, as far as it is known: perhaps a search or a tuning round, then the cells."""
        cells = self.sweep_id if self.search is None else f"{self.sweep_id}-confirmed"
        last = Round(cells, self.distinct, None, lambda found: None)
        if self.knows_cells:
            return (last,)
        if self.search is not None:
            return (Round(self.sweep_id, {}, self.search, self._confirm), last)
        assert self.tuning is not None
        return (Round(f"{self.sweep_id}-tuning", self.tuning.trials, None, self._tune), last)

    def _confirm(self, found: RoundFindings) -> "Plan | None":
        assert self.search is not None
        best = found.best(self.sweep_id, self.search)
        return None if best is None else self.confirming(best)

    def _tune(self, found: RoundFindings) -> "Plan | None":
        assert self.tuning is not None
        tuned = self.tuned(found.entries(list(self.tuning.trials)))
        return tuned if tuned.knows_cells else None

    def confirming(self, found: Sequence[Mapping[str, Any]]) -> "Plan":
        """The plan after its search: the base and what was found, best first, as cells on every seed."""
        assert self.search is not None
        cells = (self.cells[0], *(Case(f"best {rank}", params) for rank, params in enumerate(found, start=1)))
        trials = trials_of(self.search.base, cells, self.seeds, self.search.device_type)
        return replace(self, cells=cells, trials=tuple(trials), knows_cells=True)

    @property
    def awaits_tuning(self) -> bool:
        """The cells' nuisance levels are not known yet, so their trials stand for those that will run."""
        return self.tuning is not None and not self.knows_cells

    @property
    def known(self) -> dict[str, Trial]:
        """The trials that can be handed out or recalled by now, by key: all but those that wait for the tuning."""
        if self.tuning is None:
            return self.distinct
        final = {key: trial for key, trial in self.distinct.items() if AWAITS_TUNING not in trial.identity}
        return {**self.tuning.trials, **final}

    def tuned(self, entries: Mapping[str, Ended]) -> "Plan":
        """The plan after its tuning round: each cell at its best levels; this very plan as long as it has not ended.

        Args:
            entries: of the ledger, by trial key.
        """
        assert self.tuning is not None
        choices = self.tuning.choices(entries)
        if choices is None:
            return self
        trials = []
        for trial, choice in zip(self.trials, _for_each_seed(choices, self.seeds), strict=True):
            identity = {name: value for name, value in trial.identity.items() if name != AWAITS_TUNING}
            config = trial.config.override(choice.levels)
            canonical = config.canonical().model_copy(update={"compute": config.compute})
            trials.append(Trial(canonical.key(**identity), trial.cell, canonical, identity))
        return replace(self, trials=tuple(trials), choices=choices, knows_cells=True)

    @functools.cached_property
    def factors(self) -> tuple[str, ...]:
        """Paths of the config fields that some cell sets, or that are retuned within each."""
        retuned = () if self.tuning is None else self.tuning.factors
        return tuple(dict.fromkeys([*(path for cell in self.cells for path in cell), *retuned]))

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that an exact two-sided sign-flip test can give with these seeds, before Holm."""
        return min(1.0, math.ldexp(2.0, -len(self.seeds)))

    @functools.cached_property
    def num_compared(self) -> int:
        """Cells whose trials are not all those of the baseline: the family that Holm adjusts over."""
        size = len(self.seeds)
        by_cell = [tuple(t.key for t in self.trials[i * size : (i + 1) * size]) for i in range(len(self.cells))]
        baseline = by_cell[self.cells.index(self.sweep.baseline)]
        return sum(keys != baseline for keys in by_cell)

    @property
    def smallest_p_holm(self) -> float:
        """The same after Holm, where every cell is compared."""
        return min(1.0, max(1, self.num_compared) * self.smallest_p)


def expand(
    sweep: Sweep,
    *,
    scale: str,
    device_type: str,
    settings: Mapping[str, Any] | None = None,
    seeds: int | None = None,
) -> Plan:
    """The plan of a sweep at a scale.

    Args:
        sweep: the question.
        scale: one of `design.scales.SCALES`.
        device_type: `cpu` or `cuda`: where the trials will run.
        settings: config fields that override base and scale; a factor of the design cannot be one.
        seeds: how many seeds a cell; None is the scale's or the sweep's own.

    Raises:
        ValueError: anything about the request that cannot be run, before anything runs.
    """
    base, design, default_seeds = at_scale(sweep, scale)
    settings = dict(settings or {})
    cells = tuple(design.cells())
    for path in settings:
        if path == "seed":
            raise ValueError("--set seed: a sweep runs paired seeds 0, 1, ...; say how many with --seeds")
        if any(path in cell for cell in cells):
            raise ValueError(f"--set {path}: it is a factor of {sweep.name}, which varies it; drop the setting")
        if sweep.retune is not None and path in sweep.retune.factors:
            raise ValueError(
                f"--set {path}: {sweep.name} retunes it within each cell; drop the setting, or give --no-retune with it"
            )
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds {seeds}: it should be at least 1")
    base = base.override(settings)
    each_seed = tuple(range(seeds or default_seeds))
    trials = trials_of(base, cells, each_seed, device_type)
    for trial in trials[:: len(each_seed)]:
        metrics.refuse_unmeasured(sweep.primary_metric, trial.config, f"Sweep {sweep.name}: primary_metric")
    if isinstance(design, Search):
        if sweep.retune is not None:
            raise ValueError(f"Sweep {sweep.name}: a search has no cells to retune in; put the factors into its space")
        _check_space(base, design.space)
        space = SearchSpace(design, base, device_type)
        for objective in design.objectives:
            metrics.refuse_unmeasured(objective, space.trial({}).config, "Search objective")
        return Plan(sweep, scale, cells, each_seed, tuple(trials), space, knows_cells=False)
    if sweep.retune is None:
        return Plan(sweep, scale, cells, each_seed, tuple(trials))
    attempts = tuple(_attempts(base, cell, sweep.retune, device_type) for cell in cells)
    waiting = [
        _awaiting(trial) if of else trial for trial, of in zip(trials, _for_each_seed(attempts, each_seed), strict=True)
    ]
    tuning = Tuning(sweep.retune.levels, attempts, tuple(trial.key for trial in waiting))
    return Plan(sweep, scale, cells, each_seed, tuple(waiting), tuning=tuning, knows_cells=False)


def _attempts(base: TrialConfig, cell: Cell, factors: PerCellTuning, device_type: str) -> tuple[Attempt, ...]:
    """A cell at each combination of the nuisance levels that makes a difference to it; none where none does."""
    untested = base.override({"evaluation.split": "none"})
    combinations = factors.combinations()
    cells = [Case(f"tuning {label(cell)}: {label(levels)}", {**cell, **levels}) for levels in combinations]
    trials = trials_of(untested, cells, [SEARCH_SEED], device_type)
    distinct: dict[str, Attempt] = {}
    for levels, trial in zip(combinations, trials, strict=True):
        distinct.setdefault(trial.key, Attempt(levels, trial))
    return tuple(distinct.values()) if len(distinct) > 1 or len(combinations) == 1 else ()


def _awaiting(trial: Trial) -> Trial:
    """A placeholder for a trial whose nuisance levels are not known; its key matches no trial."""
    identity = {**trial.identity, AWAITS_TUNING: True}
    return replace(trial, key=trial.config.key(**identity), identity=identity)


_T = TypeVar("_T")


def _for_each_seed(of_cells: Sequence[_T], seeds: Sequence[int]) -> Iterator[_T]:
    return (of_cell for of_cell in of_cells for _ in seeds)


def _check_space(base: TrialConfig, space: Mapping[str, Any]) -> None:
    """Name a field that does not exist, or an end of a range that its field refuses, before anything runs."""
    for path, distribution in space.items():
        ends = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
        for end in ends:
            base.override({path: end})
