"""Readers of ParlAI text, JSON Lines and rows, tested against a writer that shares no code with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spt_core.conversations import load
from spt_core.dialogue_formats import conversations_from_rows
from spt_core.dialogues import Conversation, Conversations, Turn
from tests.spt_core.conftest import Write
from tests.spt_core.two_dialogues import REPLIES, SCRIPTS, TWO, TWO_PARLAI, TWO_ROWS, UTTERANCES

# ParlAI text


def test_reads_personas_and_turns_in_order(write: Write) -> None:
    path = write("two.TXT", TWO_PARLAI)
    assert load(path) == load(str(path)) == TWO
    assert load(path).source == str(path)


@pytest.mark.parametrize(
    "dress",
    [
        pytest.param(lambda text: text.encode().replace(b"\n", b"\r\n"), id="windows line ends"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="byte-order mark"),
        pytest.param(lambda text: text.encode() + b"\n \r\n\n", id="blank lines at the end"),
        pytest.param(lambda text: text.encode().removesuffix(b"\n"), id="no line end at the end"),
        pytest.param(lambda text: text.replace("ahoy .", "ahoy .\t\tahoy .|nope .").encode(), id="candidates"),
        pytest.param(lambda text: text.replace("ahoy .", "ahoy .\t1.0\ta|b").encode(), id="reward and candidates"),
        pytest.param(lambda text: text.replace("ahoy .", "ahoy .\t").encode(), id="an empty field at the end"),
        pytest.param(lambda text: text.replace("persona: ", "persona:").encode(), id="no space after persona"),
        pytest.param(lambda text: text.replace("__SILENCE__", "").encode(), id="an empty utterance"),
        pytest.param(lambda text: text.replace("__SILENCE__", "__ SILENCE __").encode(), id="tokenised silence"),
        pytest.param(
            lambda text: (
                text.replace("3 me", "4 me")
                .replace("2 __SIL", "3 __SIL")
                .replace("1 your persona: i sail.", "1 partner's persona: i am a fish.\n2 your persona: i sail.")
                .encode()
            ),
            id="partner's persona",
        ),
    ],
)
def test_the_dialect_does_not_change_what_is_read(write: Write, dress: Callable[[str], bytes]) -> None:
    dressed = dress(TWO_PARLAI)
    assert dressed != TWO_PARLAI.encode()
    assert load(write("two.txt", dressed)) == TWO


def test_an_utterance_may_look_like_a_persona_line_or_hold_a_line_separator(write: Write) -> None:
    path = write("odd.txt", "1 your persona: really ?\tyes\u2028and no\n")
    assert load(path)[0].turns == (Turn("your persona: really ?", "yes\u2028and no"),)


GOOD = "1 your persona: i sail.\n2 hi\tahoy\n"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        pytest.param(GOOD + "your persona: i bake.\n", 3, "expected a number, a space", id="no number"),
        pytest.param(GOOD + "3\thi\tahoy\n", 3, "expected a number, a space", id="tab after the number"),
        pytest.param(GOOD + "3 bye\n", 3, "expected <utterance> TAB <reply>", id="no tab"),
        pytest.param(GOOD + "3 your persona: late.\n", 3, "expected <utterance> TAB", id="persona after a turn"),
        pytest.param(GOOD + "3 bye\r\n", 3, "got 'bye'$", id="no tab, windows line end"),
        pytest.param(GOOD + "3 bye\t\n", 3, "expected a reply in words; got ''", id="empty reply"),
        pytest.param(GOOD + "3 bye\t \t1\ta|b\n", 3, "expected a reply in words; got ' '", id="blank reply"),
        pytest.param(GOOD + "3 bye\t__SILENCE__\n", 3, "expected a reply in words", id="silent reply"),
        pytest.param(GOOD + "4 bye\tbye\n", 3, "expected number 3 or 1", id="number jumps"),
        pytest.param(GOOD + "2 bye\tbye\n", 3, "expected number 3 or 1", id="number repeats"),
        pytest.param("2 hi\tahoy\n", 1, r"expected number 1; got '2 hi", id="begins at 2"),
        pytest.param("\n\n1 your persona:  \n2 hi\tahoy\n", 3, "expected a persona sentence in words", id="no words"),
        pytest.param(GOOD + "1 your persona: i bake.\n" + GOOD, 3, "expected a dialogue with", id="no turns"),
        pytest.param(GOOD + "1 partner's persona: i bake.\n", 3, "expected a dialogue with", id="no turns at the end"),
        pytest.param(GOOD.encode() + b"3 caf\xe9\tyes\n", 3, r"expected UTF-8 .*got b'\\xe9'", id="not UTF-8"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(
    write: Write, content: str | bytes, line: int, message: str
) -> None:
    path = write("bad.txt", content)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}:{line}: ")


def test_the_text_in_an_error_is_shortened(write: Write) -> None:
    with pytest.raises(ValueError, match=r"\.\.\.$") as error:
        load(write("long.txt", "x" * 10_000))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("content", ["", "\n\r\n", "\ufeff"])
@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
def test_an_empty_file_is_refused(write: Write, name: str, content: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected at least one dialogue"):
        load(write(name, content))


words = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)
    .map(str.strip)
    .filter(lambda text: text not in ("", "__SILENCE__", "__ SILENCE __"))
)
dialogues = st.tuples(
    st.lists(words, max_size=3), st.lists(st.builds(Turn, st.just("") | words, words), min_size=1, max_size=4)
)
sets = st.lists(dialogues, min_size=1, max_size=4).map(
    lambda pairs: Conversations(
        tuple(Conversation(str(i), tuple(persona), tuple(turns)) for i, (persona, turns) in enumerate(pairs)),
        source="hypothesis",
    )
)


ends, marks = st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"])
silences, tails = st.sampled_from(["", "__SILENCE__"]), st.sampled_from(["", "\t", "\t0.5\ta|b"])


@settings(deadline=None)  # it writes files
@given(sets, st.tuples(ends, marks, silences, tails))
def test_parlai_text_and_json_lines_are_read_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, written: Conversations, dress: tuple[str, str, str, str]
) -> None:
    end, mark, silence, tail = dress
    parlai, jsonl = mark, mark
    for conversation in written:
        lines = [f"your persona: {sentence}" for sentence in conversation.persona]
        lines += [f"{turn.query or silence}\t{turn.response}{tail}" for turn in conversation.turns]
        parlai += "".join(f"{number} {line}{end}" for number, line in enumerate(lines, start=1))
        turns = [{"query": turn.query, "response": turn.response} for turn in conversation.turns]
        jsonl += json.dumps({"persona": conversation.persona, "turns": turns}, ensure_ascii=False) + end
    folder = tmp_path_factory.mktemp("round_trip")
    (folder / "a.txt").write_bytes(parlai.encode())
    (folder / "a.jsonl").write_bytes(jsonl.encode())
    from_parlai, from_jsonl = load(folder / "a.txt"), load(folder / "a.jsonl")
    assert from_parlai == from_jsonl == written
    assert from_parlai.fingerprint == from_jsonl.fingerprint == written.fingerprint


# JSON Lines and rows


def test_json_lines_may_have_ids(write: Write) -> None:
    rows = [{**TWO_ROWS[0], "id": "a"}, {**TWO_ROWS[1], "id": 7}]
    read = load(write("two.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert [conversation.id for conversation in read] == ["a", "7"]
    assert read.fingerprint == TWO.fingerprint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{", r"expected a JSON object \(.*column 2\); got '\{'", id="not JSON"),
        pytest.param("[]", r"expected a JSON object; got '\[\]'", id="not an object"),
        pytest.param('{"personas": [], "turns": []}', r"expected a set of columns .*got \['personas'", id="columns"),
        pytest.param('{"persona": "i sail.", "turns": []}', "expected a persona, a list of str", id="persona"),
        pytest.param('{"persona": [1], "turns": []}', r"expected a persona, a list of str; got \[1\]", id="number"),
        pytest.param('{"persona": [""], "turns": []}', "expected a sentence in words", id="empty sentence"),
        pytest.param('{"persona": [], "turns": []}', "expected a dialogue with", id="no turns"),
        pytest.param('{"persona": [], "turns": ["hi"]}', "expected turns, a list of dict", id="turn"),
        pytest.param('{"persona": [], "turns": [{"response": "a"}]}', "expected an utterance, a str", id="no query"),
        pytest.param('{"persona": [], "turns": [{"query": "a"}]}', "expected a reply, a str", id="no response"),
        pytest.param(
            '{"persona": [], "turns": [{"query": "a", "response": "b"}], "id": null}', "expected an id", id="id"
        ),
    ],
)
def test_a_malformed_object_is_named_by_file_and_line(write: Write, line: str, message: str) -> None:
    path = write("bad.jsonl", json.dumps(TWO_ROWS[0]) + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}:3: ")


def test_two_dialogues_may_not_have_one_id(write: Write) -> None:
    rows = [{**TWO_ROWS[0], "id": "1"}, TWO_ROWS[1]]  # the second is number 1
    with pytest.raises(ValueError, match=r"an id of its own for each dialogue.*got '1'"):
        load(write("twice.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))


@pytest.mark.parametrize(
    "rows", [TWO_ROWS, UTTERANCES, REPLIES, SCRIPTS], ids=["ours", "utterances", "replies", "scripts"]
)
def test_every_known_set_of_columns_gives_the_same_dialogues(rows: list[dict[str, Any]]) -> None:
    read = conversations_from_rows(datasets.Dataset.from_list(rows), source="hub")
    assert read == TWO
    assert read.source == "hub"


def test_utterances_of_one_user_in_a_row_are_joined() -> None:
    script = "User 1: hi .\nUser 1: you ?\nUser 2: yes .\nUser 2: me ."
    rows = [{"user 2 personas": "i sail.", "Best Generated Conversation": script}]
    assert conversations_from_rows(rows, source="hub")[0].turns == (Turn("hi . you ?", "yes . me ."),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([], "hub: expected at least one dialogue", id="none"),
        pytest.param([UTTERANCES[0], {"text": "hi"}], r"hub, row 1: .*got \['text'\]", id="columns"),
        pytest.param([{**UTTERANCES[0], "utterances": []}], "hub, row 0: expected a dialogue", id="no utterance"),
        pytest.param([{**REPLIES[0], "candidates": []}], "hub, row 0: expected a reply in words", id="no candidates"),
        pytest.param([REPLIES[0], {**REPLIES[1], "history": None}], "hub, row 1: expected a history", id="no history"),
        pytest.param([REPLIES[0], REPLIES[2], REPLIES[1]], "an id of its own.*got '0'", id="scattered"),
        pytest.param(
            [{**SCRIPTS[0], "Best Generated Conversation": "they talk"}], "hub, row 0: expected a dialogue", id="script"
        ),
    ],
)
def test_a_malformed_row_is_named_by_source_and_number(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conversations_from_rows(rows, source="hub")
