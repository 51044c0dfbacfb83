"""A driver of a search without Tune: the test plays the trials, the ledger and the study are real."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from optuna import Study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.plan.trial import Trial
from sweeps.engine.search.budget import Budget
from sweeps.engine.search.optuna_searcher import OptunaSearcher
from sweeps.engine.store.ledger import Entry, Ledger, owner_here

PlanOf = Callable[..., Plan]
"""The plan of a search whose design differs as the keyword arguments say."""

Explored = tuple[Study, SearchSpace]
"""The study of a search that has run, and its space."""

K, ON, GAMMA = "prompts.num_prompts", "losses.contrastive.enabled", "losses.contrastive.threshold"
SPACE = {
    K: IntDistribution(1, 4),
    ON: CategoricalDistribution([True, False]),
    GAMMA: FloatDistribution(1, 80),
}
FINISHED = "FINISHED"

Outcome = Mapping[str, float] | str
"""How the test lets a trial end: its metrics, or `fail` or `stop`."""


class Driver:
    """One driver of a search, and the trials that it has handed out."""

    def __init__(
        self, plan: Plan, folder: Path, *, later: float = 0.0, storage: str = "", budget: Budget | None = None
    ) -> None:
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}", clock=lambda: time.time() + later)
        self.owner = owner_here()
        self.proposed: list[Trial] = []
        self.answered: list[str] = []
        self.search = OptunaSearcher(
            plan.sweep_id,
            space_of(plan),
            storage=storage or f"sqlite:///{folder / 'optuna.db'}",
            ledger=self.ledger,
            owner=self.owner,
            request_of=request_of,
            proposed=self.proposed.append,
            answered=self._answered,
            budget=budget or Budget(None),
        )

    def _answered(self, trial: Trial, entry: Entry) -> None:
        self.answered.append(trial.key)

    def ask(self, name: str) -> Trial | None:
        answer = self.search.suggest(name)
        if answer == FINISHED:
            return None
        assert isinstance(answer, dict)
        trial = self.proposed[-1]
        assert answer == {"key": trial.key}
        assert self.ledger.claim(trial.key, owner=self.owner)
        return trial

    def end(self, name: str, trial: Trial, outcome: Outcome) -> None:
        if outcome == "fail":
            self.ledger.fail(trial.key, owner=self.owner, error="ValueError: no")
        elif isinstance(outcome, Mapping):
            self.ledger.finish(trial.key, owner=self.owner, metrics=outcome)
        self.search.on_trial_complete(name, {}, error=outcome == "fail")

    def play(self, outcome: Callable[[Trial], Outcome], *, most: int = 1000) -> int:
        """Run proposals one after the other until there are no more; returns how many ran."""
        for number in range(most):
            trial = self.ask(str(number))
            if trial is None:
                return number
            self.end(str(number), trial, outcome(trial))
        return most

    def states(self) -> dict[TrialState, int]:
        trials = self.search.study.get_trials()
        return {state: sum(one.state == state for one in trials) for state in {one.state for one in trials}}


def request_of(trial: Trial) -> dict[str, str]:
    return {"key": trial.key}


def space_of(plan: Plan) -> SearchSpace:
    assert plan.search is not None
    return plan.search


def nll(trial: Trial) -> dict[str, float]:
    return {"dev/nll": 4.0 - 0.1 * trial.config.prompts.num_prompts + trial.config.losses.contrastive.enabled}
