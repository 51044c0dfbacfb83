"""The loss terms and the gradients of a config at its initial values, for the tests that compare them."""

import functools
from pathlib import Path
from typing import Any

from torch import Tensor

from spt_core.batching import Example, collate
from spt_core.build import build
from spt_core.config import TrialConfig
from spt_core.gradient import backward
from spt_core.splits import load_splits
from tests.conftest import tiny_config


@functools.cache
def first_examples(folder: str) -> list[Example]:
    """The first eight training examples of a tiny model."""
    config = tiny_config(Path(folder))
    return load_splits(config.data, build(config, device="cpu")[1]).train[:8]


def examples_of_two_dialogues(config: TrialConfig) -> list[Example]:
    """Four training examples: two of each of two dialogues, so that some pairs share their persona and some do not."""
    train = load_splits(config.data, build(config, device="cpu")[1]).train
    first, other = train[0].dialogue, next(e.dialogue for e in train if e.dialogue != train[0].dialogue)
    return [e for e in train if e.dialogue == first][:2] + [e for e in train if e.dialogue == other][:2]


def gradients(config: TrialConfig, *, rows: int = 4) -> dict[str, Tensor]:
    """The gradient of the first training batch at the initial values, by parameter."""
    model, _ = build(config, device="cpu")
    batch = collate(first_examples(config.backbone.name)[:rows])
    backward(model, batch, config=config)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def terms_and_gradients(config: TrialConfig, **options: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The loss terms of examples of two dialogues, and the gradient by parameter."""
    model, _ = build(config, device="cpu")
    found = backward(model, collate(examples_of_two_dialogues(config)), config=config, **options)
    return found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
