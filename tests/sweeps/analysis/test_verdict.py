"""The verdict on a sweep, and what is compared with the baseline at all."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweeps.engine.analysis import stats
from sweeps.engine.analysis.cells import summarise
from sweeps.engine.analysis.comparisons import compare
from sweeps.engine.analysis.stats import paired_delta
from sweeps.engine.store.trial_folder import PREDICTIONS
from tests.sweeps.report.made_sweep import NUM_DIALOGUES, ONE_SEED, SIX_SEEDS, THREE_SEEDS, make


class TestVerdict:
    def test_several_seeds_give_interval_and_exact_p(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        delta = paired_delta(THREE_SEEDS[4], THREE_SEEDS[1])
        text = made.answer.verdict
        assert text.startswith("num_prompts=4 has the best test NLL (lower is better): 3.110 against 3.310")
        assert f"{delta.mean:+.3f} (95% t interval {delta.low:+.3f} to {delta.high:+.3f} over 3 seeds" in text
        assert "sign-flip p = 0.25, Holm 0.5" in text
        assert "Undecided: 3 seeds cannot decide it" in text
        assert "smallest attainable p is 0.25, 0.5 after Holm over 2 cells" in text
        assert "sample set" not in text

    def test_enough_seeds_can_decide(self, tmp_path: Path) -> None:
        made = make(tmp_path, SIX_SEEDS)
        text = made.answer.verdict
        assert "An exact test decides it at the 5% level; the smallest attainable p is 0.031." in text

    def test_one_seed_is_example_noise_only(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        text = made.answer.verdict
        interval = re.search(r"a difference of -0\.210 \(95% interval (\S+) to (\S+), from resampling 6", text)
        assert interval is not None
        assert float(interval[1]) < -0.210 < float(interval[2]) < 0
        assert "example noise only" in text
        assert "one seed, so beyond these examples it is undecided; the smallest attainable p is 1." in text

    def test_one_seed_without_predictions_has_no_interval(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        (tmp_path / made.trial(4).key / PREDICTIONS).unlink()
        text = made.answer.verdict
        assert "a difference of -0.210. Each cell ran on one seed" in text
        assert "nan" not in text

    @pytest.mark.parametrize("data", ["sample:train", "hf://datasets/someone/dialogues/all.jsonl"])
    def test_the_sample_set_supports_no_claim(self, tmp_path: Path, data: str) -> None:
        made = make(tmp_path, ONE_SEED, data=data)
        text = made.answer.verdict
        assert ("supports no claim about the paper" in text) == data.startswith("sample:")

    def test_a_baseline_that_is_best_stays_best(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS, baseline=4)
        text = made.answer.verdict
        assert text.startswith("No cell improves on the baseline num_prompts=4")
        assert "the nearest is num_prompts=2 with 3.257" in text

    def test_higher_is_better_for_f1(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS, primary="test/f1")
        text = made.answer.verdict
        assert text.startswith("num_prompts=4 has the best F1 (higher is better): 14.000 against 11.000")

    def test_the_target_of_dist_is_the_human_value(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED, primary="test/dist_avg")
        made.change(2, 0, test__dist_avg=60.0)
        made.change(4, 0, test__dist_avg=90.0)
        assert made.answer.verdict.startswith("num_prompts=2 has the best DIST_AVG (nearer to")

    def test_dist_is_compared_at_equal_n_only(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED, primary="test/dist_avg")
        made.change(4, 0, test__num_responses=23.0)
        compared = compare(summarise(made.plan, made.results), "test/dist_avg")
        assert [one.summary.label for one in compared] == ["num_prompts=2"]

    def test_an_incomplete_cell_is_not_compared(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(4, 2, "lost")
        text = made.answer.verdict
        assert text.startswith("num_prompts=2 has the best")
        assert "1 of 3 cells did not finish" in text

    def test_no_baseline_no_verdict(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(1, 0, "lost")
        text = made.answer.verdict
        assert text.startswith("No verdict: the baseline num_prompts=1 has no test NLL (the smallest attainable p is")

    def test_a_cell_that_is_the_baseline_is_no_comparison(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        twin = {"prompts.num_prompts": 4}
        same = tuple(
            replace(made.trial(1), cell=trial.cell) if trial.cell == twin else trial for trial in made.plan.trials
        )
        made.plan = replace(made.plan, trials=same)
        compared = compare(summarise(made.plan, made.results), "test/nll")
        assert [one.summary.label for one in compared] == ["num_prompts=2"]
        assert "the same trials" in made.table()


class TestRefusals:
    def test_another_budget_is_not_compared_unless_told(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.plan = replace(
            made.plan,
            trials=tuple(
                replace(one, config=one.config.override({"optim.max_steps": 9}))
                if one.cell == made.plan.cells[2]
                else one
                for one in made.plan.trials
            ),
        )
        assert [one.summary.label for one in compare(summarise(made.plan, made.results), "test/nll")] == [
            "num_prompts=2"
        ]
        assert "not compared: another budget: 72 contexts in at most 1 epoch against all" in made.write()["report.html"]
        made.plan = replace(made.plan, sweep=replace(made.plan.sweep, allow=("budget",)))
        compared = compare(summarise(made.plan, made.results), "test/nll", allow=made.plan.sweep.allow)
        assert [one.summary.label for one in compared] == ["num_prompts=2", "num_prompts=4"]
        assert "compared all the same: another budget" in made.write()["report.html"]

    def test_failed_seeds_are_paired_on_those_left_when_told(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(4, 1, "lost")
        compared = compare(summarise(made.plan, made.results), "test/nll", allow=["failed seeds"])
        of_four = next(one for one in compared if one.summary.label == "num_prompts=4")
        assert of_four.by_seed == pytest.approx({0: -0.20, 2: -0.22})
        assert of_four.caveats == ("num_prompts=4: seed 1 failed: lost",)
        made.plan = replace(made.plan, sweep=replace(made.plan.sweep, allow=("failed seeds",)))
        assert made.answer.verdict.startswith("num_prompts=2 has the best")

    def test_a_sweep_cannot_overlook_what_is_no_kind(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="allow = 'luck'"):
            replace(make(tmp_path, ONE_SEED).plan.sweep, allow=("luck",))

    @pytest.mark.parametrize("metric", ["test/f1", "test/bleu", "test/rouge_l", "test/dist_avg"])
    def test_one_seed_has_example_noise_in_every_metric_of_text(self, tmp_path: Path, metric: str) -> None:
        made = make(tmp_path, ONE_SEED)
        (first, _) = compare(summarise(made.plan, made.results), metric)
        assert first.covers == "examples"
        assert first.num_dialogues == NUM_DIALOGUES
        assert first.delta.low <= first.delta.high
        assert math.isnan(first.p) == ("dist" not in metric)

    def test_verdict_says_what_the_seeds_could_have_found(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        text = made.answer.verdict
        found = stats.power(np.subtract(THREE_SEEDS[4], THREE_SEEDS[1]))
        assert found is not None
        assert f"3 seeds detect a difference of {found.detectable:.3f} with 80% power" in text
        assert "Equality to within 0.01 is not shown (p = 1)." in text

    def test_no_difference_is_shown_by_equivalence_alone(self, tmp_path: Path) -> None:
        made = make(tmp_path, {1: [3.300, 3.320, 3.310, 3.290], 4: [3.301, 3.319, 3.310, 3.291]})
        assert "Equality to within 0.01 is shown by two one-sided tests (p = " in made.answer.verdict
