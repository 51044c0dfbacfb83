"""`spt status`: how the sweeps of an output folder stand."""

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.engine.cli import options
from sweeps.engine.cli.exits import refusing_bad_input

if TYPE_CHECKING:
    from sweeps.engine.driver.status import SweepStatus, TrialStatus

EPILOG = """\b
Examples:
  # every sweep in runs/, the one started last first
  spt status
  # one of them, by its id or the start of it, for programs
  spt status k_sweep-demo --json
"""
_ORDER = ("finished", "running", "left", "failed", "pruned", "interrupted", "not run")
_WORDS = {"left": "left by a driver that died", "pruned": "stopped early", "not run": "to run"}


def status(
    sweep: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help="Its id, the start of it, or its file; all when left out.")
    ] = None,
    output: options.Output = options.RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how the sweeps of an output folder stand.

    What finished, what runs and gave its last beat when, what failed and why, what is left, and when it may end.
    """
    with refusing_bad_input():
        from sweeps.engine.driver.status import statuses

        found = statuses(output, only=sweep)
    if as_json:
        typer.echo(json.dumps([one.document() for one in found], indent=1, allow_nan=False))
        return
    elsewhere = "" if output == Path("runs") else f" --output {shlex.quote(str(output))}"
    for one in found:
        lines = _lines(one)
        if one.is_left:
            lines.append(f"  to go on: spt resume {one.sweep_id}{elsewhere}")
        typer.echo("\n".join(lines))


def _lines(one: "SweepStatus") -> list[str]:
    counts = [f"{one.counts[state]} {_WORDS.get(state, state)}" for state in _ORDER if one.counts.get(state)]
    lines = [f"{one.sweep_id}: {one.total} trials: {', '.join(counts)}{_eta(one)}"]
    lines.append(f"  started {time.strftime('%Y-%m-%d %H:%M', time.localtime(one.started))}{_pace(one)}")
    lines += [f"  {_line(trial)}" for trial in one.trials]
    if one.note:
        lines.append(f"  {one.note}")
    return lines


def _eta(one: "SweepStatus") -> str:
    if not one.eta_seconds:
        return ""
    if one.counts.get("running"):
        return f"; ETA {_duration(one.eta_seconds)}"
    return f"; nobody runs it, it would take {_duration(one.eta_seconds)}"


def _pace(one: "SweepStatus") -> str:
    return "" if one.mean_seconds is None else f"; a trial takes {_duration(one.mean_seconds)} on average"


def _line(trial: "TrialStatus") -> str:
    if trial.state == "failed":
        return f"failed   {trial.label}: {trial.error}"
    share = "" if trial.share is None else f"  {trial.share:.0%} trained"
    return f"{trial.state:<8} {trial.label}{share}  last beat {_duration(trial.last_beat)} ago"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
