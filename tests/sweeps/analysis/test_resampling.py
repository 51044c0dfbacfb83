"""What test dialogues say of a difference, against scipy, sacrebleu, brute force and simulation."""

import itertools
import math
import time

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats as scipy_stats

from spt_core import metrics as text_metrics
from sweeps.engine.analysis.resampling import (
    RESAMPLES,
    bleu,
    bleu_statistics,
    compare_dist,
    corpus_bootstrap,
    ratio,
    resampled_differences,
)
from sweeps.engine.analysis.stats import Interval

WORDS = np.array(
    [
        "i",
        "like",
        "tea",
        "and",
        "my",
        "dog",
        "runs",
        "fast",
        "in",
        "the",
        "park",
        "every",
        "day",
        "with",
        "old",
        "friends",
        "of",
        "mine",
        "who",
        "cook",
    ]
)


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def replies(generator: np.random.Generator, num: int, *, vocabulary: int = len(WORDS), length: int = 9) -> list[str]:
    return [" ".join(generator.choice(WORDS[:vocabulary], size=generator.integers(4, length + 4))) for _ in range(num)]


def corrupted(generator: np.random.Generator, texts: list[str], share: float) -> list[str]:
    """The same texts with a share of their words drawn anew."""
    return [" ".join(w if generator.random() > share else generator.choice(WORDS) for w in t.split()) for t in texts]


