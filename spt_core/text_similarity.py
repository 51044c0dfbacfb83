"""How alike the texts of a batch are: the M of the context-prompt contrastive loss (Eq. 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER
from torch import Tensor

CACHED_TEXTS = 2048  # of 130 words each, their n-grams take about 85 MB

_tokenize = BLEU().tokenizer  # 13a


def bleu_matrix(texts: Sequence[str]) -> Tensor:
    """BLEU of every text against every other: the M(c_i, c_j) that Eq. 4 compares with Gamma.

    Row i, column j is `sacrebleu.sentence_bleu(texts[i], [texts[j]], use_effective_order=True)`: text i is
    the hypothesis and text j the reference, cased, in 13a tokens, with exponential smoothing. The matrix is
    not symmetric. A text against itself is 100; one without a token is 0 against all, itself included.

    Fast enough for every training step: a text's n-grams are counted once and kept for later calls.

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


class _NgramCounts(NamedTuple):
    by_order: list[Counter[str]]  # the n-grams of n = 1 to 4, tokens joined by a space
    totals: list[int]  # how many there are of each n
    num_tokens: int


@lru_cache(maxsize=CACHED_TEXTS)
def _count_ngrams(text: str) -> _NgramCounts:
    tokens = _tokenize(text.rstrip()).split()
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


def similarity_matrix(texts: Sequence[str], *, measure: str) -> Tensor:
    """Stub."""
    return bleu_matrix(texts)


def quantile_threshold(texts: Sequence[str], *, measure: str, share: float, seed: int) -> float:
    """Stub."""
    return 20.0
