"""Persona dialogues: what one is, how a set of them is read, and how a dev set is carved out of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, overload

_SOURCES = (
    "a .txt (ParlAI) or .jsonl file, sample:train, sample:valid, hf://datasets/OWNER/NAME[@REVISION]/FILE "
    "or hf://OWNER/NAME[/FOLDER][@REVISION][:SPLIT]"
)

_Row = Mapping[str, Any]
_HUB_FILE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/\w+/[^/]+|[^/]+))?/(.+)")
_HUB_ROWS = re.compile(r"hf://(?!datasets/)([^/@:]+/[^/@:]+)(?:/([^@:]+))?(?:@([^:]+))?(?::(.+))?")


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the partner says and what the persona's owner replies.

    Args:
        query: the partner's utterance, "" where the persona's owner speaks first.
        response: the reply, never empty in a set that was read.
    """

    query: str
    response: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One dialogue, seen from the side of one persona.

    Args:
        id: unique within its source and stable: the id given there, else its number there ("0", "1", ...).
        persona: the sentences that describe the persona's owner, in the order of the source.
        turns: the exchanges, first to last.
    """

    id: str
    persona: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, repr=False)
class Conversations(Sequence[Conversation]):
    """An immutable sequence of dialogues that knows its source; equal to another with the same dialogues."""

    conversations: tuple[Conversation, ...]
    source: str = field(compare=False)

    def __len__(self) -> int:
        return len(self.conversations)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...

    @overload
    def __getitem__(self, index: slice) -> Conversations: ...

    def __getitem__(self, index: int | slice) -> Conversation | Conversations:
        if isinstance(index, slice):
            return Conversations(self.conversations[index], self.source)
        return self.conversations[index]

    def __repr__(self) -> str:
        return f"<Conversations {self.source}: {len(self)} dialogues, {self.num_responses} responses>"

    @property
    def num_responses(self) -> int:
        """How many replies the dialogues hold: each is one example."""
        return sum(len(conversation.turns) for conversation in self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of every persona and turn in order. Ids, source and file format are not in it."""
        digest = hashlib.sha256()
        for conversation in self:
            turns = [(turn.query, turn.response) for turn in conversation.turns]
            digest.update(json.dumps((conversation.persona, turns)).encode() + b"\n")
        return digest.hexdigest()


