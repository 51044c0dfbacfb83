"""The similarity of contexts, against sacrebleu itself and against values worked by hand."""

from __future__ import annotations

import math
import random

import pytest
import sacrebleu
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from spt_core.text_similarity import bleu_matrix

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


@given(TEXTS.flatmap(lambda texts: st.tuples(st.just(texts), st.permutations(range(len(texts))))))
def test_a_pair_does_not_depend_on_its_batch(texts_and_order: tuple[list[str], list[int]]) -> None:
    texts, order = texts_and_order
    assert torch.equal(bleu_matrix([texts[i] for i in order]), bleu_matrix(texts)[order][:, order])


@pytest.mark.parametrize("num_texts", [0, 1, 3])
def test_shape_and_type(num_texts: int) -> None:
    bleu_BB = bleu_matrix(["i like dogs ."] * num_texts)
    assert bleu_BB.shape == (num_texts, num_texts)
    assert bleu_BB.dtype == torch.float32
    assert bleu_BB.eq(100).all()
