"""The command line: every sweep file's `main()`, and the `spt` command over them."""

import json
import logging
import os
import runpy
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from spt_core.recipes import RECIPES
from sweeps.engine.chat_cli import EPILOG as CHAT_EPILOG
from sweeps.engine.chat_cli import chat
from sweeps.engine.design import Sweep, label
from sweeps.engine.doctor_cli import EPILOG as DOCTOR_EPILOG
from sweeps.engine.doctor_cli import doctor
from sweeps.engine.exploration import Search
from sweeps.engine.human_eval_cli import app as human_eval
from sweeps.engine.refusal import BAD_INPUT, FAILED_TRIALS, INTERRUPTED, refusing_bad_input
from sweeps.engine.scales import SCALES
from sweeps.engine.verify_cli import EPILOG as VERIFY_EPILOG
from sweeps.engine.verify_cli import verify

_SCALES = "; ".join(f"{name} ({scale.about})" for name, scale in SCALES.items())
_SWEEP_EPILOG = """\b
Examples:
  # the demo: minutes on two cores
  {program}
  # what would run, and what is there already
  {program} --dry-run
  # the sweep as its file states it
  {program} --scale full
  # with other settings
  {program} --steps 100 --set optim.learning_rate=0.03
  # on your own dialogues: ParlAI text, .jsonl, hf://OWNER/NAME
  {program} --train train.txt --test valid.txt

\b
Exit status:
  0 all trials finished, 1 some failed, 2 the request cannot be run,
  130 interrupted. Run the same command again to go on: finished trials are
  reused, and one that was running goes on from its last checkpoint.
"""

