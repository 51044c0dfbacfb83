"""`spt reproduce`: a table, a figure or the claims of the paper, with one command."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sweeps.engine.cli import options
from sweeps.engine.cli.console import make_console, print_end, relative
from sweeps.engine.cli.exits import INTERRUPTED, refusing_bad_input
from sweeps.engine.cluster.ray_runtime import connection, ray_runtime

if TYPE_CHECKING:
    from sweeps.engine.driver.request import ResolvedRequest
    from sweeps.engine.driver.run_sweep import Outcome

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
    model: options.Model = None,
    scale: options.Scale = "demo",
    seeds: options.Seeds = None,
    train: options.Train = None,
    test: options.Test = None,
    steps: options.Steps = None,
    settings: options.Settings = None,
    workers: options.Workers = 1,
    cpus_per_worker: options.CpusPerWorker = None,
    gpus_per_worker: options.GpusPerWorker = None,
    concurrency: options.Concurrency = None,
    output: options.Output = options.RUNS,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plans and stop.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Reproduce a table, a figure or the claims of the paper: ours beside the published.

    It plans the trials that are needed from the question files, reuses what has finished, and prints ours beside the
    paper's: values differ by a number only where model, encoder, split, replies and length budget are the paper's.
    """
    console = make_console()
    with refusing_bad_input(verbose=verbose), connection(verbose=verbose):
        from sweeps.engine.cluster.resources import Resources
        from sweeps.engine.driver.recall import recall
        from sweeps.engine.driver.request import Request, parse_settings, resolve
        from sweeps.engine.paper import targets

        names = targets.targets(target)
        resolved = {
            name: resolve(
                Request(
                    sweep=sweep,
                    question=question,
                    scale=scale,
                    model=model,
                    settings=parse_settings(settings, train=train, test=test, steps=steps),
                    seeds=seeds,
                    # As published: Table 6's settings in every cell, so cells are shared and none is tuned by itself.
                    retunes=False,
                    resources=Resources(workers, cpus_per_worker, gpus_per_worker, concurrency),
                    output=output,
                    storage=storage,
                    tracking_uri=tracking_uri,
                )
            )
            for name, (sweep, question) in targets.questions(names).items()
        }
        _print_plans(console, resolved.values())
        if dry_run:
            return
        for one in resolved.values():
            one.refuse_unrunnable()
        waiting = any(len(recall(one.plan, one.layout)) < len(one.plan.distinct) for one in resolved.values())
        # One Ray for all sweeps: each start takes longer than a small trial, and Ray bears few of them in a process.
        with ray_runtime(verbose=verbose) if waiting else nullcontext():
            outcomes = _run(console, resolved, verbose=verbose)
            folder = output.resolve() / FOLDER / f"{_short(model)}-{scale}"
            _answer(console, names, outcomes, folder)
    codes = [print_end(console, outcome) for outcome in outcomes.values()]
    raise typer.Exit(INTERRUPTED if INTERRUPTED in codes else max(codes, default=0))


def _run(console: Console, resolved: "dict[str, ResolvedRequest]", *, verbose: bool) -> "dict[str, Outcome]":
    """Every sweep in turn; Ctrl-C ends with the one that it came in."""
    from sweeps.engine.driver.recall import recall
    from sweeps.engine.driver.run_sweep import execute

    outcomes: dict[str, Outcome] = {}
    for name, one in resolved.items():
        plan = one.plan
        waiting = len(plan.distinct) - len(recall(plan, one.layout))
        if waiting:
            console.print(f"\n{plan.sweep_id}: {waiting} of {len(plan.distinct)} trials", markup=False)
        outcomes[name] = execute(one, resources=one.fitted(waiting), console=console, verbose=verbose)
        if outcomes[name].interrupted:
            break
    return outcomes


def _answer(console: Console, names: Sequence[str], outcomes: "dict[str, Outcome]", folder: Path) -> None:
    """Print and write each target whose sweeps ran."""
    from sweeps.engine.paper import targets as reproducing
    from sweeps.engine.report.terminal import TerminalTable

    found = {name: (one.answer.plan, one.answer.summaries) for name, one in outcomes.items()}
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
        console.print(f"  {name:<8} {relative(path)}", markup=False, soft_wrap=True)
    console.print()
    for outcome in outcomes.values():
        console.print(f"  report   {relative(outcome.report)}", markup=False, soft_wrap=True)


def _print_plans(console: Console, resolved: "Iterable[ResolvedRequest]") -> None:
    from sweeps.engine.driver.recall import recall

    planned: set[str] = set()
    for one in resolved:
        plan, finished = one.plan, set(recall(one.plan, one.layout))
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
