"""A sweep's Optuna study: where it is stored, which trials it has asked for, and which of them were the best."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.store.redact import redact

KEY, OWNER, ERROR = "key", "owner", "error"
"""Attributes of a study's trial: its identity, the driver that asked for it, why it has no value."""
ABANDONED = "its driver or its process died before it could end"
"""Why a trial has no value that nobody runs any more: it is proposed again."""
JOURNAL = "journal:"
"""Scheme of a study in Optuna's journal file, for folders that several machines share."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(name: str, storage: str, *, directions: Sequence[str]) -> optuna.Study:
    """The study of that name, made if it is not there."""
    return optuna.create_study(
        study_name=name, storage=_storage_of(storage), directions=list(directions), load_if_exists=True
    )


def check_storage(url: str) -> None:
    """Refuse a place for the studies that cannot be used, before the sweep starts.

    Raises:
        ValueError: names `--study`, the value without its password, and what would do.
    """
    try:
        optuna.get_all_study_names(_storage_of(url))
    except Exception as error:  # of SQLAlchemy, of a driver that is not installed, of the file system
        reason = redact(str(getattr(error, "orig", None) or error)).strip().partition("\n")[0]
        raise ValueError(
            f"--study {redact(url)}: {reason}. Give the URL of a database that is there and whose driver is installed "
            "(postgresql://host/name), sqlite:///study.db, or journal:FILE"
        ) from None


def _storage_of(url: str) -> optuna.storages.BaseStorage:
    if url.startswith(JOURNAL):
        file = optuna.storages.journal.JournalFileBackend(url.removeprefix(JOURNAL))
        return optuna.storages.JournalStorage(file)
    return optuna.storages.RDBStorage(url)


def study_of(name: str, space: SearchSpace, storage: str) -> optuna.Study:
    """The study of a search, made if it is not there."""
    return open_study(name, storage, directions=space.design.directions)


def keys(study: optuna.Study) -> set[str]:
    """The distinct trials that a study has asked for, but for those that a dead driver left."""
    asked = (one for one in study.get_trials(deepcopy=False) if KEY in one.user_attrs)
    return {one.user_attrs[KEY] for one in asked if not is_abandoned(one)}


def is_abandoned(one: FrozenTrial) -> bool:
    """Whether a trial has no value because nobody ran it to its end: whatever else fails says why."""
    return one.state == TrialState.FAIL and ERROR not in one.user_attrs


def proposed(name: str, storage: str) -> dict[str, str]:
    """What the search of a study has asked for so far: key to label.

    Raises:
        ValueError: there is no such study, or its storage cannot be opened.
    """
    check_storage(storage)
    try:
        study = optuna.load_study(study_name=name, storage=_storage_of(storage))
    except KeyError:
        return {}
    return {key: f"search {key[:8]}" for key in sorted(keys(study))}


def ranked(study: optuna.Study, space: SearchSpace, *, excluding: str = "") -> list[FrozenTrial]:
    """The distinct trials of a search that ended at full budget, best first.

    With several objectives they are ordered by Pareto front, and within one by the first objective.

    Args:
        study: of the search.
        space: what it explored.
        excluding: key of a trial that is left out, such as the base's.
    """
    distinct: dict[str, FrozenTrial] = {}
    for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        distinct.setdefault(one.user_attrs[KEY], one)
    distinct.pop(excluding, None)
    sign = -1.0 if space.design.directions[0] == "maximize" else 1.0
    left, order = list(distinct.values()), []
    while left:
        front = pareto_front(left, space.design.directions)
        order += sorted(front, key=lambda one: sign * one.values[0])
        left = [one for one in left if one not in front]
    return order


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """The trials that no other beats in one objective and equals or beats in all."""
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    points = [[sign * value for sign, value in zip(signs, one.values, strict=True)] for one in trials]

    def beaten(point: list[float]) -> bool:
        return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)

    return [one for one, point in zip(trials, points, strict=True) if not beaten(point)]


def found(study: optuna.Study, space: SearchSpace) -> list[Mapping[str, Any]]:
    """What a search found: the params of its best distinct trials, without the base itself."""
    best = ranked(study, space, excluding=space.trial({}).key)
    return [one.params for one in best[: space.design.confirm]]
