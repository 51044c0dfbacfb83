"""The command line: every sweep file's `main()`, and the `spt` command over them."""

import os
import runpy
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sweeps.engine.cli import options
from sweeps.engine.cli.chat import EPILOG as CHAT_EPILOG
from sweeps.engine.cli.chat import chat
from sweeps.engine.cli.console import relative
from sweeps.engine.cli.doctor import EPILOG as DOCTOR_EPILOG
from sweeps.engine.cli.doctor import doctor
from sweeps.engine.cli.exits import BAD_INPUT, refusing_bad_input
from sweeps.engine.cli.human_eval import app as human_eval
from sweeps.engine.cli.reproduce import EPILOG as REPRODUCE_EPILOG
from sweeps.engine.cli.reproduce import reproduce
from sweeps.engine.cli.status import EPILOG as STATUS_EPILOG
from sweeps.engine.cli.status import status
from sweeps.engine.cli.sweep import command_of
from sweeps.engine.cli.verify import EPILOG as VERIFY_EPILOG
from sweeps.engine.cli.verify import verify
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.store import sweep_record

RESUME_EPILOG = """\b
Examples:
  # the sweep of this id, as it was started
  spt resume k_sweep-demo-9dbb3d32
  # two more device hours of it
  spt resume k_sweep-demo-9dbb3d32 --budget-hours 2
  # the only sweep of this file in another folder
  spt resume sweeps/k_sweep.py --output /data/runs

\b
Exit status: as spt run.
"""
REPORT_EPILOG = """\b
Examples:
  spt report k_sweep-demo-9dbb3d32
  spt report sweeps/k_sweep.py --output /data/runs
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
app.command(epilog=REPRODUCE_EPILOG)(reproduce)


def main(sweep: Sweep) -> None:
    """Run a sweep from its own file, with the options of the command line; the file's docstring is its question."""
    document = sys.modules["__main__"].__doc__ or ""
    file, *arguments = sys.argv
    program = f"python {shlex.quote(file)}"
    command_of(sweep, document, program=program, file=file, arguments=arguments)(prog_name=program)


_SweepFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="Path to a sweep file, for example sweeps/k_sweep.py.")
]
_Known = Annotated[str, typer.Argument(metavar="SWEEP", help="Its id, the start of it, or its file; see spt status.")]
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("run", context_settings=_PASS_ON, epilog="Example: spt run sweeps/k_sweep.py --scale demo")
def run_file(context: typer.Context, file: _SweepFile) -> None:
    """Run a sweep file; all its options can follow, and FILE --help shows them."""
    _run_file(context, file, context.args)


@app.command("plan", context_settings=_PASS_ON, epilog="Example: spt plan sweeps/k_sweep.py --scale full")
def plan_file(context: typer.Context, file: _SweepFile) -> None:
    """Print the trials of a sweep file, and which are finished; run none."""
    _run_file(context, file, [*context.args, "--dry-run"])


@app.command(context_settings=_PASS_ON, epilog=RESUME_EPILOG)
def resume(
    context: typer.Context,
    sweep: _Known,
    output: options.Output = options.RUNS,
) -> None:
    """Go on with a sweep of an output folder.

    Options that follow its id are added to those it was started with, and win over them.
    """
    _start_again(context, sweep, output, context.args)


@app.command(epilog=REPORT_EPILOG)
def report(
    context: typer.Context,
    sweep: _Known,
    output: options.Output = options.RUNS,
    study: Annotated[
        str | None, typer.Option(help="Its Optuna storage, which is asked for again where that has a password.")
    ] = None,
) -> None:
    """Write the report of a sweep again, of what there is.

    Nothing is trained.
    """
    given = [f"--study={study}"] if study else []
    _start_again(context, sweep, output, ["--only-report", "--tracking-uri=", *given])


app.command(epilog=STATUS_EPILOG)(status)


def _start_again(context: typer.Context, sweep: str, output: Path, arguments: list[str]) -> None:
    if sweep == "--help":
        typer.echo(context.get_help())
        return
    with refusing_bad_input():
        output = output.resolve()
        known = sweep_record.find(output, sweep)
        before = [one for one in known.arguments if sweep_record.HIDDEN not in one]
        for option in known.not_kept:
            if not any(one.startswith(option) for one in arguments):
                raise ValueError(f"{option}: its password was not kept; give the address again: {option} URL")
        if Path(known.folder).is_dir():
            os.chdir(known.folder)  # which paths in its options are relative to
    _run_file(context, Path(known.file), [*before, *arguments, f"--output={output}", f"--as-sweep={known.sweep_id}"])


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
        except ImportError as error:
            raise ValueError(
                f"{file}: {error}. Install what it imports; Sweep, the designs and main come from sweeps.engine"
            ) from None
        if not isinstance(module.get("SWEEP"), Sweep):
            raise ValueError(f"{file}: it defines no SWEEP; sweeps/k_sweep.py shows how")
    program = f"spt run {shlex.quote(str(file))}"
    question = module.get("__doc__") or ""
    command = command_of(module["SWEEP"], question, program=program, file=str(file), arguments=arguments)
    command(args=arguments, prog_name=program)


@app.command()
def ui(
    output: options.Output = options.RUNS,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow UI over an output folder, on the loopback address."""
    from sweeps.engine.store.layout import OutputLayout

    layout = OutputLayout(output.resolve())
    store = layout.tracking.removeprefix("sqlite:///")
    if not Path(store).is_file():
        typer.echo(
            f"error: {relative(Path(store))} is not there yet: run a sweep first, for example make sweep", err=True
        )
        raise typer.Exit(BAD_INPUT)
    arguments = ["ui", "--backend-store-uri", layout.tracking, "--default-artifact-root", layout.artifacts]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)])


if __name__ == "__main__":
    app()
