"""The command of one sweep: its options, and what is done with them."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sweeps.engine.cli import options
from sweeps.engine.cli.console import make_console, print_answer, print_end, print_place, show_log
from sweeps.engine.cli.exits import refusing_bad_input
from sweeps.engine.design.sweep import Sweep

if TYPE_CHECKING:
    from sweeps.engine.cluster.resources import Resources
    from sweeps.engine.driver.request import Request, ResolvedRequest
    from sweeps.engine.plan.plan import Plan

_SWEEP_EPILOG = """\b
Examples:
  # the demo: minutes on two cores
  {program}
  # what would run, and what is there already
  {program} --dry-run
  # the sweep as its file states it
  {program} --scale full
  # how long it would take: a few steps of each shape, timed here
  {program} --scale full --dry-run --calibrate --price-per-hour 2.5
  # with other settings
  {program} --steps 100 --set data.max_tokens=256
  # on your own dialogues: ParlAI text, .jsonl, hf://OWNER/NAME
  {program} --train train.txt --test valid.txt

\b
Exit status:
  0 all trials finished, 1 some failed, 2 the request cannot be run,
  3 the budget of --budget-hours is spent and trials are left, 130 interrupted.
  Run the same command again to go on, or spt resume with the sweep's id:
  finished trials are reused, and one that was running goes on from its last
  checkpoint.