def load(source: str | Path) -> Conversations:
    """Read every dialogue of a source.

    Args:
        source: one of
            FILE.txt: ParlAI text (Zhang et al. 2018, ConvAI2). Each line is a number, a space and either
                `your persona: <sentence>` or `<utterance> TAB <reply>`, which a reward and candidates may
                follow; number 1 begins a dialogue. `partner's persona:` lines, blank lines, a byte-order
                mark and Windows line ends are passed over, and `__SILENCE__` is read as "".
            FILE.jsonl: a JSON object a line, read as a row by `conversations_from_rows`.
            sample:train, sample:valid: the sample that comes with this package.
            hf://datasets/OWNER/NAME[@REVISION]/FILE: such a .txt or .jsonl file in a Hub data set.
            hf://OWNER/NAME[/FOLDER][@REVISION][:SPLIT]: the rows of a Hub data set, or of a folder of it, as
                read by `conversations_from_rows`; split `train` unless named. One that is a script is read
                from its Parquet branch: hf://bavard/personachat_truecased/full@refs/convert/parquet:train.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the source is none of these, cannot be fetched, or is not what it says; with the place,
            what was expected and what was seen.
    """
    name = str(source)
    if name.startswith("hf://"):
        return _load_from_hub(name)
    if name in ("sample:train", "sample:valid"):
        sample = resources.files("spt_core.sample") / f"{name.removeprefix('sample:')}.txt"
        return _parse_parlai(sample.read_bytes(), name)
    path = Path(source)
    parse = _PARSERS.get(path.suffix.lower())
    if "://" in name or parse is None:
        raise _malformed("conversations", _SOURCES, name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such file; looked for {path.absolute()}")
    return parse(path.read_bytes(), name)


def conversations_from_rows(rows: Iterable[_Row], *, source: str) -> Conversations:
    """Read dialogues from rows that have one of four sets of columns; further columns are ignored.

    Args:
        rows: mappings, such as a `datasets.Dataset`, with the columns
            persona, turns and, where wanted, id: strings, and a list of {query, response}. Our own.
            personality, utterances: strings, and a list of {history, candidates}, whose last ones are the
                query and the reply. AlekseyKorshuk/persona-chat.
            personality, history, candidates, conv_id: the same, but a row for each reply, the rows of one
                dialogue side by side. bavard/personachat_truecased.
            user 2 personas, Best Generated Conversation: a sentence a line, and lines of "User 1:" and
                "User 2:", who replies; lines of one user in a row are joined, and a last line of User 1 is
                dropped, as it has no reply. google/Synthetic-Persona-Chat.
        source: what the result and errors call them.

    Raises:
        ValueError: there is no row, a row has other columns or values, or two dialogues have one id.
    """
    return _from_rows(((f"{source}, row {number}", row) for number, row in enumerate(rows)), source)


def split_dev(conversations: Conversations, *, num_dialogues: int, seed: int) -> tuple[Conversations, Conversations]:
    """Carve a dev set out of a training set, with personas disjoint from the rest.

    Disjoint means: no persona, as a set of sentences, is on both sides. Dialogues with one set go together,
    whatever the order of its sentences; a dialogue without a persona goes alone. A single sentence may be on
    both sides: in ConvAI2 the chains of dialogues that share a sentence are too long to keep together.

    Args:
        conversations: the set to divide.
        num_dialogues: the least size of the dev set; whole personas are taken until it is reached.
        seed: chooses the personas, whatever the order of the dialogues.

    Returns:
        The training set and the dev set, each in the order of `conversations`.

    Raises:
        ValueError: `num_dialogues` is below 1 or would leave nothing to train on.
    """
    members: dict[tuple[str, ...], list[int]] = {}
    for index, conversation in enumerate(conversations):
        persona = tuple(sorted(set(conversation.persona))) or ("", conversation.id)
        members.setdefault(persona, []).append(index)
    # Ranked by a hash, not shuffled: the same on every version of Python.
    ranked = sorted(members, key=lambda it: hashlib.sha256(json.dumps((seed, it)).encode()).digest())
    most = len(conversations) - len(members[ranked[-1]]) if ranked else 0
    if not 1 <= num_dialogues <= most:
        raise ValueError(
            f"num_dialogues: expected 1 to {most}; got {num_dialogues}. {conversations.source} has "
            f"{len(conversations)} dialogues of {len(ranked)} personas, and training needs one persona"
        )
    in_dev: set[int] = set()
    for persona in ranked:
        if len(in_dev) < num_dialogues:
            in_dev.update(members[persona])
    train = tuple(conversation for i, conversation in enumerate(conversations) if i not in in_dev)
    dev = tuple(conversation for i, conversation in enumerate(conversations) if i in in_dev)
    return Conversations(train, conversations.source), Conversations(dev, conversations.source)


def _load_from_hub(source: str) -> Conversations:
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    if match := _HUB_ROWS.fullmatch(source):
        repo, folder, revision, split = match.groups()
        with _hub_errors_named(source):
            rows = load_dataset(repo, data_dir=folder, revision=revision, split=split or "train")
        return conversations_from_rows(rows, source=source)
    match = _HUB_FILE.fullmatch(source)
    parse = _PARSERS.get(Path(source).suffix.lower())
    if match is None or parse is None:
        raise _malformed("conversations", _SOURCES, source)
    repo, revision, file = match.groups()
    with _hub_errors_named(source):
        path = hf_hub_download(repo, file, repo_type="dataset", revision=revision)
    return parse(Path(path).read_bytes(), source)


@contextmanager
def _hub_errors_named(source: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, RuntimeError, ValueError, DatasetsError) as error:
        raise ValueError(f"{source}: not fetched; check name, network and token: {error}") from error


def _parse_parlai(content: bytes, source: str) -> Conversations:
    dialogues: list[list[tuple[str, str]]] = []
    last = 0
    for where, line in _lines(content, source):
        numbered = re.fullmatch(r"([0-9]+) (.*)", line)
        if numbered is None:
            raise _malformed(where, "a number, a space and text", line)
        number = int(numbered[1])
        if number == 1:
            dialogues.append([])
        elif not dialogues or number != last + 1:
            raise _malformed(where, f"number {last + 1}" + " or 1, for a new dialogue" * bool(last), line)
        dialogues[-1].append((where, numbered[2]))
        last = number
    return _gather((_parlai_dialogue(lines, str(n)) for n, lines in enumerate(dialogues)), source)


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
            raise _malformed(where, "<utterance> TAB <reply>, or before the first a persona line", text)
    return _dialogue(name, persona, turns, lines[0][0])


def _parse_jsonl(content: bytes, source: str) -> Conversations:
    def rows() -> Iterator[tuple[str, _Row]]:
        for where, line in _lines(content, source):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise _malformed(where, f"a JSON object ({error.msg}, column {error.colno})", line) from error
            if not isinstance(row, dict):
                raise _malformed(where, "a JSON object", line)
            yield where, row

    return _from_rows(rows(), source)


_PARSERS: dict[str, Callable[[bytes, str], Conversations]] = {".txt": _parse_parlai, ".jsonl": _parse_jsonl}


def _from_rows(rows: Iterable[tuple[str, _Row]], source: str) -> Conversations:
    # Neighbours with one conv_id are one dialogue; a row without a conv_id is one by itself.
    runs = groupby(enumerate(rows), key=lambda item: item[1][1].get("conv_id", (item[0],)))
    return _gather((_row_dialogue([row for _, row in run], n) for n, (_, run) in enumerate(runs)), source)


def _row_dialogue(rows: list[tuple[str, _Row]], number: int) -> Conversation:
    where, row = rows[0]
    name, persona = row.get("conv_id", number), row.get("personality")
    if {"persona", "turns"} <= row.keys():
        name, persona = row.get("id", number), row["persona"]
        entries = _list(row["turns"], dict, where, "turns")
        turns = [_turn(entry.get("query"), entry.get("response"), where) for entry in entries]
    elif {"personality", "utterances"} <= row.keys():
        turns = [_last_turn(entry, where) for entry in _list(row["utterances"], dict, where, "utterances")]
    elif {"personality", "history", "candidates", "conv_id"} <= row.keys():
        turns = [_last_turn(reply, place) for place, reply in rows]
    elif {"user 2 personas", "Best Generated Conversation"} <= row.keys():
        sentences = _text(row["user 2 personas"], where, "personas")
        persona = [line for line in sentences.splitlines() if line.strip()]
        turns = _script_turns(_text(row["Best Generated Conversation"], where, "a conversation"), where)
    else:
        raise _malformed(where, "a set of columns that `conversations_from_rows` names", sorted(row))
    persona = [_words(line, where, "a sentence") for line in _list(persona, str, where, "a persona")]
    if not isinstance(name, str | int):
        raise _malformed(where, "an id, a string or a number", name)
    return _dialogue(str(name), persona, turns, where)


def _last_turn(reply: _Row, where: str) -> Turn:
    history = _list(reply.get("history"), str, where, "a history")
    candidates = _list(reply.get("candidates"), str, where, "candidates")
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
        raise _malformed(source, "at least one dialogue", "")
    count = Counter(conversation.id for conversation in conversations)
    name, times = count.most_common(1)[0]
    if times > 1:
        raise _malformed(source, "an id of its own for each dialogue, side by side if in rows", name)
    return Conversations(conversations, source)


def _dialogue(name: str, persona: list[str], turns: list[Turn], where: str) -> Conversation:
    if not turns:
        raise _malformed(where, "a dialogue with an utterance and a reply", persona)
    return Conversation(id=name, persona=tuple(persona), turns=tuple(turns))


def _turn(query: object, response: object, where: str) -> Turn:
    return Turn(_text(query, where, "an utterance"), _words(response, where, "a reply"))


def _text(value: object, where: str, what: str) -> str:
    if not isinstance(value, str):
        raise _malformed(where, f"{what}, a string", value)
    text = value.strip()
    return "" if text in ("__SILENCE__", "__ SILENCE __") else text


def _words(value: object, where: str, what: str) -> str:
    text = _text(value, where, what)
    if not text:
        raise _malformed(where, f"{what} in words", value)
    return text


def _list(value: object, kind: type, where: str, what: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise _malformed(where, f"{what}, a list of {kind.__name__}", value)
    return value


def _lines(content: bytes, source: str) -> Iterator[tuple[str, str]]:
    try:
        lines = content.decode("utf-8-sig").split("\n")  # not splitlines(): an utterance may hold U+2028
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start : error.start + 1]
        raise _malformed(f"{source}:{number}", "UTF-8 (convert the file with iconv)", byte) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{source}:{number}", line.removesuffix("\r")


def _malformed(where: str, expected: str, seen: object) -> ValueError:
    shown = repr(seen)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return ValueError(f"{where}: expected {expected}; got {shown}")
