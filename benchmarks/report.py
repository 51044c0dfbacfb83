"""Time and memory of the report of a sweep of thousands of trials, from synthetic results in a temporary folder.

Each trial has the metrics, the history and the predictions of a real one, for a few test dialogues, with random
numbers. Only the report and the table of the terminal are timed.

    python -m benchmarks.report --json
"""

import json
import os
import resource
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console

from benchmarks import options
from benchmarks.plan import plan_of, sweep_of
from spt_core import metrics as text_metrics
from spt_core.conversations import load
from spt_core.evaluation import Prediction, summarise, summarise_routes
from sweeps.engine.analysis.answer import answer
from sweeps.engine.paper.beside import published_tables
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.report.terminal import terminal_table
from sweeps.engine.report.write import write
from sweeps.engine.store.trial_folder import HISTORY, PREDICTIONS, TrialResult

NUM_DIALOGUES, NUM_TURNS = 10, 4
DISTINCT_FILES = 20
"""Number of files of long predictions. Further trials share one of them, because a thousand would fill a small disk."""


def make_results(plan: Plan, folder: Path, *, responses: int) -> dict[str, TrialResult]:
    """A finished result with its files for every distinct trial of a plan."""
    rows = _responses(responses)
    of_method = {k: _metrics(rows, num_prompts=k) for k in {t.config.num_choices for t in plan.trials}}
    return {
        key: _make_one(trial, folder / key, rows=rows, metrics=of_method[trial.config.num_choices], number=number)
        for number, (key, trial) in enumerate(plan.distinct.items())
    }


