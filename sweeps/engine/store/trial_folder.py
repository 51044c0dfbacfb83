"""A trial's folder: the files that a trial leaves, each with its one reader and its one writer.

No other module opens these files. A reader of a file that is not there, or that was cut short when its writer was
killed, answers with nothing instead of raising.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sweeps.engine.store.atomic_write import write_whole
from sweeps.engine.store.states import State

CONFIG = "config.json"
"""The config as it ran, nested."""
ENVIRONMENT = "environment.json"
"""Key and identity, package versions, git commit, machine, command line, and what the arithmetic ran on."""
CODE_DIFF = "code.diff"
"""Uncommitted changes of the checkout; absent when there are none."""
HISTORY = "history.jsonl"
"""One JSON object a report: `step`, `seconds` since the start, and the metrics of that moment."""
RETRIES = "retries.json"
"""How often the trial was tried again and why, and the layout it went on with; absent if never."""
METRICS = "metrics.json"
"""Final metrics by name, flat; written last, so its presence means that the trial finished."""
PREDICTIONS = "predictions.parquet"
"""One row a test response."""
ADAPTER = "adapter"
"""Folder with the trained soft prompts and retriever: safetensors and JSON."""
FILES = (CONFIG, ENVIRONMENT, CODE_DIFF, ADAPTER, PREDICTIONS, HISTORY, RETRIES, METRICS)
"""All of them, in the order in which they are sent to MLflow."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        key: of the trial.
        state: never `running`.
        metrics: final metrics by name, such as `test/f1`; empty unless finished.
        folder: where its files are.
        reused: it had finished before this run of the sweep.
        error: what went wrong, one line for people.
    """

    key: str
    state: State
    metrics: Mapping[str, float]
    folder: Path
    reused: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Retries:
    """How often a trial was tried again, and what it has learnt of the machine.

    Attributes:
        layout: `compute` fields that replace the config's, by name.
        reasons: of each retry, in order, one line for people.
    """

    layout: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


def read_metrics(folder: Path) -> dict[str, float] | None:
    """The final metrics; None unless the trial finished."""
    metrics: dict[str, float] | None = _read_json(folder / METRICS)
    return metrics


def read_config(folder: Path) -> dict[str, Any]:
    """The config as it ran, nested; empty where there is none."""
    return _read_json(folder / CONFIG) or {}


def read_environment(folder: Path) -> dict[str, Any]:
    """`key`, `sweep`, `cell`, `identity`, `facts`, `execution`; empty where there is none."""
    return _read_json(folder / ENVIRONMENT) or {}


def read_retries(folder: Path) -> Retries:
    """How often the trial was tried again; never, where the folder does not say."""
    kept = _read_json(folder / RETRIES)
    return Retries(kept["layout"], tuple(kept["reasons"])) if kept else Retries()


def write_retries(folder: Path, retries: Retries) -> None:
    """Keep them where the next attempt, the next driver and MLflow find them."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"layout": dict(retries.layout), "reasons": retries.reasons}
    write_whole(folder / RETRIES, json.dumps(kept, indent=1))


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a trial in the order of their steps.

    A line that was cut short is skipped. Of a step that ran again, the last row counts.
    """
    path = folder / HISTORY
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = {}
    for line in lines:
        try:
            row = json.loads(line)
            rows[float(row["step"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    return [rows[step] for step in sorted(rows)]


class HistoryWriter:
    """Writes the rows of a trial; an attempt that resumes drops the rows that it is going to report again.

    Args:
        folder: of the trial.
        resumed: the attempt goes on from a checkpoint; otherwise the history begins anew.
    """

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        self._folder, self._is_trimmed = folder, not resumed
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed:
            self._write([])

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row."""
        if not self._is_trimmed:
            self._write(earlier for earlier in read_history(self._folder) if earlier["step"] < row["step"])
            self._is_trimmed = True
        with (self._folder / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _write(self, rows: Iterable[Mapping[str, float]]) -> None:
        (self._folder / HISTORY).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def read_predictions(folder: Path, columns: Sequence[str]) -> list[dict[str, Any]] | None:
    """Columns of a trial's predictions, one row a test response; None where the file is not at hand.

    Raises:
        ValueError: the file is damaged or lacks a column; names it.
    """
    table = _read_parquet(folder, columns)
    return None if table is None else list(table.to_pylist())


def read_arrays(folder: Path, columns: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """Columns of numbers of a trial's predictions, as arrays; None where the file is not at hand.

    Raises:
        ValueError: the file is damaged or lacks a column; names it.
    """
    table = _read_parquet(folder, columns)
    return None if table is None else {name: table[name].to_numpy() for name in columns}


def write_finished(
    folder: Path,
    *,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    code_diff: str,
    predictions: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
) -> None:
    """Write what a finished trial leaves beside its adapter; the metrics last."""
    if predictions:
        import pandas as pd

        pd.DataFrame(predictions).to_parquet(folder / PREDICTIONS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / ENVIRONMENT).write_text(json.dumps(environment, indent=1), encoding="utf-8")
    if code_diff:
        (folder / CODE_DIFF).write_text(code_diff, encoding="utf-8")
    write_whole(folder / METRICS, json.dumps(metrics, indent=1))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_parquet(folder: Path, columns: Sequence[str]) -> Any:
    import pyarrow.parquet as pq

    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:  # in two thirds of the time of pq.read_table, which looks for data sets
            table = file.read(columns=list(columns))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: it cannot be read ({str(error).partition(chr(10))[0]})") from error
    if missing := set(columns) - set(table.column_names):
        raise ValueError(f"{path}: it lacks the columns {', '.join(sorted(missing))}")
    return table
