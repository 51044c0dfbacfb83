"""`spt verify`: run one logged trial again, from its MLflow run id alone, and say whether it reproduced."""

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sweeps.engine.cli import options
from sweeps.engine.cli.console import make_console
from sweeps.engine.cli.exits import refusing_bad_input

if TYPE_CHECKING:
    from sweeps.engine.tracking.logged_trial import LoggedTrial
    from sweeps.engine.verify.compare import ComparedMetric, Verdict
    from sweeps.engine.verify.rerun import Prepared

NOT_REPRODUCED = 1
EPILOG = """\b
Examples:
  # a trial of the sweeps in runs/; its run id is in the MLflow UI (spt ui)
  spt verify 4b1f0e6c0f7f4b0f8f1d2f2f8c9f6a11
  # of a tracking server
  spt verify 4b1f0e6c0f7f4b0f8f1d2f2f8c9f6a11 --tracking-uri http://host:5000
  # its data has moved since: the content is what counts
  spt verify 4b1f0e6c0f7f4b0f8f1d2f2f8c9f6a11 --train train.txt --test valid.txt

\b
Exit status:
  0 reproduced, 1 not reproduced, 2 refused: data, model or arithmetic are not
  those of the run, or there is no such finished run.
"""


def verify(
    *,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="MLflow run id of a finished trial.")],
    tracking_uri: options.TrackingUri = None,
    output: options.Output = options.RUNS,
    train: Annotated[str | None, typer.Option(help="Where its training dialogues are now.")] = None,
    test: Annotated[str | None, typer.Option(help="Where its test dialogues are now.")] = None,
    model: Annotated[str | None, typer.Option(help="Where its backbone is now.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the verdict as JSON; progress goes to stderr.")
    ] = False,
) -> None:
    """Run one logged trial again and say whether it reproduced.

    Its data, its model and its arithmetic must be those of the run. On the same processor, build of torch and number
    of threads every metric but timings must be equal; elsewhere the main ones must be within a tolerance, which comes
    from the seeds of the same cell.
    """
    console = make_console(stderr=as_json)
    with refusing_bad_input():
        from sweeps.engine.tracking import logged_trial
        from sweeps.engine.verify.compare import compare
        from sweeps.engine.verify.rerun import prepare

        trial = logged_trial.read(_store(tracking_uri, output), run_id)
        console.print(f"{trial.name}, trial {trial.environment['key']}", markup=False)
        prepared = prepare(trial, train=train, test=test, model=model)
        _print_terms(console, prepared)
        try:
            now = _run(console, trial, prepared)
        except RuntimeError as error:
            console.print(f"NOT REPRODUCED: the trial finished then and failed now: {error}", markup=False)
            raise typer.Exit(NOT_REPRODUCED) from None
        verdict = compare(trial, now, exact=not prepared.obstacles)
    if as_json:
        typer.echo(json.dumps(_as_json(trial, prepared, verdict), indent=1, allow_nan=False))
    else:
        _print_verdict(console, verdict)
    raise typer.Exit(0 if verdict.reproduced else NOT_REPRODUCED)


def _store(tracking_uri: str | None, output: Path) -> str:
    from sweeps.engine.store.layout import OutputLayout

    layout = OutputLayout(output.resolve())
    if tracking_uri is None and not Path(layout.tracking.removeprefix("sqlite:///")).is_file():
        raise ValueError(
            f"--output {output}: there is no MLflow store in it; name the folder that the sweep was given, or the "
            "store: --tracking-uri"
        )
    return tracking_uri or layout.tracking


def _run(console: Console, trial: "LoggedTrial", prepared: "Prepared") -> dict[str, float]:
    """The trial in this process, shown as a sweep shows it."""
    from sweeps.engine.driver.progress import ProgressView
    from sweeps.engine.plan.trial import Trial
    from sweeps.engine.verify.rerun import run_again
    from sweeps.engine.worker.job import Message, MetricRow, Scoring

    key = trial.environment["key"]
    shown = Trial(key, trial.environment.get("cell", {}), prepared.config, trial.identity)
    with tempfile.TemporaryDirectory(prefix="spt-verify-") as folder, ProgressView(console, trials=[shown]) as view:
        view.start(key)

        def say(message: Message) -> None:
            if isinstance(message, MetricRow):
                view.train(key, message)
            elif isinstance(message, Scoring):
                view.test(key, message.share)

        try:
            metrics = run_again(trial, prepared, folder=Path(folder), say=say)
        except RuntimeError:
            view.end(key, "failed")
            raise
        view.end(key, "finished")
    return metrics


