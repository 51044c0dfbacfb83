"""From a sweep to its trials: every cell on every seed, canonical, each known by its key."""

import functools
import hashlib
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spt_core import NUMERICS_VERSION, backbone, conversations, weights
from spt_core.config import TrialConfig
from spt_core.fields import BackboneConfig, DataConfig
from sweeps.engine.design import Case, Cell, Sweep, label
from sweeps.engine.exploration import Search
from sweeps.engine.scales import at_scale

SEARCH_SEED = 1000
"""Of the trials of a search: no cell has it, so what was tuned on is not what is compared."""


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
    """

    sweep: Sweep
    scale: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]
    exploration: Exploration | None = None

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
        digest = hashlib.sha256(" ".join(sorted(self.distinct)).encode()).hexdigest()
        if self.exploration is not None:  # whose cells are not known before it has run
            digest = self.exploration.digest
        return f"{self.sweep.name}-{self.scale}-{digest[:8]}"

    def confirming(self, found: Sequence[Mapping[str, Any]]) -> "Plan":
        """The plan after its search: the base and what was found, best first, as cells on every seed."""
        assert self.exploration is not None
        cells = (self.cells[0], *(Case(f"best {rank}", params) for rank, params in enumerate(found, start=1)))
        trials = _trials(self.exploration.base, cells, self.seeds, self.exploration.device_type)
        return replace(self, cells=cells, trials=tuple(trials))

    @functools.cached_property
    def factors(self) -> tuple[str, ...]:
        """Paths of the config fields that some cell sets."""
        return tuple(dict.fromkeys(path for cell in self.cells for path in cell))

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that an exact two-sided sign-flip test can give with these seeds, before Holm."""
        return min(1.0, math.ldexp(2.0, -len(self.seeds)))


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
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds {seeds}: it should be at least 1")
    base = base.override(settings)
    each_seed = tuple(range(seeds or default_seeds))
    trials = _trials(base, cells, each_seed, device_type)
    exploration = Exploration(design, base, device_type) if isinstance(design, Search) else None
    if exploration is not None:
        _check_space(base, exploration.design.space)
    return Plan(sweep, scale, cells, each_seed, tuple(trials), exploration)


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
    for cell in cells:
        varied = base.override(cell)
        canonical = varied.canonical().model_copy(update={"compute": varied.compute})
        identity = identity_of(varied.backbone, varied.data)
        for seed in seeds:
            config = canonical.model_copy(update={"seed": seed})
            trials.append(Trial(config.key(**identity), cell, config, identity))
    return trials


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
