"""The statistics, against scipy, brute force, closed forms and simulation."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from sweeps.engine.stats import dialogue_bootstrap, holm, paired_delta, t_interval

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
        assert covered == pytest.approx(0.95, abs=0.015)

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

    def test_p_under_no_difference_is_not_too_small_too_often(self) -> None:
        generator = seeded(3)
        p_values = np.array([paired_delta(generator.normal(size=6), generator.normal(size=6)).p for _ in range(2_000)])
        for level in (1 / 32, 0.1, 0.25):
            assert np.mean(p_values <= level) <= level + 0.02

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


class TestDialogueBootstrap:
    def test_is_scipys_when_each_dialogue_has_one_response(self) -> None:
        generator = seeded(0)
        cell, baseline = generator.normal(0.2, 1, 80), generator.normal(0, 1, 80)
        ours = dialogue_bootstrap(cell, [str(i) for i in range(80)], baseline)
        theirs = scipy_stats.bootstrap(
            (cell - baseline,), np.mean, method="percentile", n_resamples=10_000, rng=seeded(1)
        ).confidence_interval
        assert ours.mean == pytest.approx(np.mean(cell - baseline))
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)

    def test_is_a_loop_over_drawn_dialogues(self) -> None:
        values = np.array([1.0, 5.0, 2.0, 7.0, 3.0, 4.0])
        tokens = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        dialogues = ["a", "a", "b", "c", "c", "c"]
        rows = {name: [i for i, d in enumerate(dialogues) if d == name] for name in "abc"}
        # Three dialogues have 27 equally likely resamples: the whole bootstrap distribution by hand.
        exact = [
            np.average(values[drawn], weights=tokens[drawn])
            for names in itertools.product("abc", repeat=3)
            for drawn in [np.concatenate([rows[name] for name in names])]
        ]
        ours = dialogue_bootstrap(values, dialogues, np.zeros(6), weights=tokens)
        low, high = np.quantile(exact, [0.025, 0.975], method="inverted_cdf")
        assert ours == pytest.approx((np.average(values, weights=tokens), low, high))

    def test_replies_of_one_dialogue_are_not_independent(self) -> None:
        per_dialogue = seeded(2).normal(size=50)
        values = np.repeat(per_dialogue, 20)
        dialogues = np.repeat([str(i) for i in range(50)], 20).tolist()
        whole = dialogue_bootstrap(values, dialogues, np.zeros(1_000))
        single = dialogue_bootstrap(values, [str(i) for i in range(1_000)], np.zeros(1_000))
        assert (whole.high - whole.low) / (single.high - single.low) == pytest.approx(math.sqrt(20), rel=0.1)

    def test_covers_the_difference_about_as_often_as_it_says(self) -> None:
        generator = seeded(4)
        dialogues = np.repeat([str(i) for i in range(40)], 5).tolist()
        covered = 0
        for repetition in range(200):
            shared = np.repeat(generator.normal(0.3, 1, 40), 5)
            interval = dialogue_bootstrap(
                shared + generator.normal(0, 1, 200), dialogues, np.zeros(200), resamples=1_000, seed=repetition
            )
            covered += interval.low <= 0.3 <= interval.high
        assert covered / 200 == pytest.approx(0.94, abs=0.045)

    def test_order_of_responses_does_not_matter_and_the_seed_does(self) -> None:
        generator = seeded(5)
        values, baseline = generator.normal(size=60), generator.normal(size=60)
        dialogues = [str(i % 12) for i in range(60)]
        order = generator.permutation(60)
        there = dialogue_bootstrap(values, dialogues, baseline, seed=1)
        assert dialogue_bootstrap(values, dialogues, baseline, seed=1) == there
        shuffled = dialogue_bootstrap(values[order], [dialogues[i] for i in order], baseline[order], seed=1)
        assert shuffled == pytest.approx(there)
        assert dialogue_bootstrap(values, dialogues, baseline, seed=2) != there

    def test_one_dialogue_has_no_interval(self) -> None:
        mean, low, high = dialogue_bootstrap([1.0, 3.0], ["a", "a"], [0.0, 0.0])
        assert mean == 2.0
        assert math.isnan(low)
        assert math.isnan(high)

    def test_the_whole_of_convai2_takes_about_a_second(self) -> None:
        generator = seeded(6)
        dialogues = [str(i) for i in generator.integers(1_000, size=7_801)]
        started = time.perf_counter()
        dialogue_bootstrap(generator.normal(size=7_801), dialogues, generator.normal(size=7_801))
        assert time.perf_counter() - started < 5  # 0.2 s on two idle cores; the rest is for busy ones

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dialogues": ["a"]}, "one length"),
            ({"baseline_values": [0.0]}, "one length"),
            ({"weights": [1.0, 0.0]}, "positive"),
            ({"values": [1.0, math.nan]}, "finite"),
        ],
    )
    def test_refuses_what_is_not_paired(self, change: dict[str, object], message: str) -> None:
        arguments = {"values": [1.0, 2.0], "dialogues": ["a", "b"], "baseline_values": [0.0, 0.0], **change}
        with pytest.raises(ValueError, match=message):
            dialogue_bootstrap(**arguments)
