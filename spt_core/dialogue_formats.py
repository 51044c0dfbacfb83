"""Readers of the formats in which persona dialogues come: ParlAI text, JSON Lines, and rows of a data set."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from spt_core.dialogues import Conversation, Conversations, Turn

_Row = Mapping[str, Any]


def parse_parlai(content: bytes, source: str) -> Conversations:
    """Read ParlAI text (see `conversations.load`).

    Args:
        content: the bytes of the file.
        source: its name in the result and in errors.

    Raises:
        ValueError: a line is not ParlAI text; names the line, what was expected and what was found.
    """
    dialogues: list[list[tuple[str, str]]] = []
    last = 0
    for where, line in _lines(content, source):
        numbered = re.fullmatch(r"([0-9]+) (.*)", line)
        if numbered is None:
            raise malformed(where, "a number, a space and text", line)
        number = int(numbered[1])
        if number == 1:
            dialogues.append([])
        elif not dialogues or number != last + 1:
            raise malformed(where, f"number {last + 1}" + " or 1, for a new dialogue" * bool(last), line)
        dialogues[-1].append((where, numbered[2]))
        last = number
    return _gather((_parlai_dialogue(lines, str(n)) for n, lines in enumerate(dialogues)), source)


def parse_jsonl(content: bytes, source: str) -> Conversations:
    """Read JSON Lines: one object a line, each a row of `conversations_from_rows`.

    Args:
        content: the bytes of the file.
        source: its name in the result and in errors.

    Raises:
        ValueError: a line is not a JSON object, or the rows are not as `conversations_from_rows` expects.
    """

    def rows() -> Iterator[tuple[str, _Row]]:
        for where, line in _lines(content, source):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise malformed(where, f"a JSON object ({error.msg}, column {error.colno})", line) from error
            if not isinstance(row, dict):
                raise malformed(where, "a JSON object", line)
            yield where, row

    return _from_rows(rows(), source)


def conversations_from_rows(rows: Iterable[_Row], *, source: str) -> Conversations:
    """Read dialogues from rows that have one of four sets of columns; further columns are ignored.

    Args:
        rows: mappings, such as a `datasets.Dataset`, with the columns
            persona, turns and optionally id: strings, and a list of {query, response}. The format of this project.
            personality, utterances: strings, and a list of {history, candidates}; the last of each are the query
                and the reply. AlekseyKorshuk/persona-chat.
            personality, history, candidates, conv_id: the same, but one row for each reply; the rows of one
                dialogue are neighbours. bavard/personachat_truecased.
            user 2 personas, Best Generated Conversation: one sentence a line, and lines of "User 1:" and
                "User 2:", who replies. Successive lines of one user are joined. A last line of User 1 is dropped,
                because it has no reply. google/Synthetic-Persona-Chat.
        source: their name in the result and in errors.

    Raises:
        ValueError: there is no row, a row has other columns or values, or two dialogues have the same id.
    """
    return _from_rows(((f"{source}, row {number}", row) for number, row in enumerate(rows)), source)


def malformed(where: str, expected: str, seen: object) -> ValueError:
    """The error for malformed input: the place, what was expected there, and what was found, shortened."""
    shown = repr(seen)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ValueError(f"{where}: expected {expected}; got {shown}")


def _parlai_dialogue(lines: list[tuple[str, str]], name: str) -> Conversation:
    persona: list[str] = []
    turns: list[Turn] = []
    for where, text in lines:
        query, tab, rest = text.partition("\t")
        if tab:
            turns.append(_turn(query, rest.split("\t")[0], where))
        elif text.startswith("your persona:") and not turns:
            persona.append(_words(text.removeprefix("your persona:"), where, "a persona sentence"))
        elif not text.startswith("partner's persona:"):
            raise malformed(where, "<utterance> TAB <reply>, or before the first a persona line", text)
    return _dialogue(name, persona, turns, lines[0][0])


def _from_rows(rows: Iterable[tuple[str, _Row]], source: str) -> Conversations:
    # Neighbouring rows with the same conv_id are one dialogue; a row without a conv_id is a dialogue of its own.
    runs = groupby(enumerate(rows), key=lambda item: item[1][1].get("conv_id", (item[0],)))
    return _gather((_row_dialogue([row for _, row in run], n) for n, (_, run) in enumerate(runs)), source)


def _row_dialogue(rows: list[tuple[str, _Row]], number: int) -> Conversation:
    where, row = rows[0]
    name, persona = row.get("conv_id", number), row.get("personality")
    if {"persona", "turns"} <= row.keys():
        name, persona = row.get("id", number), row["persona"]
        entries = _list_of(row["turns"], dict, where, "turns")
        turns = [_turn(entry.get("query"), entry.get("response"), where) for entry in entries]
    elif {"personality", "utterances"} <= row.keys():
        turns = [_last_turn(entry, where) for entry in _list_of(row["utterances"], dict, where, "utterances")]
    elif {"personality", "history", "candidates", "conv_id"} <= row.keys():
        turns = [_last_turn(reply, place) for place, reply in rows]
    elif {"user 2 personas", "Best Generated Conversation"} <= row.keys():
        sentences = _text(row["user 2 personas"], where, "personas")
        persona = [line for line in sentences.splitlines() if line.strip()]
        turns = _script_turns(_text(row["Best Generated Conversation"], where, "a conversation"), where)
    else:
        raise malformed(where, "a set of columns that `conversations_from_rows` names", sorted(row))
    persona = [_words(line, where, "a sentence") for line in _list_of(persona, str, where, "a persona")]
    if not isinstance(name, str | int):
        raise malformed(where, "an id, a string or a number", name)
    return _dialogue(str(name), persona, turns, where)


def _last_turn(reply: _Row, where: str) -> Turn:
    history = _list_of(reply.get("history"), str, where, "a history")
    candidates = _list_of(reply.get("candidates"), str, where, "candidates")
    return _turn(history[-1] if history else "", candidates[-1] if candidates else "", where)


def _script_turns(script: str, where: str) -> list[Turn]:
    _, *parts = re.split(r"^User ([12]):", script, flags=re.MULTILINE)
    turns: list[Turn] = []
    query = ""
    for user, run in groupby(zip(parts[::2], parts[1::2], strict=True), key=lambda part: part[0]):
        said = " ".join(" ".join(words for _, words in run).split())
        if user == "2":
            turns.append(_turn(query, said, where))
        query = said
    return turns


def _gather(dialogues: Iterable[Conversation], source: str) -> Conversations:
    conversations = tuple(dialogues)
    if not conversations:
        raise malformed(source, "at least one dialogue", "")
    count = Counter(conversation.id for conversation in conversations)
    name, times = count.most_common(1)[0]
    if times > 1:
        raise malformed(source, "an id of its own for each dialogue, side by side if in rows", name)
    return Conversations(conversations, source)


def _dialogue(name: str, persona: list[str], turns: list[Turn], where: str) -> Conversation:
    if not turns:
        raise malformed(where, "a dialogue with an utterance and a reply", persona)
    return Conversation(id=name, persona=tuple(persona), turns=tuple(turns))


def _turn(query: object, response: object, where: str) -> Turn:
    return Turn(_text(query, where, "an utterance"), _words(response, where, "a reply"))


def _text(value: object, where: str, what: str) -> str:
    if not isinstance(value, str):
        raise malformed(where, f"{what}, a string", value)
    text = value.strip()
    return "" if text in ("__SILENCE__", "__ SILENCE __") else text


def _words(value: object, where: str, what: str) -> str:
    text = _text(value, where, what)
    if not text:
        raise malformed(where, f"{what} in words", value)
    return text


def _list_of(value: object, kind: type, where: str, what: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise malformed(where, f"{what}, a list of {kind.__name__}", value)
    return value


def _lines(content: bytes, source: str) -> Iterator[tuple[str, str]]:
    try:
        lines = content.decode("utf-8-sig").split("\n")  # not splitlines(): an utterance may hold U+2028
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start : error.start + 1]
        raise malformed(f"{source}:{number}", "UTF-8 (convert the file with iconv)", byte) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{source}:{number}", line.removesuffix("\r")
