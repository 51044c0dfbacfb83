"""How a sweep of an output folder was asked for, and its trials: what resume, status and report go by."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sweeps.engine.store.atomic_write import write_whole
from sweeps.engine.store.redact import redact

RECORD = "sweep.json"
"""The file in the sweep's folder."""
_SECRET = ("--tracking-uri", "--study", "--storage")
_ONCE = frozenset({"--rerun", "--dry-run", "--json", "--calibrate"})
_ONCE_WITH_VALUE = ("--budget-hours", "--price-per-hour", "--output", "--as-sweep")


@dataclass(frozen=True)
class SweepRecord:
    """One sweep, as it was last started.

    Attributes:
        sweep_id: of the plan.
        file: of the sweep, absolute.
        arguments: of its command, without those that are for one run and without passwords.
        folder: where it was started, which relative paths in the arguments are relative to.
        started: seconds since the epoch.
        concurrency: trials at once.
        study: URL of the Optuna storage, without password.
        num_search_trials: of a search, which its study lists; 0 without one.
        search_ended: the best of it are among the trials.
        trials: key to label, in the order of the plan, first rounds first.
    """

    sweep_id: str
    file: str
    arguments: tuple[str, ...]
    folder: str
    started: float
    concurrency: int
    study: str
    num_search_trials: int
    search_ended: bool
    trials: dict[str, str]

    @property
    def not_kept(self) -> list[str]:
        """Options whose password was not kept."""
        return [name for name in _SECRET if any(one.startswith(name) for one in self.arguments if HIDDEN in one)]


HIDDEN = "://***@"
"""Stands for user and password of an address that was not kept."""


def write(record: SweepRecord, folder: Path) -> None:
    """Keep a record in the sweep's folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECORD, json.dumps(asdict(record), indent=1))


def read(folder: Path) -> SweepRecord | None:
    """The record in a sweep's folder; None where there is none that can be read."""
    try:
        values = json.loads((folder / RECORD).read_text())
        return SweepRecord(**{**values, "arguments": tuple(values["arguments"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def all_in(output: Path) -> list[SweepRecord]:
    """Every sweep of an output folder, the one started last first."""
    found = [read(path.parent) for path in output.glob(f"*/{RECORD}")]
    return sorted((record for record in found if record is not None), key=lambda record: -record.started)


def find(output: Path, name: str) -> SweepRecord:
    """A sweep of an output folder, by its id, the start of one, or its file.

    Raises:
        ValueError: none, or several; names what there is.
    """
    known = all_in(output)
    by_id = [record for record in known if record.sweep_id == name]
    by_start = [record for record in known if record.sweep_id.startswith(name)]
    file = str(Path(name).resolve())
    matches = by_id or by_start or [record for record in known if record.file == file]
    if len(matches) == 1:
        return matches[0]
    there = ", ".join(record.sweep_id for record in matches or known)
    if matches:
        raise ValueError(f"{name}: several sweeps of {output} are meant; name one: {there}")
    raise ValueError(
        f"{name}: no sweep of {output} has this id or file; there {'are ' + there if there else 'is none'}"
    )


def kept_arguments(arguments: Sequence[str]) -> Iterable[str]:
    """A command\'s arguments for its record: without passwords, and without options that are for one run."""
    left = iter(arguments)
    for argument in left:
        name, equals, value = argument.partition("=")
        if name in _ONCE:
            continue
        if name in _ONCE_WITH_VALUE:
            if not equals:
                next(left, None)
            continue
        if name in _SECRET:
            address = value if equals else next(left, "")
            bare = redact(address)
            yield f"{name}={address if bare == address else bare.replace('://', HIDDEN, 1)}"
            continue
        yield argument
