"""A plan as people and programs read it, before anything runs."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console

from sweeps.engine.analysis.average_improvement import CAVEAT
from sweeps.engine.design.designs import label
from sweeps.engine.design.metrics import DEV_AVG, DEV_NLL
from sweeps.engine.plan.estimate import Estimate
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import AWAITS_TUNING, SEARCH_SEED, Trial


def plan_document(plan: Plan, *, found: Collection[str], estimate: Estimate) -> dict[str, Any]:
    """The plan for programs.

    `state` of a trial is `reused`, `to run`, `same as` an earlier cell, or `after tuning`: its key comes with its
    nuisance levels.

    Args:
        plan: after its tuning round, where that has ended.
        found: keys of the trials that have finished.
        estimate: of the rest.
    """
    document: dict[str, Any] = {
        "sweep_id": plan.sweep_id,
        "scale": plan.scale,
        "seeds": list(plan.seeds),
        "smallest_p": plan.smallest_p,
        "smallest_p_holm": plan.smallest_p_holm,
        "estimate": estimate.document(),
        "trials": [_trial(trial, _state(plan, trial, found)) for trial in plan.trials],
    }
    if plan.tuning is not None:
        document["tuning"] = {
            "metric": DEV_NLL,
            "seed": SEARCH_SEED,
            "levels": {path: list(levels) for path, levels in plan.tuning.factors.items()},
            "chosen": [choice.levels for choice in plan.choices],
            "trials": [
                _trial(attempt.trial, "reused" if attempt.trial.key in found else "to run") for attempt in plan.tuning
            ],
        }
    if plan.search is not None:
        design = plan.search.design
        document["search"] = {
            "num_trials": design.num_trials,
            "objectives": dict(zip(design.objectives, design.directions, strict=True)),
            "sampler": design.sampler,
            "pruner": None if design.pruner is None else vars(design.pruner),
            "confirm": design.confirm,
            "space": {
                path: {"kind": type(d).__name__.removesuffix("Distribution").lower(), **d._asdict()}
                for path, d in design.space.items()
            },
            "only_if": {path: list(conditions) for path, conditions in design.only_if.items()},
        }
    return document


def print_plan_json(console: Console, document: dict[str, Any]) -> None:
    """The document, on standard output as it is."""
    console.file.write(json.dumps(document, indent=1) + "\n")


def print_plan(
    console: Console, plan: Plan, *, found: Collection[str], estimate: Estimate, output: Path, everything: bool
) -> None:
    """What will run, before it does.

    Args:
        console: where to.
        plan: after its tuning round, where that has ended.
        found: keys of the trials that have finished.
        estimate: of the rest.
        output: folder of what has finished.
        everything: each trial, and what the number of seeds can show.
    """
    lines = _search_lines(plan, everything=everything) + _tuning_lines(plan, found, everything=everything)
    seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}"
    same = len(plan.trials) - len(plan.distinct)
    finished = sum(key in found for key in plan.distinct)
    lines.append(
        f"{plan.sweep_id}: {len(plan.cells)} cells x {seeds} = {len(plan.trials)} trials"
        f"{f', {same} of them the same as another' if same else ''}; {finished} finished before, "
        f"{len(plan.distinct) - finished} to run"
    )
    if everything:
        lines += [_line(trial, _state(plan, trial, found)) for trial in plan.trials]
        holm = f"; Holm over {plan.num_compared} cells makes it {plan.smallest_p_holm:.3g}"
        lines.append(
            f"  With {seeds} an exact sign-flip test can give no p below {plan.smallest_p:.3g}, before Holm"
            f"{holm if plan.num_compared > 1 else ''}."
        )
    if everything or estimate.device_hours is not None:
        lines += [f"  {line}" for line in estimate.describe(output)]
    # In one piece: styling ten thousand lines takes longer than planning them.
    console.file.write("\n".join(lines) + "\n")
    console.file.flush()


def _state(plan: Plan, trial: Trial, found: Collection[str]) -> str:
    twin = plan.distinct[trial.key]
    if twin is not trial:
        return f"is {label(twin.cell)}"
    if trial.key in found:
        return "reused"
    return "after tuning" if AWAITS_TUNING in trial.identity else "to run"


def _trial(trial: Trial, state: str) -> dict[str, Any]:
    return {
        "key": None if state == "after tuning" else trial.key,
        "cell": label(trial.cell),
        "levels": dict(trial.cell),
        "seed": trial.seed,
        "state": "same as" if state.startswith("is ") else state,
    }


def _line(trial: Trial, state: str) -> str:
    key = "-" if state == "after tuning" else trial.key
    return f"  {key:<16}  {trial.label:<40} {state}"


def _search_lines(plan: Plan, *, everything: bool) -> list[str]:
    if plan.search is None:
        return []
    design = plan.search.design
    lines = [
        f"{plan.sweep_id}: a search of {design.num_trials} trials in {len(design.space)} dimensions for "
        f"{' and '.join(design.objectives)}, then the best {design.confirm} beside the base on test"
    ]
    if everything:
        for path, distribution in design.space.items():
            given = f"  if {' and '.join(design.only_if[path])}" if path in design.only_if else ""
            lines.append(f"  {path:<32} {distribution}{given}")
    return lines + ([f"  {CAVEAT}"] if DEV_AVG in design.objectives else [])


def _tuning_lines(plan: Plan, found: Collection[str], *, everything: bool) -> list[str]:
    if plan.tuning is None:
        return []
    tuning, trials = plan.tuning, plan.tuning.trials
    finished = sum(key in found for key in trials)
    levels = "; ".join(f"{path} in {', '.join(map(str, values))}" for path, values in tuning.factors.items())
    lines = [
        f"{plan.sweep_id}: first {len(trials)} trials that retune {levels} within each cell, by {DEV_NLL} on seed "
        f"{SEARCH_SEED}; {finished} finished before, {len(trials) - finished} to run"
    ]
    if everything:
        lines += [_line(trial, "reused" if key in found else "to run") for key, trial in trials.items()]
    for cell, choice in zip(plan.cells, plan.choices, strict=False):
        lines.append(f"  {label(cell)} chose {choice.describe()}")
    return lines