def _print_terms(console: Console, prepared: "Prepared") -> None:
    """What the comparison will be, before it takes its time."""
    console.print("data, model and arithmetic: as logged")
    for note in prepared.notes:
        console.print(f"note: {note}", markup=False)
    threads = f"{prepared.threads} thread{'s' if prepared.threads > 1 else ''}"
    if prepared.obstacles:
        console.print(f"to a tolerance, on {threads}: {'; '.join(prepared.obstacles)}", markup=False)
    else:
        console.print(f"to the bit, on {threads}: processor, torch and versions are those of the run", markup=False)


def _print_verdict(console: Console, verdict: "Verdict") -> None:
    rows = [row for row in verdict.rows if not row.is_equal or _is_main(row, verdict)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("metric")
    for title in ("logged", "now", "difference", *(() if verdict.exact else ("tolerance",))):
        table.add_column(title, justify="right")
    for row in rows:
        cells = [_number(row.logged), _number(row.now), "equal" if row.is_equal else _number(row.difference, sign="+")]
        if not verdict.exact:
            cells.append("" if row.tolerance is None else _number(row.tolerance))
        table.add_row(row.name, *cells, style="red" if row.is_off else "")
    console.print()
    console.print(table)
    if len(rows) < len(verdict.rows):
        console.print(f"and {len(verdict.rows) - len(rows)} more, all equal")
    for name, in_file, shown in verdict.contradictions:
        console.print(f"{name}: the run's metrics.json says {in_file!r}, MLflow shows {shown!r}", markup=False)
    if verdict.tolerance:
        console.print(f"tolerance: {verdict.tolerance}", markup=False)
    console.print()
    console.print(_sentence(verdict), markup=False)


def _is_main(row: "ComparedMetric", verdict: "Verdict") -> bool:
    if not verdict.exact:
        return row.tolerance is not None
    from sweeps.engine.verify.compare import is_main

    return is_main(row.name)


def _sentence(verdict: "Verdict") -> str:
    timeless = f"{len(verdict.rows)} metrics, all but timings"
    off = [row.name for row in verdict.rows if row.is_off]
    if verdict.contradictions:
        names = ", ".join(name for name, *_ in verdict.contradictions)
        return f"NOT REPRODUCED: MLflow shows {names} otherwise than the trial found: changed after it was logged"
    if off:
        how = "differ, and had to be equal" if verdict.exact else "differ by more than the tolerance"
        return f"NOT REPRODUCED: {len(off)} of {timeless}, {how}: {', '.join(off[:5])}{', ...' if off[5:] else ''}"
    if verdict.is_equal:
        return f"REPRODUCED exactly: {timeless}, are equal"
    return "REPRODUCED within the tolerance"


def _number(value: float | None, *, sign: str = "") -> str:
    if value is None:
        return "missing"
    return "undefined" if math.isnan(value) else f"{value:{sign}.6g}"


def _as_json(trial: "LoggedTrial", prepared: "Prepared", verdict: "Verdict") -> dict[str, Any]:
    """The verdict for programs; null is an undefined or missing value."""
    return {
        "run_id": trial.run_id,
        "key": trial.environment["key"],
        "reproduced": verdict.reproduced,
        "equal": verdict.is_equal,
        "had_to_be_equal": verdict.exact,
        "why_not": list(prepared.obstacles),
        "tolerance": verdict.tolerance,
        "notes": list(prepared.notes),
        "threads": prepared.threads,
        "metrics": {
            row.name: {
                **{name: _finite(getattr(row, name)) for name in ("logged", "now", "difference", "tolerance")},
                "off": row.is_off,
            }
            for row in verdict.rows
        },
        "changed_in_mlflow": [name for name, *_ in verdict.contradictions],
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None
