"""Blinded sheets on which people rate the responses of two runs (Table 7 and appendix A.5 of the SPT paper)."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from sweeps.engine.design.designs import label
from sweeps.engine.store import trial_folder

SHEET, RUBRIC, KEY = "sheet.csv", "rubric.md", "key.json"
"""The files of an export: the first two are for the raters, the key is not."""

Side = Literal["A", "B"]
SIDES: tuple[Side, Side] = ("A", "B")


@dataclass(frozen=True)
class Criterion:
    """One of the questions to a rater.

    Attributes:
        column: of the sheet.
        title: in words.
        scores: what 0, 1 and 2 mean.
        published: the means of Table 7 for Llama2-7B, SPT's and PT's.
    """

    column: str
    title: str
    scores: tuple[str, str, str]
    published: tuple[float, float]


CRITERIA = (
    Criterion(
        "persona_consistency",
        "persona consistency",
        ("contradicts the persona", "not relevant to the persona", "consistent with the persona"),
        (1.89, 1.33),
    ),
    Criterion(
        "dialogue_consistency",
        "dialogue consistency",
        (
            "contradicts the previous dialogue",
            "not relevant to the previous dialogue",
            "consistent with the previous dialogue",
        ),
        (1.29, 1.13),
    ),
    Criterion(
        "engagingness",
        "engagingness",
        ("a boring response", "a safe but bland response", "an interesting response"),
        (1.34, 1.29),
    ),
)
COLUMNS = ("item", "persona", "context", "response", *(criterion.column for criterion in CRITERIA))

PARTNER, SPEAKER = "Partner", "Speaker"
_NO_CONTEXT = f"(nothing yet: the {SPEAKER} begins)"
_NO_RESPONSE = "(empty response)"
_FORMULA = tuple("=+-@＝＋－＠")
_LETTERS = list("bcdfghjkmnpqrstvwxz")
"""Of item names: no digits, which a spreadsheet might take for a number, and no vowels, which might make words."""
_NAME_LENGTH = 6

_Place = tuple[str, int]


@dataclass(frozen=True)
class Response:
    """A row of a trial's predictions, as far as a rater sees it, with the human reply that goes on the dialogue."""

    persona: str
    context: str
    reference: str
    prediction: str


@dataclass(frozen=True)
class Run:
    """A trial whose responses can be rated.

    Attributes:
        folder: of the trial.
        name: its cell, seed and folder, as far as the folder tells.
        responses: by dialogue and turn.
    """

    folder: Path
    name: str
    responses: Mapping[_Place, Response]


class Item(BaseModel):
    """What stands behind one row of the sheet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Side
    dialogue: str
    turn: int


class Key(BaseModel):
    """Which response is whose; the raters must not see it.

    Attributes:
        runs: name of each run.
        folders: of each run, as they were given.
        seed: of the sample, the order and the names of the items.
        items: by name, in the order of the dialogues (the sheet's order is another).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: dict[Side, str]
    folders: dict[Side, str]
    seed: int
    items: dict[str, Item]


@dataclass(frozen=True)
class Exported:
    """What an export holds: examples (each with a response of both runs), their dialogues, and equal pairs."""

    num_examples: int
    num_dialogues: int
    num_equal: int


def read_run(folder: Path) -> Run:
    """The test responses of a trial.

    Raises:
        ValueError: the folder holds no predictions, or not such as a trial leaves.
    """
    path = folder / trial_folder.PREDICTIONS
    columns = ["dialogue", "turn", *Response.__dataclass_fields__]
    rows = trial_folder.read_predictions(folder, columns)
    if rows is None:
        raise ValueError(f"{folder}: there is no {path.name} in it, which every finished trial leaves")
    responses: dict[_Place, Response] = {}
    for row in rows:
        place = str(row.pop("dialogue")), int(row.pop("turn"))
        if place in responses:
            raise ValueError(f"{path}: dialogue {place[0]!r}, turn {place[1]} is in it twice; it should be there once")
        responses[place] = Response(**{str(name): str(text) for name, text in row.items()})
    return Run(folder, _name(folder), responses)


def _name(folder: Path) -> str:
    cell, seed = trial_folder.read_environment(folder).get("cell"), trial_folder.read_config(folder).get("seed")
    about = [*([label(cell)] if cell is not None else []), *([f"seed {seed}"] if seed is not None else [])]
    return f"{', '.join(about)} ({folder.resolve().name})" if about else folder.resolve().name


def export(runs: tuple[Run, Run], *, num_examples: int, seed: int, folder: Path) -> Exported:
    """Write a blinded sheet with the responses of two runs to the same examples, the rubric, and the key.

    The examples are a simple random sample of the test responses that both runs have. Both responses to an example
    are rows of their own; rows are shuffled and named at random, so nothing but the key tells whose a response is.
    The same runs and seed give the same files.

    Args:
        runs: A and B.
        num_examples: how many; the sheet has twice as many rows.
        seed: of the sample, the order and the names.
        folder: where to write; made where it is not there.

    Raises:
        ValueError: the runs are one and the same, were tested on different data or share too few responses, or the
            folder holds something.
    """
    first, second = runs
    if num_examples < 1:
        raise ValueError(f"--responses {num_examples}: it should be at least 1")
    if seed < 0:
        raise ValueError(f"--seed {seed}: it should be 0 or more")
    if first.folder.resolve() == second.folder.resolve():
        raise ValueError(f"{second.folder}: this is the first run once more; name two different runs")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: it is there already and may hold filled sheets; name another with --output")
    shared = _shared(first, second)
    if len(shared) < num_examples:
        raise ValueError(
            f"--responses {num_examples}: {first.folder} and {second.folder} share {len(shared)} test responses; ask "
            f"for {len(shared)} or fewer"
        )
    generator = np.random.default_rng([seed, *_digest(runs, shared)])
    sample = [shared[index] for index in sorted(generator.choice(len(shared), size=num_examples, replace=False))]
    behind = [Item(run=side, dialogue=place[0], turn=place[1]) for place in sample for side in SIDES]
    items = dict(zip(_item_names(len(behind), generator), behind, strict=True))
    of_side = dict(zip(SIDES, runs, strict=True))
    rows = [_row(name, of_side[item.run], (item.dialogue, item.turn)) for name, item in items.items()]
    key = Key(
        runs={side: run.name for side, run in of_side.items()},
        folders={side: str(run.folder) for side, run in of_side.items()},
        seed=seed,
        items=items,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY).write_text(key.model_dump_json(indent=1), encoding="utf-8")
    (folder / RUBRIC).write_text(rubric(), encoding="utf-8")
    # The byte order mark is what makes Excel read the file as UTF-8.
    with (folder / SHEET).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows[index] for index in generator.permutation(len(rows)))
    equal = sum(first.responses[place].prediction == second.responses[place].prediction for place in sample)
    return Exported(len(sample), len({dialogue for dialogue, _ in sample}), equal)


