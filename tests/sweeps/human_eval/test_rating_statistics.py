"""Krippendorff's alpha and the sign-flip test against independent oracles."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from sweeps.engine.human_eval.ratings import krippendorff_alpha, sign_flip_p

MISSING = math.nan
KRIPPENDORFF_2011 = np.array(  # his section E: four observers, twelve units, values missing
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, MISSING, MISSING, MISSING],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, MISSING, 3],
        [MISSING, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, MISSING],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, MISSING],
    ]
)


def alpha_pair_by_pair(ratings: np.ndarray) -> float:
    """The definition: mean distance of two ratings of one item, over that of any two ratings that could be paired."""
    units = [[value for value in unit if not math.isnan(value)] for unit in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]

    def distance(one: float, other: float) -> float:
        low, high = sorted((one, other))
        between = sum(low <= value <= high for value in pooled)
        return (between - (pooled.count(one) + pooled.count(other)) / 2) ** 2

    observed = sum(
        sum(distance(one, other) for one, other in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units
    )
    expected = sum(distance(one, other) for one, other in itertools.permutations(pooled, 2)) / max(1, len(pooled) - 1)
    return 1 - observed / expected if expected else math.nan


class TestKrippendorffAlpha:
    def test_is_the_published_value_of_the_published_example(self) -> None:
        assert krippendorff_alpha(KRIPPENDORFF_2011) == pytest.approx(0.815, abs=0.0005)

    @given(
        st.integers(2, 4).flatmap(
            lambda raters: st.lists(
                st.lists(st.sampled_from([0.0, 1.0, 2.0, MISSING]), min_size=raters, max_size=raters),
                min_size=1,
                max_size=8,
            )
        )
    )
    def test_is_its_definition(self, units: list[list[float]]) -> None:
        ratings = np.array(units).T
        assert krippendorff_alpha(ratings) == pytest.approx(alpha_pair_by_pair(ratings), nan_ok=True)

    def test_raters_who_guess_agree_by_chance(self) -> None:
        guesses = np.random.default_rng(0).integers(0, 3, size=(2, 5_000)).astype(float)
        assert krippendorff_alpha(guesses) == pytest.approx(0, abs=0.05)


class TestSignFlip:
    @pytest.mark.parametrize(("wins", "losses"), [(30, 20), (26, 24), (70, 30), (25, 25)])
    def test_many_equal_differences_give_the_binomial_test(self, wins: int, losses: int) -> None:
        p, is_exact = sign_flip_p(np.array([1.0] * wins + [-1.0] * losses))
        assert not is_exact
        assert p == pytest.approx(scipy_stats.binomtest(wins, wins + losses).pvalue, abs=0.006)

    def test_ties_of_fractions_count_as_ties(self) -> None:
        """Three raters and five examples make fifteenths, whose sums differ in the last bits with their order."""
        whole = np.random.default_rng(287).integers(-6, 7, size=97).astype(float)  # here unrounded means go wrong
        assert sign_flip_p(whole / 15)[0] == sign_flip_p(whole)[0]

    def test_is_exact_for_few_and_the_same_every_time_for_many(self) -> None:
        few, many = np.arange(-10.0, 30.0), np.arange(-10.0, 41.0)
        assert sign_flip_p(few)[1]
        assert sign_flip_p(many) == sign_flip_p(many)
        assert sign_flip_p(np.ones(50))[0] == pytest.approx(2 / 100_000)
