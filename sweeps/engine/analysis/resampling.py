"""How much a difference between two trials owes to the choice of test dialogues: resampled, swapped, subsampled.

All of it is over whole dialogues, with all of their replies under both trials. Replies of one dialogue share a persona
and a history, so drawing single replies would give intervals that are too narrow. And all of it is noise of the
examples: with one seed a trial, nothing here says what another seed would give.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sweeps.engine.analysis.stats import CONFIDENCE, Interval

RESAMPLES = 10_000
SWAPS = 2_000
"""Swaps of a test of DIST, whose every draw counts distinct n-grams anew."""
_DRAWS_AT_ONCE = 2**22
_ORDERS = 4

_Floats = NDArray[np.float64]
Score = Callable[[_Floats], _Floats]
"""From sufficient statistics, summed over dialogues, [..., S], to a metric of the corpus, [...]."""


def corpus_bootstrap(
    statistics_NS: _Floats,
    baseline_NS: _Floats,
    dialogues: Sequence[str],
    *,
    score: Score,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Difference of a metric of the whole corpus, with a 95% interval from resampling whole dialogues.

    The paired cluster bootstrap (Efron and Tibshirani 1993, chapters 8 and 13; Koehn 2004 for BLEU): the metric is
    computed anew in each resample, from sums of sufficient statistics, and the percentile interval is read off the
    differences. It is not for DIST, which falls with the duplicates that a resample makes (see `dist_subsampling`).

    Args:
        statistics_NS: of each reply of the cell, additive over replies.
        baseline_NS: of the baseline's replies to the same contexts, in the same order.
        dialogues: which dialogue each reply is from.
        score: `ratio`, or `bleu` over `bleu_statistics`.
        resamples: how many times the dialogues are drawn.
        seed: of the draws.

    Returns:
        Cell minus baseline; with one dialogue there is no interval.
    """
    differences = resampled_differences(
        statistics_NS, baseline_NS, dialogues, score=score, resamples=resamples, seed=seed
    )
    mean = float(score(statistics_NS.sum(0)) - score(baseline_NS.sum(0)))
    if len(set(dialogues)) == 1:
        return Interval(mean, math.nan, math.nan)
    low, high = np.quantile(differences, _tails())
    return Interval(mean, float(low), float(high))


