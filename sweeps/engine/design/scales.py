"""How large a sweep is run: the same question, at four budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spt_core.config import TrialConfig
from sweeps.engine.design.designs import Design
from sweeps.engine.design.sweep import Sweep


@dataclass(frozen=True)
class Scale:
    """A budget.

    Attributes:
        about: one line for `--help`.
        settings: config fields it sets.
        seeds: seeds a cell; None leaves the sweep's own.
    """

    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: int | None = None


SCALES: dict[str, Scale] = {
    "tiny": Scale(
        "seconds a trial: does everything run?",
        {
            "optim.max_steps": 4,
            "optim.batch_size": 4,
            "data.max_dev_responses": 8,
            "data.max_test_responses": 8,
            "data.max_tokens": 128,
            "evaluation.every_steps": 2,
            "evaluation.max_new_tokens": 8,
            "evaluation.bert_encoder": None,
        },
        seeds=1,
    ),
    "demo": Scale(
        "minutes on two cores: fewer cells, one seed, few steps",
        {
            "optim.max_steps": 16,
            "optim.batch_size": 4,
            "data.max_dev_responses": 20,
            "data.max_test_responses": 40,
            "data.max_tokens": 192,
            "evaluation.every_steps": 4,
        },
        seeds=1,
    ),
    "full": Scale("the sweep as its file states it"),
    "paper": Scale("Table 6: the published model, steps and settings"),
}


def at_scale(sweep: Sweep, scale: str) -> tuple[TrialConfig, Design, int]:
    """Base config, design and number of seeds of a sweep at a scale.

    Raises:
        ValueError: no such scale, or a paper scale for a question that the paper does not ask.
    """
    if scale not in SCALES:
        raise ValueError(f"--scale {scale}: it should be one of {', '.join(SCALES)}")
    if scale == "paper" and sweep.paper is None:
        raise ValueError(f"--scale paper: {sweep.name} has no published counterpart; use full, demo or tiny")
    budget = SCALES[scale]
    base = sweep.paper if scale == "paper" and sweep.paper is not None else sweep.base
    small = scale in {"tiny", "demo"}
    design = sweep.demo if small and sweep.demo is not None else sweep.design
    return base.override(budget.settings), design, budget.seeds or sweep.seeds
