"""What a persona dialogue is: turns, a dialogue, and an immutable set of dialogues with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: the partner's utterance and the reply of the persona's owner.

    Args:
        query: the partner's utterance; "" if the persona's owner speaks first.
        response: the reply; the readers refuse an empty one.
    """

    query: str
    response: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One dialogue, seen from the side of one persona.

    Args:
        id: unique within its source and stable: the id that the source gives, else the index in it ("0", "1", ...).
        persona: the sentences that describe the persona's owner, in the order of the source.
        turns: the exchanges, first to last.
    """

    id: str
    persona: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, repr=False)
class Conversations(Sequence[Conversation]):
    """An immutable sequence of dialogues with the name of their source, which equality ignores."""

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
        """Number of replies in all dialogues; each reply is one example."""
        return sum(len(conversation.turns) for conversation in self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all personas and turns in order; ids, source and file format do not change it."""
        digest = hashlib.sha256()
        for conversation in self:
            turns = [(turn.query, turn.response) for turn in conversation.turns]
            digest.update(json.dumps((conversation.persona, turns)).encode() + b"\n")
        return digest.hexdigest()
