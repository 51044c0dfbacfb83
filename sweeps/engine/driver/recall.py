"""What an output folder holds of a plan: how its trials ended, and the record of how the sweep was asked for."""

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.store import shared_storage
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.ledger import LEDGER, Entry, Ledger
from sweeps.engine.store.redact import redact
from sweeps.engine.store.sweep_record import SweepRecord, kept_arguments
from sweeps.engine.store.trial_folder import TrialResult


def recorded(plan: Plan, layout: OutputLayout) -> dict[str, Entry]:
    """What the ledger holds of the trials of a plan, by key. Makes nothing where nothing is yet."""
    return _entries(list(plan.known), layout)


def _entries(keys: Collection[str], layout: OutputLayout) -> dict[str, Entry]:
    return Ledger(layout.ledger).entries(keys) if (layout.output / LEDGER).is_file() else {}


def recall(plan: Plan, layout: OutputLayout) -> dict[str, TrialResult]:
    """The trials of a plan that have finished before, by key. Makes nothing where nothing is yet."""
    finished = [entry for entry in recorded(plan, layout).values() if entry.state == "finished"]
    return {entry.key: replace(result_of(entry, layout), reused=True) for entry in finished}


@dataclass(frozen=True)
class FoundSoFar:
    """What an output folder holds of a round's trials (a `plan.RoundFindings`).

    Attributes:
        layout: of the folder.
        is_over: whether a search has ended, by the number of its trials.
    """

    layout: OutputLayout
    is_over: Callable[[int], bool] = lambda _: False

    def entries(self, keys: Collection[str]) -> Mapping[str, Entry]:
        """Of the ledger, by key."""
        return _entries(keys, self.layout)

    def best(self, study: str, space: SearchSpace) -> Sequence[Mapping[str, Any]] | None:
        """What a search found, best first; None as long as it has not ended."""
        from sweeps.engine.search import study as studies

        found = studies.study_of(study, space, self.layout.studies)
        return studies.found(found, space) if self.is_over(len(studies.keys(found))) else None


def advance(plan: Plan, found: FoundSoFar) -> Plan:
    """The plan after the rounds that have ended before."""
    while (following := plan.rounds[0].choose_next(found)) is not None:
        plan = following
    return plan


def forget(plan: Plan, layout: OutputLayout) -> None:
    """Drop the results of a plan's trials, for `--rerun`; those that another driver is running stay."""
    ledger, keys = Ledger(layout.ledger), {**plan.known, **advance(plan, FoundSoFar(layout)).known}
    ledger.forget(list(keys))
    left = ledger.entries(list(keys))
    for key in keys:
        if key not in left:
            shutil.rmtree(layout.trial(key), ignore_errors=True)
            shared_storage.remove(shared_storage.join(layout.checkpoints, key))
            if handed_over := layout.handed_over(key):
                shared_storage.remove(handed_over)


def result_of(entry: Entry, layout: OutputLayout) -> TrialResult:
    """What the ledger says of a trial that nobody runs any more."""
    state = "interrupted" if entry.state == "running" else entry.state
    return TrialResult(entry.key, state, entry.metrics, layout.trial(entry.key), error=entry.error)


def record_of(
    plan: Plan, *, file: str, arguments: Sequence[str], concurrency: int, study: str, started: float
) -> SweepRecord:
    """A record of a plan that is about to run, or whose next round is.

    Args:
        plan: the sweep.
        file: of the sweep.
        arguments: of its command, as given.
        concurrency: trials at once.
        study: URL of the Optuna storage.
        started: seconds since the epoch.
    """
    return SweepRecord(
        sweep_id=plan.sweep_id,
        file=str(Path(file).resolve()),
        arguments=tuple(kept_arguments(arguments)),
        folder=os.getcwd(),
        started=started,
        concurrency=concurrency,
        study=redact(study),
        num_search_trials=plan.search.design.num_trials if plan.search is not None else 0,
        search_ended=plan.search is not None and plan.knows_cells,
        trials={key: trial.label for key, trial in {**plan.known, **plan.distinct}.items()},
    )
