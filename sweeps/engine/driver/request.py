"""What a person asked of a sweep, and the plan that it makes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spt_core.recipes import RECIPES
from sweeps.engine.cluster.resources import Resources, resolve_device, resolve_half_precision
from sweeps.engine.design.designs import Sweep
from sweeps.engine.design.search_space import Search
from sweeps.engine.plan import plan as planning
from sweeps.engine.plan.plan import Plan
from sweeps.engine.store import shared_storage as storing
from sweeps.engine.store.layout import Places

_SOURCES = frozenset({"data.train", "data.test", "backbone.name"})


@dataclass(frozen=True)
class Request:
    """A sweep with the options of its command.

    Attributes:
        sweep: as its file states it.
        question: its file's docstring.
        scale: one of `scales.SCALES`.
        model: a recipe, a Hub id or a folder; None is the sweep's own.
        settings: config fields that override base and scale.
        seeds: a cell; None is the scale's or the sweep's own.
        search: fields of the design that a search is told otherwise.
        retunes: nuisance factors are tuned, where the sweep has any.
        resources: of each trial.
        output: folder.
        study: URL of an Optuna storage; None is a file in the output folder.
        storage: what all nodes of a cluster share; None is the output folder.
    """

    sweep: Sweep
    question: str
    scale: str
    model: str | None
    settings: Mapping[str, Any]
    seeds: int | None
    search: Mapping[str, Any]
    retunes: bool
    resources: Resources
    output: Path
    study: str | None = None
    storage: str | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it can be run here.

    Attributes:
        plan: before its first round.
        resources: with the number of GPUs made plain.
        places: where files go.
    """

    plan: Plan
    resources: Resources
    places: Places = field(repr=False)


def resolve(request: Request) -> Asked:
    """The plan of a request.

    Raises:
        ValueError: it cannot be run; says what would do.
    """
    from spt_core import training

    sweep = _sweep(request)
    settings = dict(request.settings)
    if request.model is not None and request.model not in RECIPES:
        settings = {"backbone.name": absolute(request.model), **settings}
    settings = {name: absolute(value) if name in _SOURCES else value for name, value in settings.items()}
    device_type, resources = resolve_device(request.resources)
    settings = resolve_half_precision(settings, sweep, device_type)
    plan = planning.expand(sweep, scale=request.scale, device_type=device_type, settings=settings, seeds=request.seeds)
    for data in {trial.config.data for trial in plan.trials}:
        planning.check_splits(data)
    for trial in plan.trials:
        training.refuse_workers(trial.config, resources.workers)
    # Trials in the Tune process write where the driver does.
    shared = storing.place(request.storage) if request.storage and resources.workers else None
    return Asked(plan, resources, Places(request.output.resolve(), request.study, shared))


def _sweep(request: Request) -> Sweep:
    """The sweep with its question, on the recipe that the model names, searching and tuning as it was told to."""
    sweep = request.sweep
    changed: dict[str, Any] = {"question": request.question}
    if request.search:
        if not isinstance(sweep.design, Search):
            raise ValueError(f"--objective and --trials are for a search, and {sweep.name} states its cells: drop them")
        designs = {"design": sweep.design, "demo": sweep.demo}
        changed |= {n: replace(d, **request.search) for n, d in designs.items() if isinstance(d, Search)}
    if request.model in RECIPES:
        changed |= dict.fromkeys(("base", "paper"), RECIPES[request.model]())
    if not request.retunes:
        changed["retune"] = None
    return replace(sweep, **changed)


def absolute(source: str) -> str:
    """A path that is there as an absolute one, since workers run elsewhere; anything else as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Config fields from `FIELD=VALUE`, the value as JSON or else as text.

    Raises:
        ValueError: no equals sign.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: it should be FIELD=VALUE, for example optim.learning_rate=0.001")
        try:
            values[name.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[name.strip()] = {"None": None, "True": True, "False": False}.get(text, text)
    return values