def _responses(num: int) -> list[Prediction]:
    """Predictions equal to the replies of the sample set, repeated as further dialogues up to a number."""
    few = _few_responses()
    times = range(-(-num // len(few)))
    return [replace(one, dialogue=f"{one.dialogue} {again}") for again in times for one in few][:num]


def _few_responses() -> list[Prediction]:
    found = []
    for conversation in load("sample:valid")[:NUM_DIALOGUES]:
        for index, turn in enumerate(conversation.turns[:NUM_TURNS]):
            reply, cut_by = text_metrics.cut(turn.response)
            found.append(
                Prediction(
                    dialogue=conversation.id,
                    turn=index,
                    stage="middle",
                    persona=" ".join(conversation.persona),
                    context=" ".join([*conversation.persona, turn.query]),
                    reference=turn.response,
                    prediction=reply,
                    raw_prediction=turn.response,
                    cut_by=cut_by,
                    prompt=0,
                    similarity=[],
                    nll=None,
                    nll_by_prompt=[],
                    num_tokens=1 + len(turn.response.split()),
                )
            )
    return found


def _choice(rows: list[Prediction], *, num_prompts: int, number: int) -> dict[str, Any]:
    """The columns of the selection: random NLLs and similarities, and the prompt of the highest similarity."""
    random = np.random.default_rng([num_prompts, number])
    nll_NK = 3 + random.normal(0, 0.1) + random.normal(0, 0.3, (len(rows), num_prompts))
    similarity_NK = random.random((len(rows), num_prompts))
    prompt_N = similarity_NK.argmax(1)
    return {
        "prompt": prompt_N.tolist(),
        "similarity": similarity_NK.tolist(),
        "nll": nll_NK[np.arange(len(rows)), prompt_N].tolist(),
        "nll_by_prompt": nll_NK.tolist(),
    }


def _metrics(rows: list[Prediction], *, num_prompts: int) -> dict[str, float]:
    """Every metric of a trial with K prompts, computed by `spt_core.evaluation`."""
    columns = _choice(rows, num_prompts=num_prompts, number=0)
    chosen = [replace(row, **{name: column[i] for name, column in columns.items()}) for i, row in enumerate(rows)]
    found = {"train/steps": 16.0, "train/seconds": 60.0, "seconds": 70.0, "dev/nll_start": 4.5, "dev/nll": 3.2}
    found |= summarise(chosen, bert_encoder=None)
    if num_prompts > 1:
        found |= summarise_routes(chosen, turn_rule={-1: 0}, seed=0)
    return found


def _make_one(
    trial: Trial, folder: Path, *, rows: list[Prediction], metrics: dict[str, float], number: int
) -> TrialResult:
    folder.mkdir()
    choice = _choice(rows, num_prompts=trial.config.num_choices, number=number)
    kept = folder.parent / f"{trial.config.num_choices}-{number % DISTINCT_FILES}.parquet"
    if len(rows) <= NUM_DIALOGUES * NUM_TURNS or not kept.exists():
        columns: dict[str, Any] = {
            field.name: [getattr(row, field.name) for row in rows] for field in fields(Prediction)
        }
        pq.write_table(pa.table(columns | choice), folder / PREDICTIONS)
    if len(rows) > NUM_DIALOGUES * NUM_TURNS:
        os.link(*((folder / PREDICTIONS, kept) if not kept.exists() else (kept, folder / PREDICTIONS)))
    nll = float(np.average(choice["nll"], weights=[row.num_tokens for row in rows]))
    history = [{"step": 4.0 * i, "seconds": 10.0 * i, "dev/nll": nll + 1 / (1 + i)} for i in range(5)]
    (folder / HISTORY).write_text("".join(f"{json.dumps(row)}\n" for row in history))
    return TrialResult(trial.key, "finished", {**metrics, "test/nll": nll}, folder)


def measure(*, num_cells: int, seeds: int, responses: int = NUM_DIALOGUES * NUM_TURNS) -> dict[str, Any]:
    """Time one report of a sweep.

    Args:
        num_cells: a multiple of 16.
        seeds: of each.
        responses: test responses of each trial.

    Returns:
        Numbers of trials and cells, seconds of the report and of the terminal's table and verdict, and in MiB the
        growth of the peak memory of the process and the sizes of the files.
    """
    plan = plan_of(sweep_of(num_cells=num_cells, seeds=seeds))
    with tempfile.TemporaryDirectory(prefix="spt-report-") as work:
        folder = Path(work)
        (folder / "trials").mkdir()
        results = make_results(plan, folder / "trials", responses=responses)
        before = psutil.Process().memory_info().rss
        started = time.perf_counter()
        found = answer(plan, results)
        write(found, folder / "report", facts={"data": "made up"}, published=published_tables(found))
        written = time.perf_counter()
        with (folder / "terminal.txt").open("w") as file:
            console = Console(file=file, width=120)
            console.print(terminal_table(found))
            console.print(found.verdict)
        printed = time.perf_counter()
        return {
            "trials": len(plan.trials),
            "distinct": len(plan.distinct),
            "cells": len(plan.cells),
            "seconds": {"report": written - started, "terminal": printed - written},
            "peak_grew_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20,
            "file_mib": {path.name: path.stat().st_size / 2**20 for path in sorted((folder / "report").glob("*.*"))},
        }


def main(
    *,
    cells: options.Cells = 2000,
    seeds: options.Seeds = 5,
    responses: Annotated[int, typer.Option(help="Test responses a trial; ConvAI2 has 7,801.")] = 40,
    as_json: options.AsJson = False,
) -> None:
    """Time the report of a large sweep."""
    found = measure(num_cells=cells, seeds=seeds, responses=responses)
    if as_json:
        options.print_json(found)
        return
    sizes = ", ".join(f"{name} {size:.1f} MiB" for name, size in found["file_mib"].items())
    typer.echo(
        f"{found['trials']} trials, {found['distinct']} of them distinct, {found['cells']} cells: report "
        f"{found['seconds']['report']:.1f} s, terminal {found['seconds']['terminal']:.1f} s; peak memory grew by "
        f"{found['peak_grew_mib']:.0f} MiB; {sizes}"
    )


if __name__ == "__main__":
    typer.run(main)