def resampled_differences(
    statistics_NS: _Floats,
    baseline_NS: _Floats,
    dialogues: Sequence[str],
    *,
    score: Score,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> _Floats:
    """Cell minus baseline in each resample of the dialogues; see `corpus_bootstrap`."""
    assert statistics_NS.shape == baseline_NS.shape
    both_GS = _by_dialogue(np.hstack([statistics_NS, baseline_NS]), dialogues)
    num_dialogues, num_statistics = len(both_GS), statistics_NS.shape[1]
    found = []
    at_once = max(1, _DRAWS_AT_ONCE // num_dialogues)
    for start in range(0, resamples, at_once):
        sums_RS = _times_drawn(min(at_once, resamples - start), num_dialogues, seed, start) @ both_GS
        found.append(score(sums_RS[:, :num_statistics]) - score(sums_RS[:, num_statistics:]))
    return np.concatenate(found)


@functools.lru_cache(maxsize=4)
def _times_drawn(resamples: int, num_dialogues: int, seed: int, start: int) -> _Floats:
    """How often each resample has each dialogue, [R, G]; the same for every cell and metric of a report."""
    drawn = np.random.default_rng([seed, start]).integers(num_dialogues, size=(resamples, num_dialogues))
    drawn += np.arange(resamples)[:, None] * num_dialogues
    counts = np.bincount(drawn.ravel(), minlength=resamples * num_dialogues)
    return counts.reshape(resamples, num_dialogues).astype(np.float64)


def ratio(sums: _Floats) -> _Floats:
    """A weighted mean, from the sums of weighted values and of weights."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def bleu_statistics(replies: Sequence[str], references: Sequence[str]) -> _Floats:
    """What BLEU is made of, [N, 10]: lengths of reply and reference, then matches and n-grams of orders 1 to 4."""
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(effective_order=True)  # of a sentence; its counts are those of the corpus metric
    scores = [scorer.sentence_score(one, [other]) for one, other in zip(replies, references, strict=True)]
    return np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores], dtype=np.float64)


def bleu(sums: _Floats) -> _Floats:
    """Corpus BLEU of summed `bleu_statistics`: sacrebleu's, with exponential smoothing."""
    reply, reference = sums[..., 0], sums[..., 1]
    matches, ngrams = sums[..., 2 : 2 + _ORDERS], sums[..., 2 + _ORDERS :]
    is_smoothed = (matches == 0) & (ngrams > 0)
    halvings = 2.0 ** np.cumsum(is_smoothed, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(is_smoothed, 1 / halvings, matches) / ngrams
        geometric = np.exp(np.log(precisions).mean(-1))
        brevity = np.exp(np.minimum(0, 1 - reference / reply))
    is_defined = (ngrams > 0).all(-1) & (matches > 0).any(-1)
    return np.asarray(np.where(is_defined, 100 * brevity * geometric, 0.0))


class DistComparison(NamedTuple):
    """Cell minus baseline in DIST over equal numbers of dialogues: an interval by subsampling, and p by swapping."""

    interval: Interval
    p: float


def compare_dist(
    replies: Sequence[str],
    baseline_replies: Sequence[str],
    dialogues: Sequence[str],
    *,
    orders: tuple[int, ...] = (1, 2),
    swaps: int = SWAPS,
    seed: int = 0,
) -> DistComparison:
    """Whether two sets of replies to the same contexts differ in DIST (its mean over some orders, times 100).

    p is of a paired swap test (approximate randomisation, Noreen 1989): of random exchanges of a dialogue's replies
    between the two, the share that differ by at least as much. It never duplicates a reply. The interval is by
    half-sampling (the delete-d jackknife with d = n / 2, Shao and Wu 1989): the spread of the difference over random
    halves of the dialogues, which at one half is that of the whole.

    Args:
        replies: of the cell, after the cut.
        baseline_replies: to the same contexts, in the same order.
        dialogues: which dialogue each is from.
        orders: of the n-grams; (1, 2) is DIST_AVG.
        swaps: random exchanges, and as many halves.
        seed: of the draws.

    Returns:
        With fewer than four dialogues: no interval, and p = NaN.
    """
    sets = [_NGrams(replies, baseline_replies, dialogues, order) for order in orders]
    num_dialogues = sets[0].num_dialogues
    whole = np.ones((1, num_dialogues))
    observed = float(np.mean([one.difference(whole, whole * 0) for one in sets]))
    if num_dialogues < 4:
        return DistComparison(Interval(observed, math.nan, math.nan), math.nan)
    generator = np.random.default_rng(seed)
    swapped_RG = generator.integers(2, size=(swaps, num_dialogues)).astype(np.float64)
    swapped = np.mean([one.difference(1 - swapped_RG, swapped_RG) for one in sets], axis=0)
    at_least = np.sum(np.abs(swapped) >= abs(observed) - 1e-9)
    places = np.argsort(generator.random((swaps, num_dialogues)), axis=1)
    halves_RG = (places < num_dialogues // 2).astype(np.float64)
    of_half = np.mean([one.difference(halves_RG, halves_RG * 0) for one in sets], axis=0)
    kept = num_dialogues // 2
    low, high = observed + np.quantile(of_half - of_half.mean(), _tails()) * math.sqrt(kept / (num_dialogues - kept))
    return DistComparison(Interval(observed, float(low), float(high)), float((at_least + 1) / (swaps + 1)))


class _NGrams:
    """Which n-grams each dialogue has under either, and how many: DIST of any mixture is then a product."""

    def __init__(self, cell: Sequence[str], baseline: Sequence[str], dialogues: Sequence[str], order: int) -> None:
        _, of_reply = np.unique(np.asarray(dialogues), return_inverse=True)
        self.num_dialogues = int(of_reply.max()) + 1
        ids: dict[tuple[str, ...], int] = {}
        sides = [self._places(replies, of_reply.tolist(), order, ids) for replies in (cell, baseline)]
        self._has = [self._matrix(places, len(ids)) for places in sides]
        self._num = [np.bincount([g for g, _ in places], minlength=self.num_dialogues) for places in sides]

    @staticmethod
    def _places(
        replies: Sequence[str], of_reply: Sequence[int], order: int, ids: dict[tuple[str, ...], int]
    ) -> list[tuple[int, int]]:
        places = []
        for reply, dialogue in zip(replies, of_reply, strict=True):
            tokens = reply.strip().split(" ")  # as spt_core.metrics.dist
            for ngram in zip(*(tokens[i:] for i in range(order)), strict=False):
                places.append((dialogue, ids.setdefault(ngram, len(ids))))
        return places

    def _matrix(self, places: Sequence[tuple[int, int]], num_ids: int) -> sparse.csr_matrix:
        distinct = sorted(set(places))
        rows, columns = [g for g, _ in distinct], [i for _, i in distinct]
        shape = (self.num_dialogues, max(1, num_ids))
        return sparse.csr_matrix((np.ones(len(distinct)), (rows, columns)), shape=shape)

    def difference(self, own_RG: _Floats, other_RG: _Floats) -> _Floats:
        """DIST of the cell minus that of the baseline, each taking its `own` dialogues and the `other`'s."""
        found = []
        at_once = max(1, _DRAWS_AT_ONCE // self._has[0].shape[1])
        for start in range(0, len(own_RG), at_once):
            own, other = own_RG[start : start + at_once], other_RG[start : start + at_once]
            found.append(self._dist(own, other) - self._dist(other, own))
        return np.concatenate(found)

    def _dist(self, of_cell_RG: _Floats, of_baseline_RG: _Floats) -> _Floats:
        weights = (of_cell_RG, of_baseline_RG)
        occurrences = sum(w_RG @ has for w_RG, has in zip(weights, self._has, strict=True))
        num = sum(w_RG @ n for w_RG, n in zip(weights, self._num, strict=True))
        distinct = np.count_nonzero(np.asarray(occurrences), axis=1)
        return np.asarray(100 * distinct / np.maximum(num, 1))


def _by_dialogue(values_NS: _Floats, dialogues: Sequence[str]) -> _Floats:
    """Sums over the replies of each dialogue, [G, S]."""
    names, of_reply = np.unique(np.asarray(dialogues), return_inverse=True)
    sums_GS = np.zeros((len(names), values_NS.shape[1]))
    np.add.at(sums_GS, of_reply, values_NS)
    return sums_GS


def _tails() -> list[float]:
    tail = (1 - CONFIDENCE) / 2
    return [tail, 1 - tail]
