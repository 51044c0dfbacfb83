"""Intervals and tests for cells that share their seeds; what one seed's test responses say is in `resampling`."""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq

CONFIDENCE = 0.95
"""Of every interval of a report."""

LEVEL = 0.05
"""At or under which an adjusted p decides."""
POWER = 0.8
"""Share of studies that should find what is there."""

_MOST_PAIRS = 40

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
    sample = finite(values, "values")
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
    cell, baseline = finite(cell_values, "cell_values"), finite(baseline_values, "baseline_values")
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
    # Of our own: statsmodels' multipletests collects garbage at every call, which takes longer than a report.
    ascending = made[np.argsort(given[made], kind="stable")]
    factors = np.arange(len(made), 0, -1)
    adjusted = np.full_like(given, math.nan)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(factors * given[ascending]), 1)
    return [float(p) for p in adjusted]


def probability_of_improvement(cell_values: ArrayLike, baseline_values: ArrayLike) -> float:
    """How probable it is that a run of the cell is better than a run of the baseline (Agarwal et al. 2021, section 4).

    The share of all pairs of runs, whatever their seeds, in which the cell's value is higher; ties count half. It is
    an estimate from these runs and has no interval of its own.

    Args:
        cell_values: one a seed; higher is better.
        baseline_values: likewise.
    """
    cell, baseline = finite(cell_values, "cell_values"), finite(baseline_values, "baseline_values")
    return float(np.mean((np.sign(cell[:, None] - baseline[None, :]) + 1) / 2))


def equivalence_p(differences: ArrayLike, margin: float) -> float:
    """p of two one-sided t tests that the mean difference lies within plus or minus a margin (Schuirmann 1987).

    A small p says that there is no difference that matters. A large p of a test of difference does not say that.

    Args:
        differences: paired, one a seed.
        margin: the largest difference that does not matter.

    Returns:
        1 with one seed. With differences that are all equal, 0 or 1 by whether they are within the margin.

    Raises:
        ValueError: a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin = {margin}: it should be above 0, the largest difference that does not matter")
    sample = finite(differences, "differences")
    if len(sample) == 1:
        return 1.0
    mean, error = float(sample.mean()), float(sample.std(ddof=1) / math.sqrt(len(sample)))
    if error == 0:
        return float(abs(mean) >= margin)
    return float(stats.t.sf((margin - abs(mean)) / error, df=len(sample) - 1))


class Power(NamedTuple):
    """What a paired comparison could have found.

    Attributes:
        detectable: the smallest true difference that a paired t test at the 5% level finds in 80% of studies, at the
            spread that was seen.
        seeds_needed: how many seeds would find the difference that was seen in 80% of studies; None over 1,000.
    """

    detectable: float
    seeds_needed: int | None


def power(differences: ArrayLike) -> Power | None:
    """What these seeds can find, at the spread of their differences (paired t, two-sided 5%, power 80%).

    It is of the t test, which is near the sign-flip test wherever that can reach 5% at all. The number of seeds rests
    on an observed difference, so it is a plan and no evidence.

    Args:
        differences: paired, one a seed.

    Returns:
        None with fewer than three seeds, whose spread says nothing, or where all differences are equal.
    """
    from statsmodels.stats.power import TTestPower

    sample = finite(differences, "differences")
    spread = float(sample.std(ddof=1)) if len(sample) > 2 else 0.0
    if spread == 0:
        return None
    of_t = TTestPower()

    def lack(effect: float) -> float:
        return float(POWER - of_t.power(effect, nobs=len(sample), alpha=LEVEL))

    # From ends that are near: the distribution is NaN far out, where statsmodels' own search starts at few seeds.
    high = next(0.1 * 2**i for i in range(20) if lack(0.1 * 2**i) < 0)
    effect = brentq(lack, high / 2 if high > 0.1 else 0.0, high)
    seen = abs(float(sample.mean())) / spread
    needed = next((n for n in _MANY_SEEDS if seen and of_t.power(seen, nobs=n, alpha=LEVEL) >= POWER), None)
    return Power(float(effect) * spread, needed)


_MANY_SEEDS = (*range(2, 101), *range(110, 1001, 10))


def finite(values: ArrayLike, name: str) -> _Floats:
    """Values as one row of finite numbers.

    Args:
        values: of some runs or responses.
        name: for the error.

    Raises:
        ValueError: none, another shape, or a value that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: there should be one number or more in a row, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} = {array.tolist()}: all should be finite; leave a failed trial out before comparing")
    return array