def _shared(first: Run, second: Run) -> list[_Place]:
    """Examples that both runs answered, in order."""
    shared = sorted(first.responses.keys() & second.responses.keys())
    if not shared:
        raise ValueError(
            f"{first.folder} and {second.folder} share no test responses; name runs tested on one test set"
        )
    for place in shared:
        one, other = first.responses[place], second.responses[place]
        if (one.persona, one.context) != (other.persona, other.context):
            raise ValueError(
                f"{first.folder} and {second.folder} were tested on different data: dialogue {place[0]!r}, turn "
                f"{place[1]} has another persona or context; name runs tested on one test set"
            )
    return shared


def _digest(runs: Sequence[Run], shared: Sequence[_Place]) -> bytes:
    """Of what could be sampled, so that items of different exports bear different names and cannot be mixed up."""
    texts = [(place, run.responses[place].prediction) for run in runs for place in shared]
    return hashlib.sha256(json.dumps(texts).encode()).digest()


def _item_names(count: int, generator: np.random.Generator) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(generator.choice(_LETTERS, size=_NAME_LENGTH))] = None
    return list(names)


def _row(name: str, run: Run, place: _Place) -> list[str]:
    response = run.responses[place]
    texts = response.persona, conversation(run.responses, place) or _NO_CONTEXT, response.prediction or _NO_RESPONSE
    return [name, *(_harmless(text) for text in texts), *("" for _ in CRITERIA)]


def _harmless(text: str) -> str:
    """Text that a spreadsheet shows and does not compute: an apostrophe in front where it would be a formula."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def conversation(responses: Mapping[_Place, Response], place: _Place) -> str:
    """The dialogue before a response, an utterance a line with its speaker, and without the persona in front.

    A prediction's context is one run of text. The rows of the earlier turns tell where each utterance in it ends;
    where one of them is missing, the text comes as it is.

    Args:
        responses: of a run, by dialogue and turn.
        place: dialogue and turn of the response.
    """
    dialogue, last = place
    persona, whole = responses[place].persona, responses[place].context
    lines: list[str] = []
    said = persona
    for turn in range(last + 1):
        response = responses.get((dialogue, turn))
        if response is None or not response.context.startswith(said):
            return whole.removeprefix(persona).strip()
        query = response.context[len(said) :].strip()
        lines += [f"{PARTNER}: {query}"] if query else []
        if turn < last:
            lines.append(f"{SPEAKER}: {response.reference}")
            said = " ".join(filter(None, [response.context, response.reference]))
    return "\n".join(lines)


def rubric() -> str:
    """What a rater is told, in Markdown: the three criteria and their scores, after appendix A.5 of the paper."""
    scores = "\n".join(f"| {criterion.title} | {' | '.join(criterion.scores)} |" for criterion in CRITERIA)
    return f"""# How to rate

Each row of `{SHEET}` is one response in a conversation between two people, the {PARTNER} and the {SPEAKER}. `persona`
describes the {SPEAKER}; `context` is what was said so far; `response` is what the {SPEAKER} says next.

Give every row three scores, each 0, 1 or 2, in the last three columns:

| criterion | 0 | 1 | 2 |
| --- | --- | --- | --- |
{scores}

- Rate each row by itself. The same conversation comes more than once, with different responses.
- Rate alone; talk about the rows with other raters only when all are done.
- Judge what is said, not how long it is. A response may break off in the middle of a sentence.
- `{_NO_RESPONSE}` means that nothing was said; rate that too.
- An apostrophe at the very beginning of a cell is not part of the text.
- Leave the column `item` as it is, and save as CSV (UTF-8). The order of the rows does not matter.
"""
