"""Reads the persona dialogues of a source, and carves a dev set out of a training set."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from spt_core.dialogue_formats import conversations_from_rows, malformed, parse_jsonl, parse_parlai
from spt_core.dialogues import Conversations

_SOURCES = (
    "a .txt (ParlAI) or .jsonl file, sample:train, sample:valid, hf://datasets/OWNER/NAME[@REVISION]/FILE "
    "or hf://OWNER/NAME[/FOLDER][@REVISION][:SPLIT]"
)

_PARSERS: dict[str, Callable[[bytes, str], Conversations]] = {".txt": parse_parlai, ".jsonl": parse_jsonl}
_HUB_FILE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/\w+/[^/]+|[^/]+))?/(.+)")
_HUB_ROWS = re.compile(r"hf://(?!datasets/)([^/@:]+/[^/@:]+)(?:/([^@:]+))?(?:@([^:]+))?(?::(.+))?")


def load(source: str | Path) -> Conversations:
    """Read every dialogue of a source.

    Args:
        source: one of
            FILE.txt: ParlAI text (Zhang et al. 2018, ConvAI2). Each line is a number, a space and either
                `your persona: <sentence>` or `<utterance> TAB <reply>`, which a reward and candidates may
                follow; number 1 begins a dialogue. `partner's persona:` lines, blank lines, a byte-order
                mark and Windows line ends are ignored, and `__SILENCE__` is read as "".
            FILE.jsonl: a JSON object a line, each a row of `conversations_from_rows`.
            sample:train, sample:valid: the sample in this package.
            hf://datasets/OWNER/NAME[@REVISION]/FILE: a .txt or .jsonl file in a Hub data set.
            hf://OWNER/NAME[/FOLDER][@REVISION][:SPLIT]: the rows of a Hub data set, or of a folder in it, read
                by `conversations_from_rows`; the default split is `train`. A data set that is a script is read
                from its Parquet branch: hf://bavard/personachat_truecased/full@refs/convert/parquet:train.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the source is none of these, cannot be fetched, or is malformed; the message names the place,
            what was expected and what was found.
    """
    name = str(source)
    if name.startswith("hf://"):
        return _load_from_hub(name)
    if name in ("sample:train", "sample:valid"):
        sample = resources.files("spt_core.sample") / f"{name.removeprefix('sample:')}.txt"
        return parse_parlai(sample.read_bytes(), name)
    path = Path(source)
    parse = _PARSERS.get(path.suffix.lower())
    if "://" in name or parse is None:
        raise malformed("conversations", _SOURCES, name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such file; looked for {path.absolute()}")
    return parse(path.read_bytes(), name)


def split_dev(conversations: Conversations, *, num_dialogues: int, seed: int) -> tuple[Conversations, Conversations]:
    """Carve a dev set out of a training set, with personas disjoint from the rest.

    No persona, as a set of sentences, is on both sides. Dialogues with the same set are on the same side, whatever
    the order of its sentences. A dialogue without a persona is a group of its own. A single sentence may be on both
    sides, because in ConvAI2 the chains of dialogues that share a sentence are too long to keep together.

    Args:
        conversations: the set to divide.
        num_dialogues: minimum size of the dev set; whole personas are taken until it is reached.
        seed: chooses the personas; the order of the dialogues does not matter.

    Returns:
        The training set and the dev set, each in the order of `conversations`.

    Raises:
        ValueError: `num_dialogues` is below 1 or would leave no training dialogues.
    """
    members: dict[tuple[str, ...], list[int]] = {}
    for index, conversation in enumerate(conversations):
        persona = tuple(sorted(set(conversation.persona))) or ("", conversation.id)
        members.setdefault(persona, []).append(index)
    # A rank by hash, unlike a shuffle, is the same in every version of Python.
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
        raise malformed("conversations", _SOURCES, source)
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