def dialogue_bootstrap(
    values: ArrayLike,
    dialogues: list[str],
    baseline: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The corpus bootstrap of a weighted mean over responses, cell minus baseline."""
    weight = np.ones(len(dialogues)) if weights is None else np.asarray(weights)
    of_cell, of_baseline = (np.stack([weight * np.asarray(one), weight], axis=1) for one in (values, baseline))
    return corpus_bootstrap(of_cell, of_baseline, dialogues, score=ratio, resamples=resamples, seed=seed)


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
        dialogues = np.repeat([str(i) for i in range(80)], 3).tolist()
        covered, repetitions = 0, 1_000
        for repetition in range(repetitions):
            shared = np.repeat(generator.normal(0.3, 1, 80), 3)
            interval = dialogue_bootstrap(
                shared + generator.normal(0, 1, 240), dialogues, np.zeros(240), resamples=1_000, seed=repetition
            )
            covered += interval.low <= 0.3 <= interval.high
        assert 0.93 <= covered / repetitions <= 0.97

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


class TestBleu:
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
    def test_sums_of_statistics_give_sacrebleus_corpus_score(self, share: float) -> None:
        generator = seeded(0)
        references = replies(generator, 40)
        ours = [*corrupted(generator, references[:38], share), "", "tea"]
        expected = BLEU(force=True).corpus_score(ours, [references]).score
        assert bleu(bleu_statistics(ours, references).sum(0)) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("texts", [["zebra zebra zebra zebra zebra"], [""], ["tea"], ["i like zebra zebra zebra"]])
    def test_smooths_as_sacrebleu(self, texts: list[str]) -> None:
        references = ["i like tea and my dog"]
        expected = BLEU(force=True).corpus_score(texts, [references]).score
        assert bleu(bleu_statistics(texts, references).sum(0)) == pytest.approx(expected, rel=1e-12)

    def test_bootstrap_is_sacrebleus_where_every_dialogue_has_one_reply(self) -> None:
        generator, num = seeded(1), 120
        references = replies(generator, num)
        cell, baseline = corrupted(generator, references, 0.35), corrupted(generator, references, 0.45)
        _, scores = PairedTest(
            [("baseline", baseline), ("cell", cell)],
            {"BLEU": BLEU(force=True)},
            [references],
            test_type="bs",
            n_samples=2_000,
        )()
        theirs_of_baseline, theirs = scores["BLEU"]
        of_cell, of_baseline = (bleu_statistics(one, references) for one in (cell, baseline))
        dialogues = [str(i) for i in range(num)]
        interval = corpus_bootstrap(of_cell, of_baseline, dialogues, score=bleu)
        assert interval.mean == pytest.approx(theirs.score - theirs_of_baseline.score)
        alone = resampled_differences(of_cell, np.zeros_like(of_cell), dialogues, score=bleu, resamples=2_000)
        error = alone.std() / math.sqrt(2_000)
        assert alone.mean() == pytest.approx(theirs.mean, abs=4 * math.sqrt(2) * error)
        # A half-width is about two standard deviations, each known to 1 / sqrt(2 n); quantiles to about twice that.
        assert np.diff(np.quantile(alone, [0.025, 0.975]))[0] / 2 == pytest.approx(theirs.ci, rel=0.1)
        differences = resampled_differences(of_cell, of_baseline, dialogues, score=bleu)
        p = np.mean(np.abs(differences - differences.mean()) > abs(interval.mean))
        assert p == pytest.approx(theirs.p_value, abs=4 * math.sqrt(max(p, 0.002) / 2_000))

    def test_the_whole_of_convai2_takes_seconds(self) -> None:
        generator, num = seeded(2), 7_801
        statistics = generator.integers(0, 12, size=(num, 10)).astype(float)
        dialogues = [str(i) for i in generator.integers(1_000, size=num)]
        started = time.perf_counter()
        corpus_bootstrap(statistics, statistics[::-1].copy(), dialogues, score=bleu)
        assert time.perf_counter() - started < 10


class TestDist:
    def test_the_difference_is_that_of_the_metric(self) -> None:
        generator = seeded(0)
        cell, baseline = replies(generator, 60), replies(generator, 60, vocabulary=8)
        dialogues = [str(i // 4) for i in range(60)]
        found = compare_dist(cell, baseline, dialogues, swaps=50)
        expected = [np.mean([text_metrics.dist(texts, n) for n in (1, 2)]) for texts in (cell, baseline)]
        assert found.interval.mean == pytest.approx(expected[0] - expected[1])
        assert found.interval.low < found.interval.mean < found.interval.high

    def test_p_is_the_share_of_all_swaps(self) -> None:
        generator = seeded(1)
        cell, baseline = replies(generator, 10), replies(generator, 10, vocabulary=10)
        dialogues = [str(i // 2) for i in range(10)]

        def difference(swaps: tuple[int, ...]) -> float:
            sides = ([], [])
            for i in range(10):
                own = swaps[i // 2]
                sides[own].append(cell[i])
                sides[1 - own].append(baseline[i])
            return text_metrics.dist(sides[0], 1) - text_metrics.dist(sides[1], 1)

        observed = abs(difference((0,) * 5))
        exact = np.mean([abs(difference(s)) >= observed - 1e-9 for s in itertools.product((0, 1), repeat=5)])
        found = compare_dist(cell, baseline, dialogues, orders=(1,), swaps=4_000)
        assert found.p == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 4_000))

    def test_level_lies_in_its_binomial_band(self) -> None:
        generator, studies = seeded(2), 400
        dialogues = [str(i // 2) for i in range(24)]
        p_values = [
            compare_dist(replies(generator, 24), replies(generator, 24), dialogues, swaps=99, seed=i).p
            for i in range(studies)
        ]
        low, high = scipy_stats.binom.interval(0.99, studies, 0.1)
        assert low <= np.sum(np.array(p_values) <= 0.1) <= high

    def test_interval_covers_the_difference_of_two_speakers(self) -> None:
        """Against the mean difference over many sets of the same size, since DIST is of a size."""
        generator, num = seeded(3), 80
        dialogues = [str(i // 2) for i in range(num)]
        studies = [(replies(generator, num), replies(generator, num, vocabulary=14)) for _ in range(400)]
        found = [compare_dist(*texts, dialogues, swaps=300, seed=i).interval for i, texts in enumerate(studies)]
        truth = np.mean([one.mean for one in found])
        covered = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.92 <= covered <= 0.99  # it is an approximation, and errs to the side of too wide

    def test_a_bootstrap_would_be_biased(self) -> None:
        """Why DIST has a test of its own: duplicates in a resample lower it."""
        texts = replies(seeded(4), 100)
        resampled = [text_metrics.dist(list(seeded(i).choice(texts, size=100)), 2) for i in range(50)]
        assert np.mean(resampled) < text_metrics.dist(texts, 2) - 2 * np.std(resampled)

    def test_too_few_dialogues_for_an_interval(self) -> None:
        found = compare_dist(["a b", "c d"], ["a a", "c c"], ["x", "y"])
        assert math.isnan(found.interval.low)
        assert math.isnan(found.p)
