"""One cell on one seed, known by its key: what decides a trial's numbers, and nothing else."""

import functools
import gc
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spt_core import NUMERICS_VERSION, backbone, conversations, weights
from spt_core.config import TrialConfig
from spt_core.fields import BackboneConfig, DataConfig
from sweeps.engine.design.designs import Cell, label

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


def trials_of(base: TrialConfig, cells: Sequence[Cell], seeds: Sequence[int], device_type: str) -> list[Trial]:
    """Every cell on every seed, cells outermost.

    Args:
        base: that the cells vary.
        cells: of the plan.
        seeds: of each cell.
        device_type: `cpu` or `cuda`: where the trials will run.
    """
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
