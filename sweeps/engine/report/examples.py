"""Test responses to read: a few contexts, what the human said, and what each cell said."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.report.table import Table, TableEntry, TableRow
from sweeps.engine.store import trial_folder

_COLUMNS = (
    *("dialogue", "turn", "persona", "context", "reference"),
    *("prediction", "raw_prediction", "cut_by", "prompt", "nll"),
)
MOST_CELLS = 12
"""Cells that speak, the first of the table; more would make no page to read."""
_TAIL = 90
"""Characters of a context that a table shows: its end, which is what is answered."""


@dataclass(frozen=True)
class Reply:
    """What one cell said.

    Attributes:
        cell: index of the cell in the table.
        label: of the cell.
        text: after the cut rule; `cut` is what the rule took off, `cut_by` its name, if it cut.
        prompt: the chosen prompt, from 1; None where there is no choice.
        nll: of the human reply under that prompt, in nats a token; None where a server replied.
    """

    cell: int
    label: str
    text: str
    cut: str
    cut_by: str | None
    prompt: int | None
    nll: float | None


@dataclass(frozen=True)
class Example:
    """One test response: `turn` from 1; `history` is the dialogue so far without the persona."""

    dialogue: str
    turn: int
    persona: str
    history: str
    reference: str
    replies: tuple[Reply, ...]


def sample(summaries: Sequence[CellSummary], num_examples: int = 24, seed: int = 0) -> list[Example]:
    """Test responses that every cell answered, drawn at random, in the order of the test split.

    Each cell speaks with its first finished seed; cells without predictions at hand are left out.

    Args:
        summaries: the cells.
        num_examples: at most.
        seed: of the draw.
    """
    answers: dict[int, dict[tuple[str, int], dict[str, Any]]] = {}
    for index, summary in list(enumerate(summaries))[:MOST_CELLS]:
        if not summary.finished or summary.same_as is not None:
            continue
        rows = trial_folder.read_predictions(summary.finished[0][1].folder, _COLUMNS)
        if rows:
            answers[index] = {(row["dialogue"], row["turn"]): row for row in rows}
    if not answers:
        return []
    first, *others = answers.values()
    shared = [place for place in first if all(place in other for other in others)]
    drawn = np.random.default_rng(seed).choice(len(shared), size=min(num_examples, len(shared)), replace=False)
    return [_example(shared[number], answers, summaries) for number in sorted(drawn)]


def side_by_side(summaries: Sequence[CellSummary], num_examples: int = 8) -> Table:
    """Figure 4: what each cell said to the same contexts, a row a test response.

    Args:
        summaries: the cells; a column each.
        num_examples: at most.
    """
    found = sample(summaries, num_examples)
    titles = ("human", *(reply.label for reply in found[0].replies)) if found else ("human",)
    rows = []
    for one in found:
        said = [f"{reply.text}{f' [prompt {reply.prompt}]' if reply.prompt else ''}" for reply in one.replies]
        last = one.history if len(one.history) <= _TAIL else f"... {one.history[-_TAIL:].partition(' ')[2]}"
        label = f"{last} ({one.dialogue}, reply {one.turn})"
        rows.append(TableRow(label, tuple(TableEntry(textwrap.shorten(text, 60)) for text in (one.reference, *said))))
    return Table("asked", titles, tuple(rows))


def _example(
    place: tuple[str, int],
    answers: dict[int, dict[tuple[str, int], dict[str, Any]]],
    summaries: Sequence[CellSummary],
) -> Example:
    row = next(iter(answers.values()))[place]
    return Example(
        dialogue=row["dialogue"],
        turn=row["turn"] + 1,
        persona=row["persona"],
        history=row["context"].removeprefix(row["persona"]).strip(),
        reference=row["reference"],
        replies=tuple(_reply(index, summaries[index], by_place[place]) for index, by_place in answers.items()),
    )


def _reply(index: int, summary: CellSummary, row: dict[str, Any]) -> Reply:
    text, raw = row["prediction"], row["raw_prediction"]
    has_choice = summary.trials[0].config.num_choices > 1
    return Reply(
        cell=index,
        label=summary.label,
        text=text,
        cut=raw.removeprefix(text) if row["cut_by"] is not None and raw.startswith(text) else "",
        cut_by=row["cut_by"],
        prompt=row["prompt"] + 1 if has_choice else None,
        nll=row["nll"] if is_number(row["nll"]) else None,
    )
