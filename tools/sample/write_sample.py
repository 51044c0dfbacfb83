"""Writes the bundled sample: dialogues in which each reply depends on a persona and on the stage of the dialogue.

A dialogue opens with a greeting, goes through some topics (hobby, work, family, pet, taste) and ends with a farewell.
The order of the topics varies a little. A reply combines a clause about one fact of the persona with phrases of the
stage. Greetings and farewells have an emoji about half the time, other replies seldom. All personas of the validation
split are new, and some have a hobby or a job that training never shows. The phrases are in phrases.toml.

    python -m tools.sample.write_sample            writes train.txt and valid.txt in spt_core/sample
    python -m tools.sample.write_sample --check    writes nothing, and fails if the files differ from its output
"""

from __future__ import annotations

import argparse
import random
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

FOLDER = Path(__file__).parents[2] / "spt_core" / "sample"
"""Where train.txt and valid.txt are."""
SEED = 1
NUM_DIALOGUES = {"train": 440, "valid": 100}
NUM_PERSONAS = {"train": 330, "valid": 80}  # fewer than dialogues: as in ConvAI2, a persona may meet several partners
MAX_WORDS = 16
"""Most words of a reply. Punctuation marks count as words, an emoji does not."""

T = TypeVar("T")


class Fact(NamedTuple):
    """One fact about a person, with the clauses in which the person speaks of it.

    Args:
        emoji: an emoji that fits the fact.
        sentences: two persona sentences that state it; a persona has one of them.
        now: clause for a greeting.
        leave: clause for a farewell: a reason to go.
        says: clauses that answer the topic's questions.
        more: clauses that answer its follow-up questions.
    """

    emoji: str
    sentences: tuple[str, ...]
    now: str
    leave: str
    says: tuple[str, ...]
    more: tuple[str, ...]


class Topic(NamedTuple):
    """A topic between greeting and farewell.

    Args:
        facts: facts for personas of both splits; a persona has at most one fact of a topic.
        held_out: facts for personas of the validation split alone.
        questions: the partner's first question.
        follow_ups: the partner's second question.
        answers: what the partner says if the reply asked back.
        reactions: what the partner says if it did not.
        leads: first phrase of a reply to a question.
        leads_on: first phrase of a reply to a follow-up question.
        asks: last phrase of a reply that asks back.
        remarks: last phrase of a reply that does not.
    """

    facts: tuple[Fact, ...]
    held_out: tuple[Fact, ...]
    questions: tuple[str, ...]
    follow_ups: tuple[str, ...]
    answers: tuple[str, ...]
    reactions: tuple[str, ...]
    leads: tuple[str, ...]
    leads_on: tuple[str, ...]
    asks: tuple[str, ...]
    remarks: tuple[str, ...]


class Stages(NamedTuple):
    """The phrases of greeting and farewell.

    Args:
        greetings: the partner's greeting.
        hellos: first phrase of the reply to it.
        how_are_you: last phrase of that reply, if it asks back.
        how_i_am: what the partner says to that question.
        nods: what the partner says if there was no question.
        greeting_emoji: emoji of the reply.
        farewells: the partner's farewell.
        closings: first phrase of the reply to it.
        goodbyes: last phrase of that reply.
        farewell_emoji: emoji of the reply.
    """

    greetings: tuple[str, ...]
    hellos: tuple[str, ...]
    how_are_you: tuple[str, ...]
    how_i_am: tuple[str, ...]
    nods: tuple[str, ...]
    greeting_emoji: tuple[str, ...]
    farewells: tuple[str, ...]
    closings: tuple[str, ...]
    goodbyes: tuple[str, ...]
    farewell_emoji: tuple[str, ...]


class Persona(NamedTuple):
    """A person: facts by the name of their topic, and the persona sentences that state them."""

    facts: dict[str, Fact]
    sentences: tuple[str, ...]


