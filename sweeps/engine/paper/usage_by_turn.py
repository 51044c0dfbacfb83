"""Which prompt is chosen at which turn (Figure 2), whether the two are associated, and emoji by prompt (Figure 3)."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from spt_core.metrics import has_emoji
from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.report.table import ABSENT, Entry, Row, Table, number
from sweeps.engine.store import trial_folder

PERMUTATIONS = 500


def largest_shares(summary: CellSummary) -> Iterator[float]:
    """The share of the most chosen prompt of each seed, in percent."""
    for _, result in summary.finished:
        shares = [value for name, value in result.metrics.items() if name.startswith("test/usage/prompt_")]
        if shares:
            yield max(shares)


def excess_association(summary: CellSummary, *, seed: int = 0) -> list[float]:
    """Cramer's V of prompt and stage over what it is by chance, for each seed whose predictions are at hand.

    Chance is the mean of V over permutations of the prompts within each dialogue, which keeps what a dialogue as a
    whole prefers. V is 0 where a single prompt is chosen.

    Args:
        summary: a cell.
        seed: of the permutations.
    """
    found = []
    for _, result in summary.finished:
        rows = trial_folder.read_predictions(result.folder, ["dialogue", "stage", "prompt"])
        if not rows:
            return []
        stages = np.unique([row["stage"] for row in rows], return_inverse=True)[1]
        prompts = np.unique([row["prompt"] for row in rows], return_inverse=True)[1]
        dialogues = np.unique([row["dialogue"] for row in rows], return_inverse=True)[1]
        found.append(_excess(stages, prompts, dialogues, np.random.default_rng(seed)))
    return found


def _excess(
    stages: NDArray[np.intp], prompts: NDArray[np.intp], dialogues: NDArray[np.intp], generator: np.random.Generator
) -> float:
    order = np.argsort(dialogues, kind="stable")
    stages, prompts, dialogues = stages[order], prompts[order], dialogues[order]
    observed = cramers_v(stages, prompts)
    by_chance = []
    for _ in range(PERMUTATIONS):
        within = np.lexsort((generator.random(len(dialogues)), dialogues))
        by_chance.append(cramers_v(stages, prompts[within]))
    return observed - float(np.mean(by_chance))


def cramers_v(first: NDArray[np.intp], second: NDArray[np.intp]) -> float:
    """Cramer's V of two labellings, 0 to 1 (Cramer 1946); 0 where either has a single label."""
    num = (int(first.max()) + 1, int(second.max()) + 1)
    if min(num) == 1:
        return 0.0
    counts = np.bincount(first * num[1] + second, minlength=num[0] * num[1]).reshape(num).astype(float)
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi_squared / counts.sum() / (min(num) - 1)))


def usage_table(summary: CellSummary) -> Table:
    """Figure 2: how often each prompt is chosen at each stage of the dialogue, in percent of its replies, by seed."""
    titles = ("opening", "middle", "closing", "all turns")
    rows = []
    for trial, result in summary.finished:
        chosen = trial_folder.read_predictions(result.folder, ["stage", "prompt"]) or []
        by_stage = [[row["prompt"] for row in chosen if row["stage"] == stage] for stage in titles[:3]]
        by_stage.append([row["prompt"] for row in chosen])
        for k in range(trial.config.num_choices):
            entries = tuple(_share(of, k) for of in by_stage)
            rows.append(Row(f"seed {trial.seed}, prompt {k + 1}", entries))
    return Table(summary.label, titles, tuple(rows))


def emoji_table(summary: CellSummary) -> Table:
    """Figure 3: replies of each prompt, and the share of them that have an emoji, by stage."""
    titles = ("replies", "with emoji, %", "opening, %", "middle, %", "closing, %")
    rows = []
    for trial, result in summary.finished:
        replies = trial_folder.read_predictions(result.folder, ["stage", "prompt", "raw_prediction"]) or []
        for k in range(trial.config.num_choices):
            of_prompt = [row for row in replies if row["prompt"] == k]
            stages = [[row for row in of_prompt if row["stage"] == stage] for stage in ("opening", "middle", "closing")]
            entries = (Entry(str(len(of_prompt)), value=len(of_prompt)), *map(_emoji, (of_prompt, *stages)))
            rows.append(Row(f"seed {trial.seed}, prompt {k + 1}", entries))
    return Table(summary.label, titles, tuple(rows))


def _share(chosen: Sequence[int], prompt: int) -> Entry:
    if not chosen:
        return Entry(ABSENT)
    share = 100 * Counter(chosen)[prompt] / len(chosen)
    return Entry(number(share, 1), value=share)


def _emoji(rows: Sequence[dict[str, str]]) -> Entry:
    if not rows:
        return Entry(ABSENT)
    share = 100 * sum(has_emoji(row["raw_prediction"]) for row in rows) / len(rows)
    return Entry(number(share, 1), value=share)
