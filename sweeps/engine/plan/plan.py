"""From a sweep to its trials: every cell on every seed, canonical, each known by its key."""

import functools
import gc
import hashlib
import importlib.metadata
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from spt_core import NUMERICS_VERSION, backbone, conversations, weights
from spt_core.config import TrialConfig
from spt_core.fields import BackboneConfig, DataConfig
from sweeps.engine.design import metrics
from sweeps.engine.design.designs import Case, Cell, Retune, Sweep, label
from sweeps.engine.design.scales import at_scale
from sweeps.engine.design.search_space import Search
from sweeps.engine.plan.tuning import Attempt, Choice, Ended, Tuning

SEARCH_SEED = 1000
"""Of the trials of a search and of a tuning round: no cell has it, so what was tuned on is not what is compared."""

AWAITS_TUNING = "awaits tuning"
"""Mark in the identity of a trial that stands for one whose nuisance levels are not known yet."""


@dataclass(frozen=True)
class Trial:
    """One cell on one seed.

    Attributes:
        key: identity; two trials of equal keys are one trial.
        cell: the factor levels it stands for.
        config: what runs: canonical, with the compute layout that was asked for.
        identity: what else the key was made from.
    """

    key: str
    cell: Cell
    config: TrialConfig
    identity: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.config.seed

    @property
    def label(self) -> str:
        """For people: `num_prompts=4 seed 0`."""
        return f"{label(self.cell)} seed {self.seed}"


