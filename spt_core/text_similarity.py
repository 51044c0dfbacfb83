"""Similarity of the texts of a batch: the M of the context-prompt contrastive loss (Eq. 4), in three measures.

All are on a 0 to 100 scale. Values that depend on one text alone are cached. BLEU and ROUGE-L then take milliseconds a
batch, and an embedding about 30 ms at the first use of its text.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from rouge_score.tokenize import tokenize as tokenize_for_rouge
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER
from torch import Tensor
from torch.nn import functional

from spt_core.metrics import BUNDLED_ENCODER, MAX_ENCODED_TOKENS, load_encoder
from spt_core.seeding import generator

CACHED_TEXTS = 2048  # of 130 words each, their n-grams take about 85 MB and their tokens 40
CACHED_EMBEDDINGS = 2**17  # more than the contexts of ConvAI2; of width 384 they take 200 MB
TEXTS_PER_BATCH = 32
MOST_TEXTS_FOR_A_QUANTILE = 200

_tokenize_13a = BLEU().tokenizer
_embeddings: OrderedDict[tuple[str, str], Tensor] = OrderedDict()  # by encoder and text, the most recently used last


def similarity_matrix(texts: Sequence[str], *, measure: str) -> Tensor:
    """The M(c_i, c_j) that Eq. 4 compares with Gamma, in the measure of a config.

    Args:
        texts: B texts.
        measure: "bleu", "rouge_l", "embedding", or "embedding:" and an encoder's name.

    Returns:
        M on a 0 to 100 scale: float32 [B, B], on the CPU.

    Raises:
        ValueError: the measure is unknown. `embedding_matrix` raises further errors for its encoder.
    """
    if measure == "bleu":
        return bleu_matrix(texts)
    if measure == "rouge_l":
        return rouge_l_matrix(texts)
    kind, colon, encoder = measure.partition(":")
    if kind == "embedding" and bool(colon) == bool(encoder):
        return embedding_matrix(texts, encoder or BUNDLED_ENCODER)
    raise ValueError(
        f"measure = {measure!r}: it should be bleu, rouge_l, embedding, or embedding: and the name of an encoder"
    )


def quantile_threshold(texts: Sequence[str], *, measure: str, share: float, seed: int) -> float:
    """The Gamma for Eq. 4 that a given share of the pairs of texts does not exceed.

    Args:
        texts: all the training texts. At most 200 are drawn with equal probability, and M is taken over the pairs
            i < j in the order drawn.
        measure: as in `similarity_matrix`.
        share: with 0.9 a tenth of the pairs is above the threshold.
        seed: seed of the draw.

    Returns:
        The quantile on M's 0 to 100 scale, interpolated between the two nearest pairs.

    Raises:
        ValueError: fewer than 2 distinct texts, a share outside 0 to 1, or a measure that is unknown.
    """
    num_distinct = len(set(texts))
    if num_distinct < 2:
        raise ValueError(f"texts has {num_distinct} distinct text(s): a quantile over pairs needs at least 2")
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}: it should be from 0 to 1")
    drawn = torch.randperm(len(texts), generator=generator(seed, "gamma"))[:MOST_TEXTS_FOR_A_QUANTILE].tolist()
    similarity_BB = similarity_matrix([texts[i] for i in drawn], measure=measure)
    rows_P, columns_P = torch.triu_indices(len(drawn), len(drawn), offset=1)
    return float(similarity_BB[rows_P, columns_P].quantile(share))


def bleu_matrix(texts: Sequence[str]) -> Tensor:
    """BLEU of every text against every other, the paper's M.

    Row i, column j is `sacrebleu.sentence_bleu(texts[i], [texts[j]], use_effective_order=True)`: text i is
    the hypothesis and text j the reference, cased, in 13a tokens, with exponential smoothing. The matrix is
    not symmetric. A text against itself is 100. A text without a token is 0 against all, itself included.

    Args:
        texts: B texts.

    Returns:
        BLEU on a 0 to 100 scale, rounded to float32: [B, B], on the CPU.
    """
    ngrams = [_count_ngrams(text) for text in texts]
    bleu_BB = [[0.0] * len(texts) for _ in texts]
    for (i, hypothesis), (j, reference) in combinations_with_replacement(enumerate(ngrams), 2):
        matches = _clipped_matches(hypothesis, reference)  # the same in both directions
        bleu_BB[i][j] = _bleu(matches, hypothesis, reference)
        bleu_BB[j][i] = _bleu(matches, reference, hypothesis)
    return torch.tensor(bleu_BB, dtype=torch.float32).reshape(len(texts), len(texts))


def rouge_l_matrix(texts: Sequence[str]) -> Tensor:
    """ROUGE-L of every text against every other: the F-measure of their longest common subsequence (Lin, 2004).

    Row i, column j is `rouge_score.rouge_scorer.RougeScorer(["rougeL"]).score(texts[i], texts[j])`: lower case,
    runs of a-z and 0-9 as tokens, no stemming. The matrix is symmetric. A text against itself is 100. A text without
    a token is 0 against all, itself included.

    Args:
        texts: B texts.

    Returns:
        F-measure times 100, rounded to float32: [B, B], on the CPU.
    """
    tokens = [_find_tokens(text) for text in texts]
    rouge_BB = [[0.0] * len(texts) for _ in texts]
    for (i, a), (j, b) in combinations_with_replacement(enumerate(tokens), 2):
        rouge_BB[i][j] = rouge_BB[j][i] = 100 * _rouge_l(a, b)
    return torch.tensor(rouge_BB, dtype=torch.float32).reshape(len(texts), len(texts))


def embedding_matrix(texts: Sequence[str], encoder: str = BUNDLED_ENCODER) -> Tensor:
    """Cosine of the embeddings of every two texts, 0 if it is negative.

    An embedding is the mean of the encoder's last hidden states over all tokens, special ones included (Reimers and
    Gurevych, 2019). It is computed in float32, once for each text and encoder. It does not depend on the other texts of
    a batch, except by rounding, which changes a similarity by less than 1e-4.

    Args:
        texts: B texts; a text that is too long for the encoder's tokenizer, or has over 512 tokens, is cut at its end.
        encoder: "bundled:minilm-l6", a Hub id or a folder.

    Returns:
        Cosine times 100: float32 [B, B], on the CPU.

    Raises:
        ValueError: a "bundled:" encoder that is unknown.
        ModuleNotFoundError: the package of the bundled encoder is not installed.
        OSError: the Hub id or folder cannot be loaded.
    """
    if not texts:
        return torch.zeros(0, 0)
    # In float64, so that the product of two rows rounds to the same float32 in a matrix of any size.
    unit_BD = functional.normalize(_embed(texts, encoder).double(), dim=-1)
    return 100 * (unit_BD @ unit_BD.mT).clamp(0, 1).float()


def clear_caches() -> None:
    """Clear the caches of all measures; loaded encoders stay."""
    _count_ngrams.cache_clear()
    _find_tokens.cache_clear()
    _embeddings.clear()


class _NgramCounts(NamedTuple):
    by_order: list[Counter[str]]  # the n-grams of n = 1 to 4, tokens joined by a space
    totals: list[int]  # the number of n-grams of each n
    num_tokens: int


@lru_cache(maxsize=CACHED_TEXTS)
def _count_ngrams(text: str) -> _NgramCounts:
    tokens = _tokenize_13a(text.rstrip()).split()
    shifted = [tokens[n:] for n in range(MAX_NGRAM_ORDER)]
    by_order = [Counter(map(" ".join, zip(*shifted[:n], strict=False))) for n in range(1, MAX_NGRAM_ORDER + 1)]
    return _NgramCounts(by_order, [len(tail) for tail in shifted], len(tokens))


def _clipped_matches(a: _NgramCounts, b: _NgramCounts) -> list[int]:
    matches = [0] * MAX_NGRAM_ORDER
    for order, (count_a, count_b) in enumerate(zip(a.by_order, b.by_order, strict=True)):
        shared = count_a.keys() & count_b.keys()
        if not shared:  # then no longer n-gram is shared either
            break
        matches[order] = sum(min(count_a[ngram], count_b[ngram]) for ngram in shared)
    return matches


def _bleu(matches: list[int], hypothesis: _NgramCounts, reference: _NgramCounts) -> float:
    bleu = BLEU.compute_bleu(
        correct=matches,
        total=hypothesis.totals,
        sys_len=hypothesis.num_tokens,
        ref_len=reference.num_tokens,
        smooth_method="exp",
        effective_order=True,
    )
    return float(bleu.score)


class _Tokens(NamedTuple):
    in_order: list[str]
    places: Mapping[str, int]  # bit p is set where the token is the p-th of the text


@lru_cache(maxsize=CACHED_TEXTS)
def _find_tokens(text: str) -> _Tokens:
    tokens = tokenize_for_rouge(text, None)
    places: dict[str, int] = {}
    for place, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << place
    return _Tokens(tokens, places)


def _rouge_l(a: _Tokens, b: _Tokens) -> float:
    common = _longest_common_subsequence(a, b)
    if not common:
        return 0.0
    precision, recall = common / len(a.in_order), common / len(b.in_order)
    return 2 * precision * recall / (precision + recall)


def _longest_common_subsequence(a: _Tokens, b: _Tokens) -> int:
    """The length of the longest common subsequence, by bit-parallel arithmetic (Crochemore et al., 2001; Hyyro, 2004).

    A row of the table of dynamic programming is one integer. Bit p is 0 if the subsequence of `a` up to token p and
    the tokens of `b` so far is one longer than that up to token p - 1. For each token of `b`, one sum moves the 0 at
    the end of every run of ones down to the lowest match of the run, if it has one.
    """
    whole = (1 << len(a.in_order)) - 1
    row = whole
    for token in b.in_order:
        if matches := row & a.places.get(token, 0):
            row = (row + matches) | (row - matches)
    return len(a.in_order) - (row & whole).bit_count()  # the bits above are carries of the sums


def _embed(texts: Sequence[str], encoder: str) -> Tensor:
    known = {text: _embeddings.pop((encoder, text), None) for text in dict.fromkeys(texts)}
    found = {text: embedding for text, embedding in known.items() if embedding is not None}
    found |= _encode([text for text in known if text not in found], encoder)
    _embeddings.update({(encoder, text): embedding for text, embedding in found.items()})
    while len(_embeddings) > CACHED_EMBEDDINGS:
        _embeddings.popitem(last=False)
    return torch.stack([found[text] for text in texts])


def _encode(texts: Sequence[str], encoder: str) -> dict[str, Tensor]:
    if not texts:
        return {}
    tokenizer, model = load_encoder(encoder, "cpu")
    max_tokens = min(MAX_ENCODED_TOKENS, tokenizer.model_max_length)
    neighbours = sorted(texts, key=len)  # texts of similar length in one batch save padding
    found: dict[str, Tensor] = {}
    for start in range(0, len(neighbours), TEXTS_PER_BATCH):
        some = neighbours[start : start + TEXTS_PER_BATCH]
        inputs = tokenizer(some, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            hidden_BTD = model(**inputs).last_hidden_state
        mask_BT1 = inputs["attention_mask"].unsqueeze(-1)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp_min(1)
        found |= zip(some, map(Tensor.clone, mean_BD), strict=True)  # a row's view would keep the batch alive
    return found
