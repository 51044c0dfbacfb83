"""Readers are held to a writer of our own here, the splitter to the laws that its docstring states."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spt_core.conversations import Conversation, Conversations, Turn, conversations_from_rows, load, split_dev

CONVAI2 = Path(__file__).parents[2].parent / "shared" / "data" / "convai2"
needs_convai2 = pytest.mark.skipif(not CONVAI2.is_dir(), reason="no ConvAI2 data in ../shared/data/convai2")

FIRST = Conversation("0", ("i bake.", "i have a dog."), (Turn("hi !", "hello , you ?"), Turn("bye .", "bye ! 🥖")))
SECOND = Conversation("1", ("i sail.",), (Turn("", "anyone there ?"), Turn("me .", "ahoy .")))
TWO = Conversations((FIRST, SECOND), source="memory")
TWO_PARLAI = """\
1 your persona: i bake.
2 your persona: i have a dog.
3 hi !\thello , you ?
4 bye .\tbye ! 🥖
1 your persona: i sail.
2 __SILENCE__\tanyone there ?
3 me .\tahoy .
"""
TWO_ROWS = [
    {
        "persona": list(conversation.persona),
        "turns": [{"query": turn.query, "response": turn.response} for turn in conversation.turns],
    }
    for conversation in TWO
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


Write = Callable[[str, str | bytes], Path]


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


def test_what_was_seen_is_shortened(write: Write) -> None:
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
def test_parlai_text_and_json_lines_give_back_what_was_written(
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


def test_json_lines_may_bring_ids_of_their_own(write: Write) -> None:
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


def exchange(*history: str, gold: str) -> dict[str, list[str]]:
    return {"history": list(history), "candidates": ["a distractor .", gold]}


UTTERANCES = [
    {
        "personality": ["i bake.", "i have a dog."],
        "utterances": [
            exchange("hi !", gold="hello , you ?"),
            exchange("hi !", "hello , you ?", "bye .", gold="bye ! 🥖"),
        ],
    },
    {
        "personality": ["i sail."],
        "utterances": [
            exchange("__ SILENCE __", gold="anyone there ?"),
            exchange("__ SILENCE __", "anyone there ?", "me .", gold="ahoy ."),
        ],
    },
]
REPLIES = [
    {"personality": row["personality"], "conv_id": number, "utterance_idx": index, **utterance}
    for number, row in enumerate(UTTERANCES)
    for index, utterance in enumerate(row["utterances"])
]
SCRIPTS = [
    {
        "user 1 personas": "i am a fish.",
        "user 2 personas": "i bake.\n \ni have a dog.",
        "Best Generated Conversation": "User 1: hi !\nUser 2: hello , you ?\n\nUser 1: bye .\nUser 2: bye ! 🥖",
    },
    {
        "user 1 personas": "i am a fish.",
        "user 2 personas": "i sail.\n",
        "Best Generated Conversation": "User 2: anyone\nthere ?\nUser 1: me .\nUser 2: ahoy .\nUser 1: oh .",
    },
]


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


# Sources


@pytest.mark.parametrize(
    ("source", "called_with"),
    [
        ("hf://owner/name", ("owner/name", {"data_dir": None, "revision": None, "split": "train"})),
        ("hf://owner/name:test", ("owner/name", {"data_dir": None, "revision": None, "split": "test"})),
        (
            "hf://owner/name/full@refs/convert/parquet:validation",
            ("owner/name", {"data_dir": "full", "revision": "refs/convert/parquet", "split": "validation"}),
        ),
    ],
)
def test_a_hub_data_set_is_opened_by_datasets(
    monkeypatch: pytest.MonkeyPatch, source: str, called_with: tuple[str, dict[str, Any]]
) -> None:
    calls = []

    def load_dataset(name: str, **options: Any) -> datasets.Dataset:
        calls.append((name, options))
        return datasets.Dataset.from_list(UTTERANCES)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read = load(source)
    assert calls == [called_with]
    assert read == TWO
    assert read.source == source


@pytest.mark.parametrize(
    ("source", "called_with"),
    [
        ("hf://datasets/owner/name/two.txt", ("owner/name", "two.txt", None)),
        ("hf://datasets/owner/name@v1/data/two.TXT", ("owner/name", "data/two.TXT", "v1")),
        ("hf://datasets/owner/name@refs/pr/3/two.txt", ("owner/name", "two.txt", "refs/pr/3")),
    ],
)
def test_a_file_in_a_hub_data_set_is_downloaded_and_read(
    monkeypatch: pytest.MonkeyPatch, write: Write, source: str, called_with: tuple[str, str, str | None]
) -> None:
    calls = []

    def download(repo: str, file: str, *, repo_type: str, revision: str | None) -> str:
        assert repo_type == "dataset"
        calls.append((repo, file, revision))
        return str(write("cached", TWO_PARLAI))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    read = load(source)
    assert calls == [called_with]
    assert read == TWO
    assert read.source == source


@pytest.mark.parametrize("error", [OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError])
def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("no such thing")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    for source in ("hf://owner/name", "hf://datasets/owner/name/a.txt"):
        with pytest.raises(ValueError, match=f"{source}: not fetched; .*token: no such thing"):
            load(source)


@pytest.mark.parametrize(
    "source",
    [
        "dialogues.csv",
        "dialogues",
        "sample:test",
        "s3://bucket/train.txt",
        "hf://name",
        "hf://datasets/owner/name",
        "hf://datasets/owner/name/train.csv",
    ],
)
def test_an_unknown_source_is_refused_with_those_that_would_do(source: str) -> None:
    with pytest.raises(ValueError, match=r"expected a \.txt .*sample:train.*hf://OWNER/NAME") as error:
        load(source)
    assert repr(source) in str(error.value)


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        load("missing.txt")
    assert str(error.value) == f"missing.txt: there is no such file; looked for {tmp_path / 'missing.txt'}"


def test_reading_a_file_does_not_import_datasets() -> None:
    program = "import sys; from spt_core.conversations import load; load('sample:valid'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "datasets" not in run.stdout.split()


# Conversations


def test_is_a_sequence_whose_slices_keep_the_source() -> None:
    assert (len(TWO), TWO.num_responses) == (2, 4)
    assert list(TWO) == [FIRST, SECOND]
    assert TWO[-1] is SECOND
    assert TWO[1:] == Conversations((SECOND,), source="another source")
    assert TWO[1:].source == TWO.source
    assert "memory: 2 dialogues, 4 responses" in repr(TWO)


def test_the_fingerprint_is_the_one_recorded() -> None:
    """Trial keys hold it: a change would make every finished trial look new."""
    assert TWO.fingerprint == "ecd9d08ceed48964ac235f52226cc2b110e0e3bd9ee9b8a42764f54339fd93a4"


@pytest.mark.parametrize(
    "changed",
    [
        (SECOND, FIRST),
        (FIRST,),
        (Conversation("0", ("i bake.",), FIRST.turns), SECOND),
        (Conversation("0", FIRST.persona[::-1], FIRST.turns), SECOND),
        (Conversation("0", FIRST.persona, (Turn("hi", "! hello , you ?"), FIRST.turns[1])), SECOND),
        (Conversation("0", FIRST.persona, FIRST.turns + SECOND.turns),),
    ],
    ids=["order", "fewer", "persona", "order of persona", "where the reply begins", "where the dialogue ends"],
)
def test_the_fingerprint_tells_contents_apart(changed: tuple[Conversation, ...]) -> None:
    assert Conversations(changed, source="memory").fingerprint != TWO.fingerprint


# The dev split


def talk(number: int, *persona: str) -> Conversation:
    return Conversation(str(number), persona, (Turn("hi", f"i am number {number}"),))


def test_the_dev_split_is_the_one_recorded() -> None:
    """A cell run today is paired with one run last month: the split may not depend on hash seed or version."""
    made = Conversations(tuple(talk(number, f"i am {number % 12}.") for number in range(24)), source="made")
    train, dev = split_dev(made, num_dialogues=5, seed=3)
    assert [conversation.id for conversation in dev] == ["0", "3", "5", "12", "15", "17"]
    assert len(train) == 24 - len(dev)


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=3), min_size=2, max_size=30),
    st.integers(1, 30),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_dev_personas_are_disjoint_from_training_ones(
    personas: list[list[str]], num_dialogues: int, seed: int, random: Any
) -> None:
    made = Conversations(tuple(talk(number, *persona) for number, persona in enumerate(personas)), source="made")
    groups = [frozenset(persona) or frozenset({("alone", i)}) for i, persona in enumerate(personas)]
    try:
        train, dev = split_dev(made, num_dialogues=num_dialogues, seed=seed)
    except ValueError:
        assert num_dialogues > len(groups) - max(groups.count(group) for group in groups)
        return
    in_train = {groups[int(conversation.id)] for conversation in train}
    in_dev = [groups[int(conversation.id)] for conversation in dev]
    assert train
    assert not in_train & set(in_dev)
    assert sorted([*train, *dev], key=lambda each: int(each.id)) == list(made)
    for half in (train, dev):
        assert [int(each.id) for each in half] == sorted(int(each.id) for each in half)
    assert num_dialogues <= len(dev) < num_dialogues + max(in_dev.count(group) for group in in_dev)

    order = list(made)
    random.shuffle(order)
    _, again = split_dev(Conversations(tuple(order), source="made"), num_dialogues=num_dialogues, seed=seed)
    assert set(again) == set(dev)


def test_the_order_and_number_of_persona_sentences_do_not_part_dialogues() -> None:
    same = [talk(number, *sentences) for number, sentences in enumerate(itertools.permutations("abc"))]
    made = Conversations((*same, talk(6, "a", "b", "c", "a"), talk(7, "a", "b")), source="made")
    sizes = {len(split_dev(made, num_dialogues=1, seed=seed)[1]) for seed in range(20)}
    assert sizes == {1, 7}


def test_seeds_choose_different_personas() -> None:
    made = Conversations(tuple(talk(number, f"i am {number}.") for number in range(20)), source="made")
    chosen = {split_dev(made, num_dialogues=5, seed=seed)[1] for seed in range(10)}
    assert len(chosen) == 10


@pytest.mark.parametrize("num_dialogues", [-1, 0, 3])
def test_a_split_that_leaves_nothing_to_train_or_choose_on_is_refused(num_dialogues: int) -> None:
    made = Conversations((talk(0, "a"), talk(1, "b"), talk(2, "c")), source="made")
    with pytest.raises(ValueError, match=f"expected 1 to 2; got {num_dialogues}. made has 3 dialogues of 3 personas"):
        split_dev(made, num_dialogues=num_dialogues, seed=0)
    assert [len(half) for half in split_dev(made, num_dialogues=2, seed=0)] == [1, 2]


def test_an_empty_set_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="expected 1 to 0; got 1"):
        split_dev(Conversations((), source="made"), num_dialogues=1, seed=0)


# ConvAI2


@needs_convai2
@pytest.mark.parametrize(
    ("name", "num_dialogues", "num_responses"),
    [("valid_self_original_no_cands.txt", 1_000, 7_801), ("train_self_original_no_cands.part.txt", 1_355, 9_999)],
)
def test_convai2_is_read_in_full(name: str, num_dialogues: int, num_responses: int) -> None:
    read = load(CONVAI2 / name)
    assert (len(read), read.num_responses) == (num_dialogues, num_responses)
    assert {len(conversation.persona) for conversation in read} <= {3, 4, 5}
    assert read[-1].id == str(num_dialogues - 1)


@needs_convai2
def test_convai2_gives_a_dev_set_of_the_size_asked_for() -> None:
    train, dev = split_dev(load(CONVAI2 / "train_self_original_no_cands.part.txt"), num_dialogues=100, seed=0)
    assert 100 <= len(dev) < 104  # at most four dialogues have one persona
    assert len(train) + len(dev) == 1_355
    assert not {frozenset(each.persona) for each in train} & {frozenset(each.persona) for each in dev}
