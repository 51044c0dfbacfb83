"""A sweep's Optuna study: where it is stored, which trials it has asked for, and which of them were the best."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.engine.plan.plan import Exploration, Plan
from sweeps.engine.tracking.uri import redact

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


def study_of(plan: Plan, storage: str) -> optuna.Study:
    """The study of a search."""
    assert plan.exploration is not None
    return open_study(plan.sweep_id, storage, directions=plan.exploration.design.directions)


def keys(study: optuna.Study) -> set[str]:
    """The distinct trials that a study has asked for, but for those that a dead driver left."""
    return {
        one.user_attrs[KEY]
        for one in study.get_trials(deepcopy=False)
        if KEY in one.user_attrs and one.user_attrs.get(ERROR) != ABANDONED
    }


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


def ranked(study: optuna.Study, exploration: Exploration, *, excluding: str = "") -> list[FrozenTrial]:
    """The distinct trials of a search that ended at full budget, best first.

    With several objectives they are ordered by Pareto front, and within one by the first objective.

    Args:
        study: of the search.
        exploration: what it explored.
        excluding: key of a trial that is left out, such as the base's.
    """
    distinct: dict[str, FrozenTrial] = {}
    for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        distinct.setdefault(one.user_attrs[KEY], one)
    distinct.pop(excluding, None)
    sign = -1.0 if exploration.design.directions[0] == "maximize" else 1.0
    left, order = list(distinct.values()), []
    while left:
        front = pareto_front(left, exploration.design.directions)
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


def found(study: optuna.Study, exploration: Exploration) -> list[Mapping[str, Any]]:
    """What a search found: the params of its best distinct trials, without the base itself."""
    best = ranked(study, exploration, excluding=exploration.trial({}).key)
    return [one.params for one in best[: exploration.design.confirm]]
