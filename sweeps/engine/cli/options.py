"""Options that several commands take, each stated once."""

from pathlib import Path
from typing import Annotated

import typer

from spt_core.recipes import RECIPES
from sweeps.engine.design.scales import SCALES

RUNS = Path("runs")
"""The default of `Output`."""

Scale = Annotated[
    str, typer.Option(help=f"How large: {'; '.join(f'{name} ({scale.about})' for name, scale in SCALES.items())}.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a config field; may be repeated.")
]
Train = Annotated[str | None, typer.Option(help="Training dialogues: a file, hf://..., sample:train.")]
Test = Annotated[str | None, typer.Option(help="Test dialogues, likewise.")]
Model = Annotated[
    str | None,
    typer.Option(
        help=f"A recipe ({', '.join(RECIPES)}), which brings its settings, or a Hub id or folder, which replaces the "
        "backbone alone."
    ),
]
Seeds = Annotated[int | None, typer.Option(help="Seeds a cell, paired across cells.")]
Steps = Annotated[int | None, typer.Option(help="Optimisation steps a trial, at most.")]
Workers = Annotated[int, typer.Option(help="Ray Train workers a trial; 0 trains in the Tune process.")]
CpusPerWorker = Annotated[int | None, typer.Option(help="CPUs and threads of each worker.")]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="GPUs of each worker, may be a fraction. Default: 1 where there are any.")
]
Concurrency = Annotated[int | None, typer.Option(help="Trials at once. Default: as many as fit.")]
Output = Annotated[Path, typer.Option(help="Folder of ledger, trials, reports and the default MLflow.")]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="SPT_STORAGE",
        help="On a cluster: what all nodes share, for checkpoints and trials' files: s3://BUCKET/FOLDER, or a folder. "
        "Default: the output folder.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow: http://host:port or sqlite:///file. Default: in the output folder.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what Ray, Tune and Train say.")]
