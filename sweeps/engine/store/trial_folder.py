"""What is known of one trial once it ended, and the files that it leaves in its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["finished", "failed", "interrupted", "pruned"]

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


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        key: of the trial.
        state: `finished` at full budget; `failed` for good, with `error`; `interrupted`, which a resume goes on with;
            `pruned`, when a search stopped it early.
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


def origin_of(result: TrialResult) -> str:
    """The sweep that ran a trial; empty where its folder does not say."""
    try:
        return str(json.loads((result.folder / ENVIRONMENT).read_text()).get("sweep", ""))
    except (OSError, json.JSONDecodeError):
        return ""
