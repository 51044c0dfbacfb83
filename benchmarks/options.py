"""Options that the command lines of the benchmarks share, and their defaults."""

import json
from typing import Annotated, Any

import typer

from spt_core.weights import BUNDLED_SMOLLM2

Train = Annotated[str, typer.Option(help="Training dialogues: a file or sample:train.")]
Model = Annotated[str, typer.Option(help=f"Backbone: a folder, a Hub id or {BUNDLED_SMOLLM2}.")]
NumPrompts = Annotated[int, typer.Option(help="K.")]
BatchSize = Annotated[int, typer.Option(help="Contexts in a step.")]
Cells = Annotated[int, typer.Option(help="Cells of the sweep, a multiple of 16.")]
Seeds = Annotated[int, typer.Option(help="Seeds of each cell.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SAMPLE = "sample:train"


def print_json(found: dict[str, Any]) -> None:
    """Print the result of a benchmark as JSON."""
    typer.echo(json.dumps(found, indent=1))
