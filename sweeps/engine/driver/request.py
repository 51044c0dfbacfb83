"""What a person asked of a sweep, and what it comes to on this machine or cluster: every command goes through here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spt_core.recipes import RECIPES
from sweeps.engine.cluster import nodes
from sweeps.engine.cluster.resources import Resources, at_hand, fit_resources, resolve_device
from sweeps.engine.design.scales import at_scale
from sweeps.engine.design.search import Search
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import Plan, expand
from sweeps.engine.plan.trial import check_splits
from sweeps.engine.store import shared_storage
from sweeps.engine.store.layout import OutputLayout

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
        tracking_uri: of MLflow; None is in the output folder.
    """

    sweep: Sweep
    question: str
    scale: str
    model: str | None
    settings: Mapping[str, Any]
    seeds: int | None
    resources: Resources
    output: Path
    search: Mapping[str, Any] = field(default_factory=dict)
    retunes: bool = True
    study: str | None = field(default=None, repr=False)
    storage: str | None = field(default=None, repr=False)
    tracking_uri: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ResolvedRequest:
    """A request as it can be run here.

    Attributes:
        plan: before its first round.
        resources: with the number of GPUs made plain.
        layout: where files go.
        tracking_uri: of MLflow.
    """

    plan: Plan
    resources: Resources
    layout: OutputLayout = field(repr=False)
    tracking_uri: str = field(repr=False)

    def fitted(self, num_trials: int) -> Resources:
        """What each trial gets, with nothing left open.

        Args:
            num_trials: that may run.
        """
        return fit_resources(self.resources, num_trials=max(1, num_trials))

    def refuse_unrunnable(self) -> None:
        """Refuse what would only fail once trials run.

        Raises:
            ValueError: a place that cannot be used, or that other nodes do not see; the option and what would do.
        """
        from sweeps.engine.tracking.uri import check

        if self.layout.study is not None:
            from sweeps.engine.search.study import check_storage

            check_storage(self.layout.study)
        refuse_unshared(self.plan, self.layout, self.resources)
        check(self.tracking_uri)


def resolve(request: Request) -> ResolvedRequest:
    """The plan of a request; on a cluster this process should be connected to it.

    Raises:
        ValueError: it cannot be run; says what would do.
    """
    from spt_core import training

    sweep = _sweep(request)
    settings = dict(request.settings)
    if request.model is not None and request.model not in RECIPES:
        settings = {"backbone.name": request.model, **settings}
    settings = {name: absolute(value) if name in _SOURCES else value for name, value in settings.items()}
    device_type, resources = resolve_device(request.resources)
    settings = _resolve_half_precision(settings, sweep, request.scale, device_type)
    plan = expand(sweep, scale=request.scale, device_type=device_type, settings=settings, seeds=request.seeds)
    for data in {trial.config.data for trial in plan.trials}:
        check_splits(data)
    for trial in plan.trials:
        training.refuse_workers(trial.config, resources.workers)
    # Trials in the Tune process write where the driver does.
    shared = shared_storage.place(request.storage) if request.storage and resources.workers else None
    layout = OutputLayout(request.output.resolve(), request.study, shared)
    return ResolvedRequest(plan, resources, layout, request.tracking_uri or layout.tracking)


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


def _resolve_half_precision(settings: Mapping[str, Any], sweep: Sweep, scale: str, device_type: str) -> dict[str, Any]:
    """The settings, with what `auto` means on the cluster's GPUs where the driver's machine has none to ask.

    Raises:
        ValueError: the sweep leaves it to `auto`, and Ray does not know what GPUs there are.
    """
    import torch

    precision = settings.get("backbone.precision", at_scale(sweep, scale)[0].backbone.precision)
    if device_type != "cuda" or precision != "auto" or torch.cuda.is_available():
        return dict(settings)
    half = at_hand().half_precision
    if half is None:
        raise ValueError(
            "backbone.precision = 'auto': this machine has no GPU to ask and Ray does not know the kind of the "
            "cluster's; say it: --set backbone.precision=float16 (V100, T4), bfloat16 (A100 and later) or float32"
        )
    return {**settings, "backbone.precision": half}


def refuse_unshared(plan: Plan, layout: OutputLayout, resources: Resources) -> None:
    """Refuse what trials on other nodes could not see or could not write to.

    Raises:
        ValueError: the option, its value and what would do.
    """
    available = at_hand()
    if not available.has_several_nodes:
        return
    if resources.workers == 0:
        raise ValueError(
            "--workers 0: trials in the Tune process are for one machine, and this cluster has several nodes, or can "
            "get them: use --workers 1 or more"
        )
    if layout.storage is None:
        layout.output.mkdir(parents=True, exist_ok=True)
        nodes.refuse_unshared_output(available, "--output", layout.output)
    elif shared_storage.is_remote(layout.storage):
        shared_storage.probe(layout.storage)
    else:
        Path(layout.storage).mkdir(parents=True, exist_ok=True)
        nodes.refuse_unshared_output(available, "--storage", Path(layout.storage))
    configs = [trial.config for trial in plan.distinct.values()]
    inputs = {("--train", config.data.train) for config in configs} | {
        ("--test", config.data.test) for config in configs
    }
    for option, name in sorted(inputs | {("--model", config.backbone.name) for config in configs}):
        if Path(name).exists():  # else a name that those who read it know
            nodes.refuse_unshared_input(available, option, Path(name))


def absolute(source: str) -> str:
    """A path that is there as an absolute one, since workers run elsewhere; anything else as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def parse_settings(
    settings: Sequence[str] | None, *, train: str | None = None, test: str | None = None, steps: int | None = None
) -> dict[str, Any]:
    """Config fields that a command line sets.

    Args:
        settings: `--set FIELD=VALUE`, the value as JSON or else as text; they win over the options below.
        train: `--train`, a file of dialogues.
        test: `--test`, likewise.
        steps: `--steps`, of the optimiser.

    Raises:
        ValueError: no equals sign.
    """
    options = {"data.train": train, "data.test": test, "optim.max_steps": steps}
    values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: it should be FIELD=VALUE, for example optim.learning_rate=0.001")
        try:
            values[name.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[name.strip()] = {"None": None, "True": True, "False": False}.get(text, text)
    return values
