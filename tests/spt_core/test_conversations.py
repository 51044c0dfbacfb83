"""Each kind of source is read or refused, and the dev split has the properties that its docstring states."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spt_core.conversations import load, split_dev
from spt_core.dialogues import Conversation, Conversations, Turn
from tests.conftest import CONVAI2
from tests.spt_core.conftest import Write
from tests.spt_core.two_dialogues import TWO, TWO_PARLAI, UTTERANCES

needs_convai2 = pytest.mark.skipif(not CONVAI2.is_dir(), reason="no ConvAI2 data in ../shared/data/convai2")


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
def test_a_failed_download_names_its_source(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
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
def test_an_unknown_source_is_refused_with_the_known_ones(source: str) -> None:
    with pytest.raises(ValueError, match=r"expected a \.txt .*sample:train.*hf://OWNER/NAME") as error:
        load(source)
    assert repr(source) in str(error.value)


def test_a_missing_file_is_named_with_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        load("missing.txt")
    assert str(error.value) == f"missing.txt: there is no such file; looked for {tmp_path / 'missing.txt'}"


def test_reading_a_file_does_not_import_datasets() -> None:
    program = "import sys; from spt_core.conversations import load; load('sample:valid'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "datasets" not in run.stdout.split()


# The dev split


def talk(number: int, *persona: str) -> Conversation:
    return Conversation(str(number), persona, (Turn("hi", f"i am number {number}"),))


def test_the_dev_split_is_the_one_recorded() -> None:
    """Results of different days are paired by example, so the split may not depend on hash seed or Python version."""
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


def test_the_order_and_number_of_persona_sentences_do_not_separate_dialogues() -> None:
    same = [talk(number, *sentences) for number, sentences in enumerate(itertools.permutations("abc"))]
    made = Conversations((*same, talk(6, "a", "b", "c", "a"), talk(7, "a", "b")), source="made")
    sizes = {len(split_dev(made, num_dialogues=1, seed=seed)[1]) for seed in range(20)}
    assert sizes == {1, 7}


def test_seeds_choose_different_personas() -> None:
    made = Conversations(tuple(talk(number, f"i am {number}.") for number in range(20)), source="made")
    chosen = {split_dev(made, num_dialogues=5, seed=seed)[1] for seed in range(10)}
    assert len(chosen) == 10


@pytest.mark.parametrize("num_dialogues", [-1, 0, 3])
def test_a_split_without_training_or_dev_dialogues_is_refused(num_dialogues: int) -> None:
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
def test_convai2_gives_a_dev_set_of_the_requested_size() -> None:
    train, dev = split_dev(load(CONVAI2 / "train_self_original_no_cands.part.txt"), num_dialogues=100, seed=0)
    assert 100 <= len(dev) < 104  # at most four dialogues share a persona
    assert len(train) + len(dev) == 1_355
    assert not {frozenset(each.persona) for each in train} & {frozenset(each.persona) for each in dev}
