"""The statistics, against scipy, brute force, closed forms and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from sweeps.engine.analysis.stats import (
    equivalence_p,
    holm,
    paired_delta,
    power,
    probability_of_improvement,
    t_interval,
)

NUMBERS = st.floats(-100, 100, allow_subnormal=False)


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


class TestTInterval:
    @pytest.mark.parametrize("num_values", [2, 3, 10])
    def test_is_scipys(self, num_values: int) -> None:
        values = seeded(num_values).normal(3, 2, num_values)
        expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert t_interval(values) == pytest.approx((values.mean(), expected.low, expected.high))

    def test_two_values_by_hand(self) -> None:
        margin = 12.706204736174694 * 0.5  # the 0.975 quantile of t with one degree of freedom, times s / sqrt(2)
        assert t_interval([1.0, 2.0]) == pytest.approx((1.5, 1.5 - margin, 1.5 + margin))

    def test_one_value_has_no_interval(self) -> None:
        mean, low, high = t_interval([2.5])
        assert mean == 2.5
        assert math.isnan(low)
        assert math.isnan(high)

    def test_equal_values_have_an_interval_without_width(self) -> None:
        assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)

    def test_covers_the_mean_as_often_as_it_says(self) -> None:
        samples = seeded(0).normal(1.0, 3.0, size=(2_000, 4))
        covered = np.mean([low <= 1.0 <= high for _, low, high in map(t_interval, samples)])
        assert 0.93 <= covered <= 0.97

    @pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0]]])
    def test_refuses_what_has_no_mean(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="values"):
            t_interval(values)


def brute_force_p(differences: np.ndarray) -> float:
    """The definition: every assignment of signs, counted."""
    observed = abs(differences.mean())
    flips = itertools.product([-1, 1], repeat=len(differences))
    return float(np.mean([abs(np.mean(flip * differences)) >= observed - 1e-12 for flip in flips]))


class TestPairedDelta:
    @pytest.mark.parametrize("num_seeds", [1, 2, 3, 5, 8, 11])
    def test_p_is_the_share_of_all_sign_flips(self, num_seeds: int) -> None:
        generator = seeded(num_seeds)
        cell, baseline = generator.normal(0.4, 1, num_seeds), generator.normal(0, 1, num_seeds)
        assert paired_delta(cell, baseline).p == pytest.approx(brute_force_p(cell - baseline), abs=0)

    def test_p_is_scipys(self) -> None:
        generator = seeded(7)
        cell, baseline = generator.normal(0.5, 1, 9), generator.normal(0, 1, 9)
        expected = scipy_stats.permutation_test(
            (cell, baseline),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        )
        assert paired_delta(cell, baseline).p == pytest.approx(expected.pvalue, rel=1e-12)

    def test_interval_is_scipys_paired_t(self) -> None:
        generator = seeded(1)
        cell, baseline = generator.normal(1, 1, 6), generator.normal(0, 1, 6)
        expected = scipy_stats.ttest_rel(cell, baseline).confidence_interval(0.95)
        delta = paired_delta(cell, baseline)
        assert (delta.low, delta.high) == pytest.approx((expected.low, expected.high))
        assert delta.mean == pytest.approx(np.mean(cell) - np.mean(baseline))

    @pytest.mark.parametrize("num_seeds", [1, 2, 3, 5, 20, 31])
    def test_a_difference_of_one_sign_has_the_smallest_p_there_is(self, num_seeds: int) -> None:
        delta = paired_delta(np.arange(num_seeds) + 1.0, np.zeros(num_seeds))
        assert delta.p == min(1.0, 2.0 ** (1 - num_seeds))

    def test_ties_made_by_rounding_count(self) -> None:
        assert paired_delta([0.1, 0.2, 0.3], [0.0, 0.0, 0.6]).p == 1.0  # 0.1 + 0.2 - 0.3 is not 0 in binary

    def test_a_cell_that_is_the_baseline_is_not_different(self) -> None:
        assert paired_delta([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == (0.0, 0.0, 0.0, 1.0)

    def test_too_many_pairs_to_enumerate_leave_the_interval(self) -> None:
        delta = paired_delta(seeded(0).normal(size=41), np.zeros(41))
        assert math.isnan(delta.p)
        assert delta.low < delta.mean < delta.high

    @pytest.mark.parametrize("level", [1 / 32, 3 / 32, 8 / 32])
    def test_level_lies_in_its_binomial_band(self, level: float) -> None:
        """With six seeds p is a multiple of 1 / 32, and under no difference each multiple is a level kept exactly."""
        generator, studies = seeded(3), 4_000
        p_values = np.array([paired_delta(*generator.normal(size=(2, 6))).p for _ in range(studies)])
        low, high = scipy_stats.binom.interval(0.99, studies, level)
        assert low <= np.sum(p_values <= level) <= high

    @given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9))
    def test_swapping_the_two_turns_the_sign_and_keeps_p(self, pairs: list[tuple[float, float]]) -> None:
        cell, baseline = np.array(pairs).T
        there, back = paired_delta(cell, baseline), paired_delta(baseline, cell)
        assert there.mean == -back.mean
        assert there.p == back.p
        assert 2.0 ** (1 - len(pairs)) <= there.p <= 1

    def test_refuses_unpaired_values(self) -> None:
        with pytest.raises(ValueError, match="3 cell values but 2"):
            paired_delta([1.0, 2.0, 3.0], [1.0, 2.0])


def closed_bonferroni(p_values: list[float]) -> list[float]:
    """Holm's procedure is the closure of Bonferroni's: the worst Bonferroni p of all the families one is in."""
    families = [f for size in range(1, len(p_values) + 1) for f in itertools.combinations(range(len(p_values)), size)]
    worst = [max(len(f) * min(p_values[j] for j in f) for f in families if i in f) for i in range(len(p_values))]
    return [min(1.0, p) for p in worst]


class TestHolm:
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
    def test_is_the_closure_of_bonferroni(self, p_values: list[float]) -> None:
        assert holm(p_values) == pytest.approx(closed_bonferroni(p_values), rel=1e-12)

    def test_is_statsmodels(self) -> None:
        p_values = seeded(0).uniform(0, 0.2, 9).tolist()
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])

    def test_by_hand(self) -> None:
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])

    def test_a_comparison_that_was_not_made_is_not_counted(self) -> None:
        adjusted = holm([0.01, math.nan, 0.04])
        assert math.isnan(adjusted[1])
        assert [adjusted[0], adjusted[2]] == pytest.approx(holm([0.01, 0.04]))

    def test_no_comparisons(self) -> None:
        assert holm([]) == []

    @pytest.mark.parametrize("p", [-0.1, 1.1])
    def test_refuses_what_is_no_probability(self, p: float) -> None:
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm([p])


class TestProbabilityOfImprovement:
    def test_is_the_u_statistic(self) -> None:
        generator = seeded(0)
        cell, baseline = generator.normal(0.5, 1, 7), generator.normal(0, 1, 5)
        expected = scipy_stats.mannwhitneyu(cell, baseline).statistic / 35
        assert probability_of_improvement(cell, baseline) == pytest.approx(expected)

    def test_ties_count_half(self) -> None:
        assert probability_of_improvement([1.0, 2.0], [1.0, 2.0]) == 0.5


class TestEquivalence:
    def test_is_statsmodels_tost(self) -> None:
        differences = seeded(1).normal(0.02, 0.1, 8)
        expected = DescrStatsW(differences).ttost_mean(-0.15, 0.15)[0]
        assert equivalence_p(differences, 0.15) == pytest.approx(expected)

    def test_declares_a_difference_at_the_margin_equal_no_more_often_than_it_says(self) -> None:
        generator, studies = seeded(2), 3_000
        p_values = [equivalence_p(generator.normal(0.1, 0.05, 5), 0.1) for _ in range(studies)]
        low, high = scipy_stats.binom.interval(0.99, studies, 0.05)
        assert low <= np.sum(np.array(p_values) <= 0.05) <= high

    def test_one_seed_shows_no_equality(self) -> None:
        assert equivalence_p([0.0], 1.0) == 1.0

    @pytest.mark.parametrize("margin", [0.0, -1.0, math.nan])
    def test_refuses_a_margin_that_is_none(self, margin: float) -> None:
        with pytest.raises(ValueError, match="margin"):
            equivalence_p([0.1, 0.2], margin)


class TestPower:
    @pytest.mark.parametrize("num_seeds", [3, 6, 10])
    def test_finds_the_detectable_difference_in_four_studies_of_five(self, num_seeds: int) -> None:
        unit = np.resize([1.0, -1.0], num_seeds) * 1.0
        found = power(unit)
        assert found is not None
        spread, studies = unit.std(ddof=1), 4_000
        samples = seeded(num_seeds).normal(found.detectable, spread, size=(studies, num_seeds))
        p_values = scipy_stats.ttest_1samp(samples, 0, axis=1).pvalue
        low, high = scipy_stats.binom.interval(0.999, studies, 0.8)
        assert low <= np.sum(p_values <= 0.05) <= high

    def test_as_many_seeds_as_are_needed_find_it(self) -> None:
        differences = np.array([0.1, 0.5, -0.2, 0.4])
        found = power(differences)
        assert found is not None
        assert found.seeds_needed is not None
        effect = differences.mean() / differences.std(ddof=1)
        for seeds, is_enough in ((found.seeds_needed, True), (found.seeds_needed - 1, False)):
            shift = effect * math.sqrt(seeds)
            bound = scipy_stats.t.ppf(0.975, seeds - 1)
            of_t = scipy_stats.nct.sf(bound, seeds - 1, shift) + scipy_stats.nct.cdf(-bound, seeds - 1, shift)
            assert (of_t >= 0.8) == is_enough

    @pytest.mark.parametrize("differences", [[0.3], [0.1, 0.3], [0.3, 0.3, 0.3]])
    def test_is_unknown_without_a_spread(self, differences: list[float]) -> None:
        assert power(differences) is None
