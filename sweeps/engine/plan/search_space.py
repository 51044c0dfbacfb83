"""What a search explores, from which base, and the trial that each of its proposals stands for."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from spt_core.config import TrialConfig
from sweeps.engine.design.designs import Case
from sweeps.engine.design.search import Search
from sweeps.engine.plan.trial import SEARCH_SEED, Trial, trials_of


@dataclass(frozen=True)
class SearchSpace:
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
        (trial,) = trials_of(self.base.override(scored), [Case("", params)], [SEARCH_SEED], self.device_type)
        return replace(trial, cell=Case(f"search {trial.key[:8]}", params))

    @functools.cached_property
    def digest(self) -> str:
        """Of all that makes two searches one: raising the number of trials goes on with the same search."""
        design = self.design
        told = (design.space, design.only_if, design.objectives, design.sampler, design.pruner, self.trial({}).key)
        return hashlib.sha256(repr(told).encode()).hexdigest()
