"""The main table on a terminal: what it holds, and that it fits."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.engine.analysis.cells import summarise
from sweeps.engine.analysis.stats import t_interval
from tests.sweeps.report.made_sweep import ONE_SEED, THREE_SEEDS, make


class TestTerminalTable:
    def test_a_cell_is_the_mean_of_its_seeds_with_their_interval(self, tmp_path: Path) -> None:
        table = make(tmp_path, THREE_SEEDS).table()
        _, low, high = t_interval(THREE_SEEDS[4])
        assert "3.110" in table
        assert f"[{low:.3f}, {high:.3f}]" in table
        for text in ("7.123 -> 3.360", "14.00", "12.25", "n=24 len=9.5", "4/4", "71"):
            assert text in table

    def test_human_replies_stand_below_at_the_same_n(self, tmp_path: Path) -> None:
        lines = make(tmp_path, ONE_SEED).table().splitlines()
        human = next(i for i, line in enumerate(lines) if "human replies" in line)
        assert "58.25" in lines[human]
        assert "n=24 len=11.8" in lines[human + 1]
        assert max(i for i, line in enumerate(lines) if "num_prompts=" in line) < human

    def test_a_failed_trial_is_shown_and_not_averaged_away(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(4, 1, "CUDA out of\nmemory")
        table = made.table()
        row = " ".join(table[table.index("num_prompts=4") :].split("human")[0].split())
        assert "seed 1 failed: CUDA out of memory" in row
        assert "2/3" in row
        assert "3.095" not in table  # the mean of the two that survived

    def test_one_reason_is_told_once(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(4, 0, "no memory")
        made.fail(4, 2, "no memory")
        assert summarise(made.plan, made.results)[2].problems == ["seeds 0, 2 failed: no memory"]

    def test_a_trial_that_never_ran_or_was_interrupted_says_so(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        del made.results[made.trial(2).key]
        key = made.trial(4).key
        made.results[key] = replace(made.results[key], state="interrupted", metrics={})
        table = made.table()
        assert "not run" in table
        assert "interrupted" in table

    def test_missing_and_infinite_numbers(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        key = made.trial(4).key
        made.results[key] = replace(made.results[key], metrics={"test/nll": math.nan, "test/bleu": 1.0})
        row = next(line for line in made.table().splitlines() if "num_prompts=4" in line)
        assert "nan" in row
        assert row.split().count("-") >= 5

    @pytest.mark.parametrize("width", [60, 80, 110, 120])
    def test_fits_a_terminal(self, tmp_path: Path, width: int) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(2, 0, "a long reason why nothing came of it, " * 5)
        table = made.table(width)
        assert max(map(len, table.splitlines())) <= width
        for text in ("seconds", "3.110", "n=24 len=9.5", "7.123 -> 3.360"):
            assert text in table  # nothing is cut off
        headings = [line for line in table.splitlines() if line.startswith("cell ")]
        assert len(headings) == (1 if width >= 110 else 2 if width == 80 else 3)
        assert table.count("num_prompts=4") == len(headings)  # every part says which cell is which

    def test_brackets_are_text_and_not_markup(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        made.fail(2, 0, "[bold]no[/bold] [/nonsense]")
        assert "[bold]no[/bold]" in " ".join(made.table().split())

    def test_another_primary_metric_has_its_column(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED, primary="raw/f1")
        assert "raw F1" in made.table()
        assert "9.00" in made.table()