"""


@dataclass(frozen=True)
class _Manner:
    """What is done with a request, beside what it asks: the options of these names.

    Attributes:
        file: of the sweep, for its record.
        arguments: of its command, likewise.
        only_report: write the report of what there is, and run nothing.
        as_sweep: id that the plan must have; None for any.
    """

    file: str
    arguments: Sequence[str]
    budget_hours: float | None
    calibrate: bool
    price_per_hour: float | None
    dry_run: bool
    as_json: bool
    rerun: bool
    only_report: bool
    as_sweep: str | None
    verbose: bool


def command_of(sweep: Sweep, question: str, *, program: str, file: str, arguments: Sequence[str]) -> typer.Typer:
    """The command of one sweep.

    Args:
        sweep: as its file states it.
        question: its file's docstring.
        program: how it is called, for its help.
        file: of the sweep, for the record of a run.
        arguments: that it is going to be called with, likewise.
    """
    question = question.strip()
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @single.command(help=question or sweep.name, epilog=_SWEEP_EPILOG.format(program=program))
    def run(
        *,
        scale: options.Scale = "demo",
        settings: options.Settings = None,
        train: options.Train = None,
        test: options.Test = None,
        model: options.Model = None,
        seeds: options.Seeds = None,
        objectives: Annotated[
            list[str] | None,
            typer.Option("--objective", help="What a search is for, a dev metric such as dev/f1; may be repeated."),
        ] = None,
        trials: Annotated[int | None, typer.Option(help="Distinct trials of a search.")] = None,
        steps: options.Steps = None,
        workers: options.Workers = 1,
        cpus_per_worker: options.CpusPerWorker = None,
        gpus_per_worker: options.GpusPerWorker = None,
        concurrency: options.Concurrency = None,
        spread: Annotated[
            bool, typer.Option("--spread/--pack", help="A trial's workers on many nodes, or on as few as hold them.")
        ] = False,
        output: options.Output = options.RUNS,
        storage: options.Storage = None,
        tracking_uri: options.TrackingUri = None,
        study: Annotated[
            str | None,
            typer.Option(help="Optuna storage: a database's URL, or journal:FILE. Default: in the output folder."),
        ] = None,
        no_retune: Annotated[
            bool, typer.Option("--no-retune", help="Leave nuisance factors at the base's values.")
        ] = False,
        budget_hours: Annotated[
            float | None,
            typer.Option(help="Device hours of this run, after which no further trial is started (exit status 3)."),
        ] = None,
        calibrate: Annotated[
            bool, typer.Option("--calibrate", help="First time a few steps of each shape here, for the estimate.")
        ] = False,
        price_per_hour: Annotated[float | None, typer.Option(help="Of a device, for the estimate.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print the plan as JSON.")] = False,
        rerun: Annotated[bool, typer.Option("--rerun", help="Run finished trials again.")] = False,
        only_report: Annotated[bool, typer.Option("--only-report", hidden=True)] = False,
        as_sweep: Annotated[str | None, typer.Option("--as-sweep", hidden=True)] = None,
        verbose: options.Verbose = False,
    ) -> None:
        from sweeps.engine.cluster.ray_runtime import connection

        with refusing_bad_input(verbose=verbose), connection(verbose=verbose):
            from sweeps.engine.cluster.resources import Resources
            from sweeps.engine.driver.request import Request, parse_settings

            search = {"objectives": tuple(objectives or ()), "num_trials": trials}
            request = Request(
                sweep=sweep,
                question=question,
                scale=scale,
                model=model,
                settings=parse_settings(settings, train=train, test=test, steps=steps),
                seeds=seeds,
                search={name: value for name, value in search.items() if value},
                retunes=not no_retune and sweep.retune is not None,
                resources=Resources(workers, cpus_per_worker, gpus_per_worker, concurrency, spread),
                output=output,
                study=study,
                storage=storage,
                tracking_uri=tracking_uri,
            )
            if no_retune and sweep.retune is None:
                raise ValueError(f"--no-retune: {sweep.name} has no nuisance factors; drop it")
            code = _carry_out(
                request,
                _Manner(
                    file=file,
                    arguments=arguments,
                    budget_hours=budget_hours,
                    calibrate=calibrate,
                    price_per_hour=price_per_hour,
                    dry_run=dry_run,
                    as_json=as_json,
                    rerun=rerun,
                    only_report=only_report,
                    as_sweep=as_sweep,
                    verbose=verbose,
                ),
            )
        raise typer.Exit(code)

    return single


def _carry_out(request: "Request", manner: _Manner) -> int:
    """Plan, run and answer; the exit status."""
    from sweeps.engine.cli import plan_view
    from sweeps.engine.driver.recall import FoundSoFar, advance, forget, recall
    from sweeps.engine.driver.request import resolve
    from sweeps.engine.plan import estimate as estimating
    from sweeps.engine.search.budget import Budget

    if manner.as_json and not manner.dry_run:
        raise ValueError("--json prints a plan: use it with --dry-run, or with spt plan")
    if manner.price_per_hour is not None and not manner.price_per_hour > 0:
        raise ValueError(f"--price-per-hour {manner.price_per_hour:g}: it should be above 0")
    Budget(manner.budget_hours)
    console = make_console()
    show_log(console)
    resolved = resolve(request)
    plan, layout = resolved.plan, resolved.layout
    if manner.as_sweep not in {None, plan.sweep_id}:
        raise ValueError(
            f"{manner.as_sweep}: its file, its data or this code have changed since: it would now be {plan.sweep_id}. "
            "Run the file itself to start that one"
        )
    if manner.only_report:
        from sweeps.engine.driver.run_sweep import write_report

        print_answer(console, *write_report(plan, layout))
        return 0
    if not manner.dry_run:
        resolved.refuse_unrunnable()
        if manner.rerun:
            forget(plan, layout)
    known = plan if manner.rerun or plan.search is not None else advance(plan, FoundSoFar(layout))
    found = set() if manner.rerun else {*recall(plan, layout), *recall(known, layout)}
    waiting = sum(key not in found for key in {**known.known, **known.distinct})
    if plan.search is not None:
        waiting += plan.search.design.num_trials
    fitted = resolved.fitted(waiting)
    if manner.calibrate:
        aside = make_console(stderr=True) if manner.as_json else console
        estimating.calibrate(
            known, found, output=layout.output, resources=fitted, say=lambda what: aside.print(what, markup=False)
        )
    estimate = estimating.estimate(
        known, found, output=layout.output, resources=fitted, price_per_hour=manner.price_per_hour
    )
    if manner.as_json:
        plan_view.print_plan_json(console, plan_view.plan_document(known, found=found, estimate=estimate))
    else:
        wanted = manner.dry_run or manner.calibrate
        plan_view.print_plan(console, known, found=found, estimate=estimate, output=request.output, everything=wanted)
    return 0 if manner.dry_run else _run(console, request, manner, resolved, fitted)


def _run(
    console: Console, request: "Request", manner: _Manner, resolved: "ResolvedRequest", resources: "Resources"
) -> int:
    from sweeps.engine.driver.recall import record_of
    from sweeps.engine.driver.run_sweep import execute
    from sweeps.engine.store import sweep_record
    from sweeps.engine.store.redact import redact

    layout, started = resolved.layout, time.time()

    def keep(plan: "Plan") -> None:
        record = record_of(
            plan,
            file=manner.file,
            arguments=manner.arguments,
            concurrency=resources.concurrency or 1,
            study=layout.studies,
            started=started,
        )
        sweep_record.write(record, layout.report(plan.sweep_id))

    keep(resolved.plan)
    outcome = execute(
        resolved,
        resources=resources,
        console=console,
        budget_hours=manner.budget_hours,
        verbose=manner.verbose,
        replanned=keep,
    )
    print_answer(console, outcome.answer, outcome.report)
    at_home = request.output == Path("runs") and Path.cwd() == Path(__file__).parents[3]
    ui = "make ui" if at_home else f"spt ui --output {shlex.quote(str(request.output))}"
    print_place(console, "mlflow", ui if resolved.tracking_uri == layout.tracking else redact(resolved.tracking_uri))
    return print_end(console, outcome, budget_hours=manner.budget_hours)