app = typer.Typer(
    help="Ablation sweeps of Selective Prompt Tuning: plan, run, look.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(human_eval, name="human-eval")
app.command(epilog=CHAT_EPILOG)(chat)
app.command(epilog=VERIFY_EPILOG)(verify)
app.command(epilog=DOCTOR_EPILOG)(doctor)


def main(sweep: Sweep) -> None:
    """Run a sweep from its own file, with the options of the command line; the file's docstring is its question."""
    document = sys.modules["__main__"].__doc__ or ""
    program = f"python {shlex.quote(sys.argv[0])}"
    _command(sweep, document, program=program)(prog_name=program)


def _command(sweep: Sweep, question: str, *, program: str) -> typer.Typer:
    """The command of one sweep."""
    question = question.strip()
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @single.command(help=question or sweep.name, epilog=_SWEEP_EPILOG.format(program=program))
    def run(
        *,
        scale: Annotated[str, typer.Option(help=f"How large: {_SCALES}.")] = "demo",
        settings: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="FIELD=VALUE", help="Override a config field; may be repeated."),
        ] = None,
        train: Annotated[str | None, typer.Option(help="Training dialogues: a file, hf://..., sample:train.")] = None,
        test: Annotated[str | None, typer.Option(help="Test dialogues, likewise.")] = None,
        model: Annotated[
            str | None,
            typer.Option(
                help=f"A recipe ({', '.join(RECIPES)}), which brings its settings, or a Hub id or folder, which "
                "replaces the backbone alone."
            ),
        ] = None,
        seeds: Annotated[int | None, typer.Option(help="Seeds a cell, paired across cells.")] = None,
        objectives: Annotated[
            list[str] | None,
            typer.Option("--objective", help="What a search is for, a dev metric such as dev/f1; may be repeated."),
        ] = None,
        trials: Annotated[int | None, typer.Option(help="Distinct trials of a search.")] = None,
        steps: Annotated[int | None, typer.Option(help="Optimisation steps a trial, at most.")] = None,
        workers: Annotated[int, typer.Option(help="Ray Train workers a trial; 0 trains in the Tune process.")] = 1,
        cpus_per_worker: Annotated[int | None, typer.Option(help="CPUs and threads of each worker.")] = None,
        gpus_per_worker: Annotated[
            float | None, typer.Option(help="GPUs of each worker, may be a fraction. Default: 1 where there are any.")
        ] = None,
        concurrency: Annotated[int | None, typer.Option(help="Trials at once. Default: as many as fit.")] = None,
        spread: Annotated[
            bool, typer.Option("--spread/--pack", help="A trial's workers on many nodes, or on as few as hold them.")
        ] = False,
        output: Annotated[Path, typer.Option(help="Folder of ledger, trials, reports and the default MLflow.")] = Path(
            "runs"
        ),
        storage: Annotated[
            str | None,
            typer.Option(
                envvar="SPT_STORAGE",
                help="On a cluster: what all nodes share, for checkpoints and trials' files: s3://BUCKET/FOLDER, or a "
                "folder. Default: the output folder.",
            ),
        ] = None,
        tracking_uri: Annotated[
            str | None,
            typer.Option(
                envvar="MLFLOW_TRACKING_URI",
                help="MLflow: http://host:port or sqlite:///file. Default: in the output folder.",
            ),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print the plan as JSON.")] = False,
        rerun: Annotated[bool, typer.Option("--rerun", help="Run finished trials again.")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray, Tune and Train say.")] = False,
    ) -> None:
        from sweeps.engine.runner import connection

        values: dict[str, Any] = {}
        for name, given in (("data.train", train), ("data.test", test)):
            if given is not None:
                values[name] = given
        if steps is not None:
            values["optim.max_steps"] = steps
        with refusing_bad_input(verbose=verbose), connection(verbose=verbose):
            if as_json and not dry_run:
                raise ValueError("--json prints a plan: use it with --dry-run, or with spt plan")
            values |= _parse_settings(settings or [])
            code = _run(
                sweep,
                question,
                scale=scale,
                model=model,
                settings=values,
                seeds=seeds,
                search={"objectives": tuple(objectives) if objectives else None, "num_trials": trials},
                resources={
                    "workers": workers,
                    "cpus_per_worker": cpus_per_worker,
                    "gpus_per_worker": gpus_per_worker,
                    "concurrency": concurrency,
                    "spread": spread,
                },
                output=output,
                storage=storage,
                tracking_uri=tracking_uri,
                dry_run=dry_run,
                as_json=as_json,
                rerun=rerun,
                verbose=verbose,
            )
        raise typer.Exit(code)

    return single


def _run(
    sweep: Sweep,
    question: str,
    *,
    scale: str,
    model: str | None,
    settings: dict[str, Any],
    seeds: int | None,
    search: dict[str, Any],
    resources: dict[str, Any],
    output: Path,
    storage: str | None,
    tracking_uri: str | None,
    dry_run: bool,
    as_json: bool,
    rerun: bool,
    verbose: bool,
) -> int:
    """Plan, run and answer; the exit status."""
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 120)
    _show_log(console)
    from spt_core import training
    from sweeps.engine import plan as planning
    from sweeps.engine import runner
    from sweeps.engine import storage as storing

    sweep = _asked(sweep, question, model, {name: value for name, value in search.items() if value is not None})
    if model is not None and model not in RECIPES:
        settings = {"backbone.name": _absolute(model), **settings}
    settings = {name: _absolute(v) if name in _SOURCES else v for name, v in settings.items()}
    asked = runner.Resources(**resources)
    # Trials in the Tune process write where the driver does.
    places = runner.Places(output.resolve(), storing.place(storage) if storage and asked.workers else None)
    device_type, asked = runner.resolve_device(asked)
    settings = runner.resolve_half_precision(settings, sweep, device_type)
    plan = planning.expand(sweep, scale=scale, device_type=device_type, settings=settings, seeds=seeds)
    for data in {trial.config.data for trial in plan.trials}:
        planning.check_splits(data)
    for trial in plan.trials:
        training.refuse_workers(trial.config, asked.workers)
    uri = tracking_uri or places.tracking
    if rerun and not dry_run:
        runner.forget(plan, places)
    found = {} if rerun else runner.recall(plan, places)
    _print_plan(console, plan, found=set(found), everything=dry_run, as_json=as_json)
    if dry_run:
        return 0
    from sweeps.engine import report, tracking

    runner.refuse_unshared(plan, places, asked)
    tracking.check(uri)
    waiting = len(plan.distinct) - len(found)
    if plan.exploration is not None:
        waiting += plan.exploration.design.num_trials
    fitted = runner.fit_resources(asked, num_trials=max(1, waiting))
    outcome = runner.execute(plan, resources=fitted, places=places, tracking_uri=uri, console=console, verbose=verbose)
    plan = outcome.plan
    console.print()
    console.print(report.terminal_table(plan, outcome.results))
    console.print(report.verdict(plan, outcome.results), highlight=False, markup=False)
    console.print()
    ui = "make ui" if output == Path("runs") and tracking_uri is None else f"spt ui --output {shlex.quote(str(output))}"
    where = ui if tracking_uri is None else tracking.redact(uri)
    for name, value in (("report", _relative(outcome.report)), ("mlflow", where)):
        console.print(f"{name:>8}  {value}", highlight=False, markup=False, soft_wrap=True)
    for missing in outcome.undelivered:
        console.print(f"MLflow has not got: {missing}; running this again delivers it", markup=False)
    if outcome.gave_up:
        console.print(f"the search ended early: {outcome.gave_up}", markup=False)
    if outcome.interrupted:
        console.print("interrupted: what finished is kept; run the same command again to go on", markup=False)
        return INTERRUPTED
    failed = [trial for trial in plan.distinct.values() if outcome.results[trial.key].state != "finished"]
    for trial in failed:
        console.print(f"failed: {trial.label}: {outcome.results[trial.key].error}", markup=False)
    return FAILED_TRIALS if failed else 0