@dataclass(frozen=True)
class Exploration:
    """What a search explores, from which base.

    Attributes:
        design: space, objectives and budget.
        base: of this scale, with its settings; the search's trials score what the design says and never test.
        device_type: where the trials will run.
    """

    design: Search
    base: TrialConfig
    device_type: str

    def trial(self, params: Mapping[str, Any]) -> Trial:
        """The trial that a proposal stands for.

        Raises:
            ValueError: the proposal is no config (all that trains the prompts is off, say); says why.
        """
        scored = {"evaluation.split": self.design.split, "seed": SEARCH_SEED}
        (trial,) = _trials(self.base.override(scored), [Case("", params)], [SEARCH_SEED], self.device_type)
        return replace(trial, cell=Case(f"search {trial.key[:8]}", params))

    @functools.cached_property
    def digest(self) -> str:
        """Of all that makes two searches one: raising the number of trials goes on with the same search."""
        design = self.design
        told = (design.space, design.only_if, design.objectives, design.sampler, design.pruner, self.trial({}).key)
        return hashlib.sha256(repr(told).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """A sweep expanded.

    Attributes:
        sweep: the question.
        scale: the name of its budget.
        cells: in the order of the table.
        seeds: paired across cells.
        trials: one for each cell and seed, cells outermost; some may share a key.
        exploration: the search that finds the cells beside the base; None for a design that states its cells.
        tuning: the round that finds each cell's nuisance levels; None for a sweep without nuisance factors.
        choices: what it found, a cell each; empty before it has ended.
    """

    sweep: Sweep
    scale: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    exploration: Exploration | None = None
    tuning: Tuning | None = None
    choices: tuple[Choice, ...] = ()

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
        if self.exploration is not None:  # whose cells are not known before it has run
            digest = self.exploration.digest
        return f"{self.sweep.name}-{self.scale}-{digest[:8]}"

    @property
    def study(self) -> str:
        """The Optuna study of the cells' trials; a search's own has the plain name."""
        return self.sweep_id if self.exploration is None else f"{self.sweep_id}-confirmed"

    def confirming(self, found: Sequence[Mapping[str, Any]]) -> "Plan":
        """The plan after its search: the base and what was found, best first, as cells on every seed."""
        assert self.exploration is not None
        cells = (self.cells[0], *(Case(f"best {rank}", params) for rank, params in enumerate(found, start=1)))
        trials = _trials(self.exploration.base, cells, self.seeds, self.exploration.device_type)
        return replace(self, cells=cells, trials=tuple(trials))

    @property
    def awaits_tuning(self) -> bool:
        """The cells' nuisance levels are not known yet, so their trials stand for those that will run."""
        return self.tuning is not None and not self.choices

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
        return replace(self, trials=tuple(trials), choices=choices)

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
        scale: one of `scales.SCALES`.
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
    trials = _trials(base, cells, each_seed, device_type)
    for trial in trials[:: len(each_seed)]:
        metrics.refuse_unmeasured(sweep.primary_metric, trial.config, f"Sweep {sweep.name}: primary_metric")
    if isinstance(design, Search):
        if sweep.retune is not None:
            raise ValueError(f"Sweep {sweep.name}: a search has no cells to retune in; put the factors into its space")
        _check_space(base, design.space)
        exploration = Exploration(design, base, device_type)
        for objective in design.objectives:
            metrics.refuse_unmeasured(objective, exploration.trial({}).config, "Search objective")
        return Plan(sweep, scale, cells, each_seed, tuple(trials), exploration)
    if sweep.retune is None:
        return Plan(sweep, scale, cells, each_seed, tuple(trials))
    attempts = tuple(_attempts(base, cell, sweep.retune, device_type) for cell in cells)
    waiting = [
        _awaiting(trial) if of else trial for trial, of in zip(trials, _for_each_seed(attempts, each_seed), strict=True)
    ]
    tuning = Tuning(sweep.retune.levels, attempts, tuple(trial.key for trial in waiting))
    return Plan(sweep, scale, cells, each_seed, tuple(waiting), tuning=tuning)


def _attempts(base: TrialConfig, cell: Cell, retune: Retune, device_type: str) -> tuple[Attempt, ...]:
    """A cell at each combination of the nuisance levels that makes a difference to it; none where none does."""
    untested = base.override({"evaluation.split": "none"})
    combinations = retune.combinations()
    cells = [Case(f"tuning {label(cell)}: {label(levels)}", {**cell, **levels}) for levels in combinations]
    trials = _trials(untested, cells, [SEARCH_SEED], device_type)
    distinct: dict[str, Attempt] = {}
    for levels, trial in zip(combinations, trials, strict=True):
        distinct.setdefault(trial.key, Attempt(levels, trial))
    return tuple(distinct.values()) if len(distinct) > 1 or len(combinations) == 1 else ()


def _awaiting(trial: Trial) -> Trial:
    """A trial that stands for one whose nuisance levels are not known: its key is nobody's."""
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


def _trials(base: TrialConfig, cells: Sequence[Cell], seeds: Sequence[int], device_type: str) -> list[Trial]:
    # Asked once for each backbone and data of this plan, not for each cell; a later plan sees files that changed.
    identity_of = functools.cache(functools.partial(_identity, device_type))
    trials = []
    with _no_collection():
        for cell in cells:
            varied = base.override(cell)
            canonical = varied.canonical().model_copy(update={"compute": varied.compute})
            identity = identity_of(varied.backbone, varied.data)
            for seed in seeds:
                config = canonical.model_copy(update={"seed": seed})
                trials.append(Trial(config.key(**identity), cell, config, identity))
    return trials


@contextmanager
def _no_collection() -> Iterator[None]:
    """Leave the garbage collector off: it would walk all trials made so far again and again, for half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _identity(device_type: str, model: BackboneConfig, data: DataConfig) -> dict[str, Any]:
    """What decides a trial's numbers beside its config. The number of workers does not."""
    source = weights.resolve(model)
    return {
        "data": _data_fingerprints(data.train, data.test),
        "backbone": source.fingerprint,
        "precision": backbone.resolve_precision(model.precision, device_type),
        "device_type": device_type,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "numerics": NUMERICS_VERSION,
    }


@functools.lru_cache(maxsize=8)
def _data_fingerprints(train: str, test: str) -> dict[str, str]:
    return {"train": conversations.load(train).fingerprint, "test": conversations.load(test).fingerprint}


def check_splits(data: DataConfig) -> None:
    """Refuse a split that leaves nothing to train on, before anything starts.

    Raises:
        ValueError: dev would take every training dialogue.
    """
    train = conversations.load(data.train)
    try:
        conversations.split_dev(train, num_dialogues=data.dev_dialogues, seed=data.split_seed)
    except ValueError as error:
        raise ValueError(f"data.dev_dialogues: {str(error).removeprefix('num_dialogues: ')}") from None