class Dice:
    """Seeded choices that use `random()` alone, because its stream is the same in every version of Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def happens(self, probability: float) -> bool:
        """Whether an event of this probability happens."""
        return self._random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self._random() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        places = sorted((self._random(), place) for place in range(len(options)))
        return [options[place] for _, place in places]


class Chat:
    """The phrases of one dialogue: none is repeated while unused ones are left."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._used: set[str] = set()

    def phrase(self, options: Sequence[str]) -> str:
        """One of the options, if possible one that this dialogue has not used."""
        phrase = self._dice.pick([option for option in options if option not in self._used] or options)
        self._used |= {phrase} - {""}
        return phrase

    def reply(
        self, leads: Sequence[str], clauses: Sequence[str], *, asks: Sequence[str], remarks: Sequence[str]
    ) -> tuple[str, bool]:
        """A lead, a clause and sometimes a question or a remark, in at most MAX_WORDS; and whether it asks back."""
        clause = f"{self.phrase(clauses)} ."
        lead = self.phrase([lead for lead in leads if len(f"{lead} {clause}".split()) <= MAX_WORDS])
        reply = f"{lead} {clause}".strip()
        room = MAX_WORDS - len(reply.split())
        asking = bool(asks) and self._dice.happens(0.6)
        ends = [end for end in (asks if asking else remarks) if len(end.split()) <= room]
        if not ends or (room <= MAX_WORDS // 2 and self._dice.happens(0.4)):
            return reply, False
        return f"{reply} {self.phrase(ends)}", asking

    def emoji(self, probability: float, options: Sequence[str]) -> str:
        """A space and one of the options with this probability, else an empty string."""
        return f" {self._dice.pick(options)}" if self._dice.happens(probability) else ""


def main() -> None:
    """Write the two files of the sample, or with --check exit with status 1 if they differ."""
    parser = argparse.ArgumentParser(prog="python -m tools.sample.write_sample", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="compare the files, and write nothing")
    check: bool = parser.parse_args().check
    for split, text in texts().items():
        path = FOLDER / f"{split}.txt"
        if not check:
            path.write_bytes(text.encode())
        elif not path.is_file() or path.read_bytes() != text.encode():
            parser.exit(
                1, f"{path}: differs from the output of this program; run it without --check, or undo the edit\n"
            )


def texts() -> dict[str, str]:
    """The ParlAI text of each split, by its name: `train` and `valid`."""
    dice = Dice(SEED)
    taken: set[frozenset[Fact]] = set()
    return {split: "".join(_dialogues(split, dice, taken)) for split in NUM_DIALOGUES}


def _dialogues(split: str, dice: Dice, taken: set[frozenset[Fact]]) -> Iterator[str]:
    personas: list[Persona] = []
    while len(personas) < NUM_PERSONAS[split]:
        persona = _persona(dice, may_hold_out=split == "valid")
        facts = frozenset(persona.facts.values())
        if facts not in taken:
            taken.add(facts)
            personas.append(persona)
    again = [dice.pick(personas) for _ in range(NUM_DIALOGUES[split] - len(personas))]
    for persona in dice.shuffled(personas + again):
        lines = [f"your persona: {sentence}" for sentence in persona.sentences]
        lines += [f"{query}\t{reply}" for query, reply in _turns(persona, dice)]
        yield "".join(f"{number} {line}\n" for number, line in enumerate(lines, start=1))


def _persona(dice: Dice, *, may_hold_out: bool) -> Persona:
    facts: dict[str, Fact] = {}
    for name, topic in TOPICS.items():
        if name in ("hobby", "work", "family") or dice.happens(0.6):
            held_out = may_hold_out and topic.held_out and dice.happens(0.35)
            facts[name] = dice.pick(topic.held_out if held_out else topic.facts)
    sentences = [dice.pick(fact.sentences) for fact in facts.values()]
    return Persona(facts, tuple(dice.shuffled(sentences)))


def _turns(persona: Persona, dice: Dice) -> Iterator[tuple[str, str]]:
    chat = Chat(dice)
    plan = _plan(list(persona.facts), dice)
    # A greeting gives away no fact that the partner will ask about, except a hobby or a job.
    fact = dice.pick([fact for name, fact in persona.facts.items() if name in ("hobby", "work") or name not in plan])
    reply, asked = chat.reply(STAGES.hellos, (fact.now,), asks=STAGES.how_are_you, remarks=())
    yield chat.phrase(STAGES.greetings), reply + chat.emoji(0.5, (*STAGES.greeting_emoji, fact.emoji))
    link = chat.phrase(STAGES.how_i_am if asked else STAGES.nods)
    last = ""
    for name in plan:
        topic, fact = TOPICS[name], persona.facts[name]
        if name == last:
            question = chat.phrase(topic.follow_ups)
            reply, asked = chat.reply(topic.leads_on, fact.more, asks=(), remarks=topic.remarks)
        else:
            question = chat.phrase(topic.questions)
            reply, asked = chat.reply(topic.leads, fact.says, asks=topic.asks, remarks=topic.remarks)
        yield f"{link} {question}", reply + chat.emoji(0.08, (fact.emoji,))
        link = chat.phrase(topic.answers if asked else topic.reactions)
        last = name
    leave = dice.pick(list(persona.facts.values())).leave
    reply, _ = chat.reply(STAGES.closings, (leave,), asks=(), remarks=STAGES.goodbyes)
    yield f"{link} {chat.phrase(STAGES.farewells)}", reply + chat.emoji(0.6, STAGES.farewell_emoji)


def _plan(topics: list[str], dice: Dice) -> list[str]:
    """The topics of the 2 to 6 turns between greeting and farewell; a topic in two turns has a follow-up question."""
    num_turns = dice.pick(range(2, 7))
    num_topics = dice.pick(range((num_turns + 1) // 2, min(num_turns, len(topics)) + 1))
    chosen = sorted(dice.shuffled(topics)[:num_topics], key=topics.index)
    if num_topics > 1 and dice.happens(0.4):
        place = dice.pick(range(num_topics - 1))
        chosen[place], chosen[place + 1] = chosen[place + 1], chosen[place]
    followed_up = dice.shuffled(chosen)[: num_turns - num_topics]
    return [name for topic in chosen for name in [topic] * (1 + (topic in followed_up))]


def _read_phrases() -> tuple[Stages, dict[str, Topic]]:
    content = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))
    topics = {}
    for name, topic in content["topics"].items():
        facts = {kind: tuple(Fact(**_frozen(fact)) for fact in topic[kind]) for kind in ("facts", "held_out")}
        topics[name] = Topic(**{**_frozen(topic), **facts})
    return Stages(**_frozen(content["stages"])), topics


def _frozen(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


STAGES, TOPICS = _read_phrases()

if __name__ == "__main__":
    main()