def _show_log(console: Console) -> None:
    """What the core says it is doing (a conversion that takes a while) goes where everything else does."""
    handler = logging.Handler()
    handler.emit = lambda record: console.print(record.getMessage(), highlight=False, markup=False)  # type: ignore[method-assign]
    core = logging.getLogger("spt_core")
    core.handlers, core.propagate = [handler], False
    core.setLevel(logging.INFO)


_SOURCES = frozenset({"data.train", "data.test", "backbone.name"})


def _asked(sweep: Sweep, question: str, model: str | None, search: dict[str, Any]) -> Sweep:
    """The sweep with its question, on the recipe that `--model` names, searching as it was told to."""
    from dataclasses import replace

    if search:
        if not isinstance(sweep.design, Search):
            raise ValueError(f"--objective and --trials are for a search, and {sweep.name} states its cells: drop them")
        designs = {"design": sweep.design, "demo": sweep.demo}
        changed: dict[str, Any] = {n: replace(d, **search) for n, d in designs.items() if isinstance(d, Search)}
        sweep = replace(sweep, **changed)
    base = RECIPES[model]() if model in RECIPES else sweep.base
    return replace(sweep, question=question, base=base, paper=base if model in RECIPES else sweep.paper)


def _absolute(source: str) -> str:
    """A path that is there as an absolute one, since workers run elsewhere; anything else as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _parse_settings(settings: list[str]) -> dict[str, Any]:
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


def _plan_document(plan: Any, *, found: set[str]) -> dict[str, Any]:
    """The plan for programs: `state` of a trial is `reused`, `to run`, or `same as` an earlier cell."""
    states = {trial.key: "reused" if trial.key in found else "to run" for trial in plan.trials}
    document: dict[str, Any] = {
        "sweep_id": plan.sweep_id,
        "scale": plan.scale,
        "seeds": list(plan.seeds),
        "smallest_p": plan.smallest_p,
        "trials": [
            {
                "key": trial.key,
                "cell": label(trial.cell),
                "levels": dict(trial.cell),
                "seed": trial.seed,
                "state": states[trial.key] if plan.distinct[trial.key] is trial else "same as",
            }
            for trial in plan.trials
        ],
    }
    if plan.exploration is not None:
        design = plan.exploration.design
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


def _print_plan(console: Console, plan: Any, *, found: set[str], everything: bool, as_json: bool) -> None:
    """What will run, before it does."""
    if as_json:
        typer.echo(json.dumps(_plan_document(plan, found=found), indent=1))
        return
    if plan.exploration is not None:
        design = plan.exploration.design
        console.print(
            f"{plan.sweep_id}: a search of {design.num_trials} trials in {len(design.space)} dimensions for "
            f"{' and '.join(design.objectives)}, then the best {design.confirm} beside the base on test",
            highlight=False,
            markup=False,
        )
        if everything:
            for path, distribution in design.space.items():
                given = f"  if {' and '.join(design.only_if[path])}" if path in design.only_if else ""
                console.print(f"  {path:<32} {distribution}{given}", highlight=False, markup=False)
    to_run = len(plan.distinct) - len(found)
    seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}"
    same = len(plan.trials) - len(plan.distinct)
    console.print(
        f"{plan.sweep_id}: {len(plan.cells)} cells x {seeds} = {len(plan.trials)} trials"
        f"{f', {same} of them the same as another' if same else ''}; {len(found)} finished before, {to_run} to run",
        highlight=False,
        markup=False,
    )
    if everything:
        for trial in plan.trials:
            twin = plan.distinct[trial.key]
            state = "reused" if trial.key in found else "to run" if twin is trial else f"is {label(twin.cell)}"
            console.print(f"  {trial.key}  {trial.label:<40} {state}", highlight=False, markup=False)
        console.print(
            f"  With {seeds} an exact sign-flip test can give no p below {plan.smallest_p:.3g}, before Holm.",
            highlight=False,
            markup=False,
        )


_SweepFile = Annotated[Path, typer.Argument(metavar="FILE", help="Of this project's, one in sweeps/.")]
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("run", context_settings=_PASS_ON, epilog="Example: spt run sweeps/k_sweep.py --scale demo")
def run_file(context: typer.Context, file: _SweepFile) -> None:
    """Run a sweep file; all its options can follow, and FILE --help shows them."""
    _run_file(context, file, context.args)


@app.command("plan", context_settings=_PASS_ON, epilog="Example: spt plan sweeps/k_sweep.py --scale full")
def plan_file(context: typer.Context, file: _SweepFile) -> None:
    """Print the trials of a sweep file, and which are finished; run none."""
    _run_file(context, file, [*context.args, "--dry-run"])


def _run_file(context: typer.Context, file: Path, arguments: list[str]) -> None:
    if str(file) == "--help":  # behind a file it is the file's
        typer.echo(context.get_help())
        return
    with refusing_bad_input():
        if not file.is_file():
            raise ValueError(f"{file}: no such sweep file; those of this project are in sweeps/")
        try:
            module = runpy.run_path(str(file))
        except SyntaxError as error:
            raise ValueError(f"{file}, line {error.lineno}: this is not Python ({error.msg})") from None
        if not isinstance(module.get("SWEEP"), Sweep):
            raise ValueError(f"{file}: it defines no SWEEP; sweeps/k_sweep.py shows how")
    program = f"spt run {shlex.quote(str(file))}"
    _command(module["SWEEP"], module.get("__doc__") or "", program=program)(args=arguments, prog_name=program)


@app.command()
def ui(
    output: Annotated[Path, typer.Option(help="Output folder of the sweeps.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI over an output folder, on the loopback address."""
    from sweeps.engine.runner import Places

    places = Places(output.resolve())
    store = places.tracking.removeprefix("sqlite:///")
    if not Path(store).is_file():
        typer.echo(
            f"error: {_relative(Path(store))} is not there yet: run a sweep first, for example make sweep", err=True
        )
        raise typer.Exit(BAD_INPUT)
    arguments = ["ui", "--backend-store-uri", places.tracking, "--default-artifact-root", places.artifacts]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)])


if __name__ == "__main__":
    app()
