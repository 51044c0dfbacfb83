"""Intervals and tests for cells that share their seeds, and for one seed's test responses."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
"""Of every interval of a report."""

_MOST_PAIRS = 40
_DRAWS_AT_ONCE = 2**22

_Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its 95% interval; `low` and `high` are NaN where there is too little to tell."""

    mean: float
    low: float
    high: float


class PairedDelta(NamedTuple):
    """Cell minus baseline over equal seeds: mean difference, its 95% t interval, exact two-sided sign-flip p."""

    mean: float
    low: float
    high: float
    p: float


def t_interval(values: ArrayLike) -> Interval:
    """Mean and 95% Student t interval (Gosset 1908).

    It covers the spread over what `values` are drawn from (seeds: initialisation and order of batches). It does not
    cover another data set, another split, or a skewed metric on few seeds.

    Args:
        values: one a seed; with one value there is no interval.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    sample = _finite(values, "values")
    mean = float(sample.mean())
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan)
    margin = float(_t_quantile(len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample)))
    return Interval(mean, mean - margin, mean + margin)


@functools.cache
def _t_quantile(degrees_of_freedom: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, df=degrees_of_freedom))


def paired_delta(cell_values: ArrayLike, baseline_values: ArrayLike) -> PairedDelta:
    """How far a cell is from the baseline, over seeds that both ran.

    The interval is Student's t on the differences; p is the exact two-sided sign-flip permutation test of Fisher (The
    Design of Experiments, 1935, section 21), with the mean difference as its statistic: of all 2^n ways to swap cell
    and baseline within seeds, the share that differ by at least as much. With n seeds it cannot fall under 2^(1 - n).
    Neither covers that the cell was picked as the best of several (see `holm`), nor another data set.

    Args:
        cell_values: one a seed.
        baseline_values: of the same seeds, in the same order.

    Returns:
        With one seed: no interval and p = 1. p is NaN over 40 seeds, which are too many to enumerate.

    Raises:
        ValueError: different lengths, no values, or some that are not finite.
    """
    cell, baseline = _finite(cell_values, "cell_values"), _finite(baseline_values, "baseline_values")
    if len(cell) != len(baseline):
        raise ValueError(
            f"paired_delta: {len(cell)} cell values but {len(baseline)} of the baseline; give one of each a seed"
        )
    differences = cell - baseline
    return PairedDelta(*t_interval(differences), _sign_flip_p(differences))


def _sign_flip_p(differences: _Floats) -> float:
    """Exact p by meeting in the middle: the sums of one half of the signs, looked up among those of the other."""
    num_pairs = len(differences)
    if num_pairs > _MOST_PAIRS:
        return math.nan
    rounding = 1e-9 * float(np.abs(differences).sum())
    least = abs(float(differences.sum())) - rounding
    if least <= 0:
        return 1.0
    some = _signed_sums(differences[: num_pairs // 2])
    rest = np.sort(_signed_sums(differences[num_pairs // 2 :]))
    at_least = len(some) * len(rest) - int(np.searchsorted(rest, least - some, side="left").sum())
    return math.ldexp(2.0 * at_least, -num_pairs)  # twice: every flip has its mirror image on the other side


def _signed_sums(differences: _Floats) -> _Floats:
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums - difference, sums + difference])
    return sums


def holm(p_values: ArrayLike) -> list[float]:
    """p-values adjusted for being several, by the step-down procedure of Holm (1979).

    It bounds the chance of one false rejection or more in this family, under any dependence. It does not cover other
    metrics or other sweeps, which are families of their own.

    Args:
        p_values: one a comparison; NaN stands for a comparison that was not made and is not counted.

    Returns:
        In the order given; NaN stays NaN.

    Raises:
        ValueError: a value that is not between 0 and 1.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if np.any((given < 0) | (given > 1)):
        raise ValueError(f"p_values = {given.tolist()}: each should be between 0 and 1, or NaN")
    made = np.flatnonzero(~np.isnan(given))
    ascending = made[np.argsort(given[made], kind="stable")]
    factors = np.arange(len(made), 0, -1)
    adjusted = np.full_like(given, math.nan)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(factors * given[ascending]), 1)
    return [float(p) for p in adjusted]


def dialogue_bootstrap(
    values: ArrayLike,
    dialogues: Sequence[str],
    baseline_values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Difference of the mean of a per-response metric, with a 95% interval from resampling whole dialogues.

    The paired cluster bootstrap: dialogues are drawn with replacement, each with all of its responses under both
    cells, and the percentile interval is read off the resampled differences (Efron and Tibshirani 1993, chapters 8
    and 13). Replies of one dialogue share a persona and a history, so drawing single replies would give an interval
    that is too narrow. It covers the choice of test dialogues alone. It does not cover the seed of training, and it
    is not for metrics of a whole set of replies (DIST falls with the duplicates that a resample makes).

    Args:
        values: of the cell, one a response.
        dialogues: which dialogue each response is from.
        baseline_values: of the baseline, for the same responses in the same order.
        weights: of each response in the mean, such as its number of tokens; equal when None.
        resamples: how many times the dialogues are drawn.
        seed: of the draws.

    Returns:
        Cell minus baseline; with one dialogue there is no interval.

    Raises:
        ValueError: lengths that differ, no values, values that are not finite, or weights that are not positive.
    """
    cell, baseline = _finite(values, "values"), _finite(baseline_values, "baseline_values")
    weight = np.ones_like(cell) if weights is None else _finite(weights, "weights")
    lengths = {"values": len(cell), "dialogues": len(dialogues), "baseline_values": len(baseline)}
    if len({*lengths.values(), len(weight)}) > 1:
        raise ValueError(f"dialogue_bootstrap: {lengths | {'weights': len(weight)}}: all should be of one length")
    if np.any(weight <= 0):
        raise ValueError(f"dialogue_bootstrap: the least of the weights is {weight.min()}; all should be positive")
    names, of_response = np.unique(np.asarray(dialogues), return_inverse=True)
    num_dialogues = len(names)
    differences_G = np.bincount(of_response, weights=weight * (cell - baseline))
    weights_G = np.bincount(of_response, weights=weight)
    mean = float(differences_G.sum() / weights_G.sum())
    if num_dialogues == 1:
        return Interval(mean, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    resampled = []
    at_once = max(1, _DRAWS_AT_ONCE // num_dialogues)
    for start in range(0, resamples, at_once):
        size = (min(at_once, resamples - start), num_dialogues)
        drawn = generator.integers(num_dialogues, size=size, dtype=np.int32)
        resampled.append(differences_G[drawn].sum(1) / weights_G[drawn].sum(1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(resampled), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def _finite(values: ArrayLike, name: str) -> _Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: there should be one number or more in a row, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} = {array.tolist()}: all should be finite; leave a failed trial out before comparing")
    return array
