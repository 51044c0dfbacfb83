"""How the sweeps of an output folder stand, by their records, the ledger and the trials' own histories."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from sweeps.engine.store import sweep_record, trial_folder
from sweeps.engine.store.ledger import LEDGER, Entry, Ledger, is_dead
from sweeps.engine.store.states import NOT_RUN, Shown
from sweeps.engine.store.sweep_record import SweepRecord


@dataclass(frozen=True)
class TrialStatus:
    """A trial that somebody is running, that failed, or whose owner died.

    Attributes:
        key: of the trial.
        label: for people.
        state: `running`, `failed`, or `left`: by an owner that is dead or silent; a resume goes on with it.
        last_beat: seconds since its owner said anything.
        share: of its training that is done, 0 to 1; None where it has told nothing yet.
        error: why it failed.
    """

    key: str
    label: str
    state: str
    last_beat: float
    share: float | None
    error: str | None


@dataclass(frozen=True)
class SweepStatus:
    """How one sweep stands.

    Attributes:
        sweep_id: of the plan.
        started: seconds since the epoch, the last time.
        counts: trials by state: `finished`, `running`, `left`, `failed`, `pruned`, `interrupted`, `not run`.
        trials: those worth a line.
        mean_seconds: of a finished trial on its workers; None before the first.
        eta_seconds: until the last trial ends, if all goes on as it did and somebody runs it; None: not known.
        note: what the counts leave out; empty if nothing.
    """

    sweep_id: str
    started: float
    counts: Mapping[str, int]
    trials: tuple[TrialStatus, ...]
    mean_seconds: float | None
    eta_seconds: float | None
    note: str

    @property
    def total(self) -> int:
        """Trials that are known or planned."""
        return sum(self.counts.values())

    @property
    def is_left(self) -> bool:
        """Trials are left and nobody runs any."""
        left = sum(self.counts.get(state, 0) for state in (NOT_RUN, "interrupted", "left", "failed"))
        return left > 0 and not self.counts.get("running")

    def document(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def statuses(output: Path, *, only: str | None = None) -> list[SweepStatus]:
    """Every sweep of an output folder, the one started last first; or one, by its id, the start of it, or its file.

    Raises:
        ValueError: there is no such sweep, or none at all.
    """
    known = [sweep_record.find(output, only)] if only is not None else sweep_record.all_in(output)
    if not known or not (output / LEDGER).is_file():
        raise ValueError(f"--output {output}: no sweep has been started in it; spt run starts one")
    ledger = Ledger(f"sqlite:///{output / LEDGER}")
    try:
        return [_status(one, ledger, output) for one in known]
    finally:
        ledger.close()


def _status(of: SweepRecord, ledger: Ledger, output: Path) -> SweepStatus:
    labels, note = dict(of.trials), ""
    if of.num_search_trials:
        explored, note = _explored(of)
        labels = {**explored, **labels}
    entries = ledger.entries(list(labels))
    states = {key: _state(entries.get(key), ledger) for key in labels}
    counts = Counter(states.values())
    if of.num_search_trials and not of.search_ended:
        counts[NOT_RUN] += max(0, of.num_search_trials - len(labels.keys() - of.trials.keys()))
    shown = [
        TrialStatus(
            key,
            labels[key],
            state,
            max(0.0, time.time() - entries[key].heartbeat),
            _share(output / "trials" / key),
            entries[key].error,
        )
        for key, state in states.items()
        if state in {"running", "left", "failed"}
    ]
    took = [
        entry.metrics["worker/seconds"]
        for key, entry in entries.items()
        if states[key] == "finished" and "worker/seconds" in entry.metrics
    ]
    left = sum(counts[state] for state in (NOT_RUN, "interrupted", "left"))
    left_of_running = sum(1 - (one.share or 0.0) for one in shown if one.state == "running")
    eta = None if not took else mean(took) * (left + left_of_running) / max(1, of.concurrency)
    by_state = {str(state): count for state, count in counts.items()}
    return SweepStatus(of.sweep_id, of.started, by_state, tuple(shown), mean(took) if took else None, eta, note)


def _state(entry: Entry | None, ledger: Ledger) -> Shown:
    if entry is None:
        return NOT_RUN
    if entry.state == "running" and (ledger.is_silent(entry) or is_dead(entry.owner)):
        return "left"
    return entry.state


def _share(folder: Path) -> float | None:
    """Of the training that is done, by the last row of the history."""
    rows = trial_folder.read_history(folder)
    return rows[-1]["step"] / max(1.0, rows[-1]["total_steps"]) if rows else None


def _explored(of: SweepRecord) -> tuple[dict[str, str], str]:
    """The trials that a search has proposed so far, by key; and why they are not known, where they are not."""
    from sweeps.engine.search import study

    try:
        return study.proposed(of.sweep_id, of.study), ""
    except ValueError:
        return {}, "the trials of its search are not counted: their study is not to be had from here"
