"""The committed sample equals the output of its program, and has the properties that training needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spt_core.conversations import load
from spt_core.dialogues import Conversations
from tests.conftest import PROJECT
from tools.sample import write_sample

FOLDER = PROJECT / "spt_core" / "sample"


@pytest.fixture(scope="module")
def train() -> Conversations:
    return load("sample:train")


@pytest.fixture(scope="module")
def valid() -> Conversations:
    return load("sample:valid")


@pytest.fixture(params=["train", "valid"])
def split(request: pytest.FixtureRequest) -> Conversations:
    return load(f"sample:{request.param}")


def responses(conversations: Conversations) -> list[str]:
    return [turn.response for conversation in conversations for turn in conversation.turns]


def has_emoji(text: str) -> bool:
    return not text.isascii()


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def test_the_committed_files_are_what_the_program_writes() -> None:
    committed = {name: (FOLDER / f"{name}.txt").read_bytes() for name in ("train", "valid")}
    assert {name: text.encode() for name, text in write_sample.texts().items()} == committed


def test_check_accepts_the_committed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["write_sample", "--check"])
    write_sample.main()


@pytest.mark.parametrize("edited", ["train.txt", "valid.txt"])
def test_check_fails_on_an_edited_or_missing_file_and_writing_repairs_it(
    edited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write_sample, "FOLDER", tmp_path)
    for content in (None, b"edited"):
        monkeypatch.setattr("sys.argv", ["write_sample"])
        write_sample.main()
        if content is None:
            (tmp_path / edited).unlink()
        else:
            (tmp_path / edited).write_bytes(content)
        monkeypatch.setattr("sys.argv", ["write_sample", "--check"])
        with pytest.raises(SystemExit, match="1"):
            write_sample.main()
        assert edited in capsys.readouterr().err
    assert (tmp_path / edited).read_bytes() == b"edited"
    monkeypatch.setattr("sys.argv", ["write_sample"])
    write_sample.main()
    assert (tmp_path / edited).read_bytes() == (FOLDER / edited).read_bytes()


def test_the_size_of_the_sample(train: Conversations, valid: Conversations) -> None:
    assert len(train) >= 400
    assert len(valid) >= 80
    assert (FOLDER / "train.txt").stat().st_size < 400_000


def test_dialogues_have_the_shape_of_convai2_ones(split: Conversations) -> None:
    assert {len(conversation.turns) for conversation in split} == {4, 5, 6, 7, 8}
    assert {len(conversation.persona) for conversation in split} == {3, 4, 5}
    for text in responses(split) + [turn.query for conversation in split for turn in conversation.turns]:
        assert text == text.lower()
        assert "  " not in text
        assert re.search(r"\w[.?!,]", text) is None, "punctuation stands apart in utterances"
    for conversation in split:
        for sentence in conversation.persona:
            assert sentence.isascii()
            assert re.search(r"\w\.$", sentence)


def test_replies_are_of_8_to_16_words(split: Conversations) -> None:
    lengths = [len([word for word in reply.split() if word.isascii()]) for reply in responses(split)]
    assert min(lengths) >= 8
    assert max(lengths) <= 16


def test_replies_are_diverse(train: Conversations) -> None:
    assert len(set(responses(train))) >= 0.8 * train.num_responses


def test_no_dialogue_repeats_a_line(split: Conversations) -> None:
    for conversation in split:
        assert len({turn.query for turn in conversation.turns}) == len(conversation.turns)
        assert len({turn.response for turn in conversation.turns}) == len(conversation.turns)


@pytest.mark.parametrize("seed", range(5))
def test_a_chat_repeats_no_phrase_while_others_are_left(seed: int) -> None:
    chat = write_sample.Chat(write_sample.Dice(seed))
    options = tuple("abcdefgh")
    assert sorted(chat.phrase(options) for _ in options) == list(options)
    assert chat.phrase(options) in options


def test_emoji_belong_to_greeting_and_farewell(split: Conversations) -> None:
    greeting = share([has_emoji(conversation.turns[0].response) for conversation in split])
    farewell = share([has_emoji(conversation.turns[-1].response) for conversation in split])
    between = share([has_emoji(turn.response) for conversation in split for turn in conversation.turns[1:-1]])
    assert 0.35 < greeting < 0.65
    assert 0.45 < farewell < 0.75
    assert 0.03 < between < 0.15


def test_first_last_and_other_replies_differ(train: Conversations) -> None:
    first = {conversation.turns[0].response for conversation in train}
    last = {conversation.turns[-1].response for conversation in train}
    between = {turn.response for conversation in train for turn in conversation.turns[1:-1]}
    assert not first & last
    assert not (first | last) & between


def test_replies_depend_on_the_persona(split: Conversations) -> None:
    """A dialogue shares more words with its own persona than with the persona of the next dialogue."""

    def content(texts: list[str] | tuple[str, ...]) -> set[str]:
        return {word for text in texts for word in re.findall(r"[a-z]{4,}", text)} - {"have", "with", "what"}

    spoken = [content([turn.response for turn in conversation.turns]) for conversation in split]
    personas = [content(conversation.persona) for conversation in split]
    own = sum(len(said & persona) for said, persona in zip(spoken, personas, strict=True))
    other = sum(len(said & persona) for said, persona in zip(spoken, personas[1:] + personas[:1], strict=True))
    assert own > 4 * other


def test_validation_personas_are_new_and_some_have_held_out_facts(train: Conversations, valid: Conversations) -> None:
    seen = {frozenset(conversation.persona) for conversation in train}
    assert not seen & {frozenset(conversation.persona) for conversation in valid}
    held_out = {
        sentence for topic in write_sample.TOPICS.values() for fact in topic.held_out for sentence in fact.sentences
    }
    assert held_out
    assert not any(held_out & persona for persona in seen)
    assert 0.3 < share([bool(held_out & set(conversation.persona)) for conversation in valid]) < 0.8


def test_training_shows_every_fact_that_is_not_held_out(train: Conversations) -> None:
    shown = {sentence for conversation in train for sentence in conversation.persona}
    for topic in write_sample.TOPICS.values():
        for fact in topic.facts:
            assert shown & set(fact.sentences), fact.sentences


def test_no_phrase_belongs_to_two_facts() -> None:
    facts = [fact for topic in write_sample.TOPICS.values() for fact in topic.facts + topic.held_out]
    phrases = [phrase for fact in facts for phrase in (*fact.sentences, fact.now, fact.leave, *fact.says, *fact.more)]
    assert len(set(phrases)) == len(phrases)


def test_personas_meet_more_than_one_partner(train: Conversations) -> None:
    """Otherwise a dev split by persona would equal a split by dialogue."""
    assert len({frozenset(conversation.persona) for conversation in train}) < 0.8 * len(train)
