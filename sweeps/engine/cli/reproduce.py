"""`spt reproduce`: a table, a figure or the claims of the paper, with one command."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from spt_core.recipes import RECIPES
from sweeps.engine.cli.exits import FAILED_TRIALS, INTERRUPTED, refusing_bad_input
from sweeps.engine.design.scales import SCALES

if TYPE_CHECKING:
    from sweeps.engine.cluster.resources import Resources
    from sweeps.engine.driver.run_sweep import Outcome
    from sweeps.engine.plan.plan import Plan
    from sweeps.engine.store.layout import Places

FOLDER = "reproduced"
"""Of the answers, in the output folder; below it a folder a model and scale."""
EPILOG = """\b
Examples:
  # Table 2 in minutes on two cores, on the bundled model and dialogues
  spt reproduce table2
  # what would run, and what is there already
  spt reproduce all --dry-run
  # on ConvAI2, six seeds: what can decide a claim
  spt reproduce claims --scale full --seeds 6 --train train.txt --test valid.txt
  # the published table itself, on its model
  spt reproduce table1 --model opt_125m --scale paper --train train.txt --test valid.txt

\b
Exit status:
  0 all trials finished, 1 some failed, 2 the request cannot be run,
  130 interrupted. Run the same command again to go on.
"""


def reproduce(
    *,
    target: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="table1, table2, table3, table4, table5, table7, table8, figure2, figure3, figure4, claims or all.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help=f"A recipe ({', '.join(RECIPES)}), or a Hub id or folder.")] = None,
    scale: Annotated[str, typer.Option(help=f"How large: {', '.join(SCALES)}.")] = "demo",
    seeds: Annotated[int | None, typer.Option(help="Seeds a cell. Six give an exact p of 0.03 a chance.")] = None,
    train: Annotated[str | None, typer.Option(help="Training dialogues. Default: the bundled sample set.")] = None,
    test: Annotated[str | None, typer.Option(help="Test dialogues, likewise.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimisation steps a trial, at most.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a config field; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Ray Train workers a trial; 0 trains in the Tune process.")] = 1,
    concurrency: Annotated[int | None, typer.Option(help="Trials at once. Default: as many as fit.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of ledger, trials, reports and the default MLflow.")] = Path(
        "runs"
    ),
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow. Default: in the output folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plans and stop.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray, Tune and Train say.")] = False,
) -> None:
    """Reproduce a table, a figure or the claims of the paper: ours beside the published.

    It plans the trials that are needed from the question files, reuses what has finished, and prints ours beside the
    paper's: values differ by a number only where model, encoder, split, replies and length budget are the paper's.
    """
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 120, highlight=False)
    with refusing_bad_input(verbose=verbose):
        from sweeps.engine.cluster.ray_runtime import ray_runtime
        from sweeps.engine.cluster.resources import Resources, resolve_device
        from sweeps.engine.driver.request import parse_settings
        from sweeps.engine.paper import targets as reproducing
        from sweeps.engine.store.layout import Places, recall

        values: dict[str, Any] = {
            name: _absolute(given) for name, given in (("data.train", train), ("data.test", test)) if given is not None
        }
        if steps is not None:
            values["optim.max_steps"] = steps
        values |= parse_settings(settings or [])
        if model is not None and model not in RECIPES:
            values["backbone.name"] = _absolute(model)
        names = reproducing.targets(target)
        places = Places(output.resolve())
        device_type, resources = resolve_device(Resources(workers=workers, concurrency=concurrency))
        plans = reproducing.plans(
            names,
            scale=scale,
            device_type=device_type,
            base=RECIPES[model]() if model in RECIPES else None,
            settings=values,
            seeds=seeds,
        )
        _print_plans(console, plans.values(), places)
        if dry_run:
            return
        waiting = any(len(recall(plan, places)) < len(plan.distinct) for plan in plans.values())
        # One Ray for all sweeps: each start takes longer than a small trial, and Ray bears few of them in a process.
        with ray_runtime(verbose=verbose) if waiting else nullcontext():
            outcomes = _run(console, plans, places, resources, tracking_uri, verbose=verbose)
            folder = places.output / FOLDER / f"{_short(model)}-{scale}"
            _answer(console, names, outcomes, folder)
    if any(outcome.interrupted for outcome in outcomes.values()):
        console.print("interrupted: what finished is kept; run the same command again to go on", markup=False)
        raise typer.Exit(INTERRUPTED)
    failed = [one for outcome in outcomes.values() for one in outcome.results.values() if one.state != "finished"]
    for one in failed:
        console.print(f"failed: trial {one.key}: {one.error}", markup=False)
    raise typer.Exit(FAILED_TRIALS if failed else 0)


def _run(
    console: Console,
    plans: "dict[str, Plan]",
    places: "Places",
    resources: "Resources",
    tracking_uri: str | None,
    *,
    verbose: bool,
) -> "dict[str, Outcome]":
    """Every sweep in turn; Ctrl-C ends with the one that it came in."""
    from spt_core import training
    from sweeps.engine.cluster.resources import fit_resources
    from sweeps.engine.driver import run_sweep
    from sweeps.engine.plan import plan as planning
    from sweeps.engine.store.layout import recall
    from sweeps.engine.tracking.uri import check

    uri = tracking_uri or places.tracking
    for plan in plans.values():
        for data in {trial.config.data for trial in plan.trials}:
            planning.check_splits(data)
        for trial in plan.trials:
            training.refuse_workers(trial.config, resources.workers)
    check(uri)
    outcomes: dict[str, Outcome] = {}
    for question, plan in plans.items():
        waiting = len(plan.distinct) - len(recall(plan, places))
        fitted = fit_resources(resources, num_trials=max(1, waiting))
        if waiting:
            console.print(f"\n{plan.sweep_id}: {waiting} of {len(plan.distinct)} trials", markup=False)
        outcomes[question] = run_sweep.execute(
            plan, resources=fitted, places=places, tracking_uri=uri, console=console, verbose=verbose
        )
        if outcomes[question].interrupted:
            break
    return outcomes


def _answer(console: Console, names: Sequence[str], outcomes: "dict[str, Outcome]", folder: Path) -> None:
    """Print and write each target whose sweeps ran."""
    from sweeps.engine.analysis.cells import summarise
    from sweeps.engine.paper import targets as reproducing
    from sweeps.engine.report.terminal import TerminalTable

    found = {name: (one.plan, summarise(one.plan, one.results)) for name, one in outcomes.items()}
    for name in names:
        if not set(reproducing.TARGETS[name].questions) <= found.keys():
            console.print(f"\n{name}: not all of its sweeps ran", markup=False)
            continue
        answer = reproducing.answer(name, found)
        path = answer.write(folder)
        for heading, table in answer.tables.items():
            console.print()
            console.print(TerminalTable(table, title=heading, caption=""))
        for note in answer.notes:
            console.print(note, markup=False)
        console.print(f"  {name:<8} {_relative(path)}", markup=False, soft_wrap=True)
    console.print()
    for outcome in outcomes.values():
        console.print(f"  report   {_relative(outcome.report)}", markup=False, soft_wrap=True)


def _print_plans(console: Console, plans: Any, places: "Places") -> None:
    from sweeps.engine.store.layout import recall

    planned: set[str] = set()
    for plan in plans:
        finished = set(recall(plan, places))
        to_run = set(plan.distinct) - finished - planned
        seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
        console.print(
            f"{plan.sweep_id}: {len(plan.cells)} cells x {seeds}; {len(finished)} finished before, "
            f"{len(to_run)} to run{', the rest by a sweep above' if set(plan.distinct) & planned - finished else ''}",
            markup=False,
        )
        planned |= set(plan.distinct)


def _short(model: str | None) -> str:
    """A model as the name of a folder."""
    name = (model or "smollm2_135m").rstrip("/").rsplit("/", 1)[-1]
    return "".join(character if character.isalnum() or character in "._-" else "_" for character in name)


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


def _relative(path: Path) -> str:
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(shown))
