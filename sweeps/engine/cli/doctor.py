"""`spt doctor`: what is wrong with this machine or cluster, before it costs an hour."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sweeps.engine.cli import options
from sweeps.engine.cli.exits import FAILED_TRIALS, refusing_bad_input

if TYPE_CHECKING:
    from sweeps.engine.doctor.finding import Finding

EPILOG = """\b
Examples:
  # this machine; or, on a cluster's head, all of its nodes
  spt doctor
  # with what a sweep will use
  spt doctor --model facebook/opt-1.3b --train train.txt --test valid.txt --trials 24
  # a cluster, from the machine that launched it or is about to
  spt doctor --cluster clusters/v100.yaml

\b
Exit status:
  0 nothing that would make a sweep fail, 1 something would, 2 the request cannot be run.
"""
_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    *,
    cluster: Annotated[
        Path | None, typer.Option(help="A cluster's YAML: it is checked, and its head asked for all of its nodes.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model that every node should have.")] = "bundled:smollm2-135m",
    train: Annotated[str, typer.Option(help="Training dialogues that every node should read.")] = "sample:train",
    test: Annotated[str, typer.Option(help="Test dialogues, likewise.")] = "sample:valid",
    output: options.Output = options.RUNS,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    trials: Annotated[int, typer.Option(help="How many the disk should hold.")] = 24,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Find what would make a sweep fail: versions, GPUs, disk, memory, MLflow, storage, model, data, clocks, token."""
    from sweeps.engine.cluster.ray_runtime import connection
    from sweeps.engine.doctor import cluster_yaml
    from sweeps.engine.doctor import examine as checks
    from sweeps.engine.doctor.finding import Needs
    from sweeps.engine.store import shared_storage as storing
    from sweeps.engine.store.layout import OutputLayout

    with refusing_bad_input():
        if cluster is not None:
            findings = cluster_yaml.examine(cluster)
            if not any(finding.level == "error" for finding in findings):
                options = ["--model", model, "--train", train, "--test", test, "--trials", str(trials)]
                findings += cluster_yaml.ask_head(cluster, [shlex.quote(option) for option in options])
        else:
            output = output.resolve()
            request = Needs(
                model=model,
                train=train,
                test=test,
                output=output,
                storage=storing.place(storage) if storage else None,
                tracking_uri=tracking_uri or OutputLayout(output).tracking,
                num_trials=trials,
            )
            with connection(verbose=False):
                findings = checks.examine(request)
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        _show(Console(soft_wrap=True), findings)
    raise typer.Exit(FAILED_TRIALS if checks.worst(findings) == "error" else 0)


def _show(console: Console, findings: "list[Finding]") -> None:
    wide = max(len(finding.check) for finding in findings)
    for finding in findings:
        where = f"{finding.node}: " if finding.node else ""
        console.print(
            f"{finding.level:<8}{finding.check:<{wide}}  {where}{finding.what}",
            style=_STYLES[finding.level] if finding.level != "ok" else None,
            highlight=False,
            markup=False,
        )
        for name, text in (("why", finding.why), ("cure", finding.cure)):
            if text:
                console.print(f"{'':{wide + 10}}{name}: {text}", highlight=False, markup=False)
    counts = {level: sum(finding.level == level for finding in findings) for level in _STYLES}
    console.print(f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['error']} errors", highlight=False)
