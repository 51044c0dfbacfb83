"""Figures 2 and 3 of the paper as tables: prompts by stage of the dialogue, and emoji by prompt."""

from collections import Counter
from collections.abc import Sequence

from spt_core.metrics import has_emoji
from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.report.table import ABSENT, Table, TableEntry, TableRow, number
from sweeps.engine.store import trial_folder


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
            rows.append(TableRow(f"seed {trial.seed}, prompt {k + 1}", entries))
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
            entries = (TableEntry(str(len(of_prompt)), value=len(of_prompt)), *map(_emoji, (of_prompt, *stages)))
            rows.append(TableRow(f"seed {trial.seed}, prompt {k + 1}", entries))
    return Table(summary.label, titles, tuple(rows))


def _share(chosen: Sequence[int], prompt: int) -> TableEntry:
    if not chosen:
        return TableEntry(ABSENT)
    share = 100 * Counter(chosen)[prompt] / len(chosen)
    return TableEntry(number(share, 1), value=share)


def _emoji(rows: Sequence[dict[str, str]]) -> TableEntry:
    if not rows:
        return TableEntry(ABSENT)
    share = 100 * sum(has_emoji(row["raw_prediction"]) for row in rows) / len(rows)
    return TableEntry(number(share, 1), value=share)
