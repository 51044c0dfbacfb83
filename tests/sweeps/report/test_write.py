"""Reports of made-up trials: the numbers are where they should be, nothing is hidden, nothing gets out or in."""

import base64
import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from spt_core.config import TrialConfig
from sweeps.engine.analysis import example_noise, stats
from sweeps.engine.analysis.answer import Answer, answer
from sweeps.engine.analysis.cells import dev_nll_curve, summarise
from sweeps.engine.analysis.comparisons import compare
from sweeps.engine.analysis.stats import paired_delta, t_interval
from sweeps.engine.design import metrics as registry
from sweeps.engine.design.designs import Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.paper import published
from sweeps.engine.paper.beside import published_tables
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.report.further_tables import at_equal_compute
from sweeps.engine.report.table import escape
from sweeps.engine.report.terminal import terminal_table
from sweeps.engine.report.write import write
from sweeps.engine.store.trial_folder import HISTORY, PREDICTIONS, TrialResult

HOSTILE = '<script>alert("x")</script>|`*_'
NUM_DIALOGUES, NUM_TURNS = 6, 4
TOKENS = [3, 5, 8, 2]
FACTS = {"command": "python sweeps/k_sweep.py --scale demo", "tracking": "http://someone:secret@127.0.0.1:5000"}


@dataclass
class Made:
    """A plan, what its trials left, and where."""

    plan: Plan
    results: dict[str, TrialResult]
    folder: Path

    def trial(self, num_prompts: int, seed: int = 0) -> Trial:
        return next(
            one for one in self.plan.trials if one.config.prompts.num_prompts == num_prompts and one.seed == seed
        )

    def fail(self, num_prompts: int, seed: int, error: str) -> None:
        key = self.trial(num_prompts, seed).key
        self.results[key] = replace(self.results[key], state="failed", metrics={}, error=error)

    def change(self, num_prompts: int, seed: int, **metrics: float) -> None:
        key = self.trial(num_prompts, seed).key
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        self.results[key] = replace(self.results[key], metrics={**self.results[key].metrics, **named})

    @property
    def answer(self) -> Answer:
        return answer(self.plan, self.results)

    def table(self, width: int = 120) -> str:
        console = Console(width=width, record=True, color_system=None, file=io.StringIO())
        console.print(terminal_table(self.answer))
        return console.export_text()

    def write(self) -> dict[str, str]:
        answer = self.answer
        write(answer, self.folder / "report", facts=FACTS, published=published_tables(answer))
        files = [path for path in (self.folder / "report").iterdir() if path.is_file()]
        return {path.name: path.read_text(encoding="utf-8") for path in files}


def make(
    folder: Path,
    nll: Mapping[int, Sequence[float]],
    *,
    data: str = "hf://datasets/someone/dialogues/all.jsonl",
    primary: str = "test/nll",
    baseline: int = 1,
) -> Made:
    """A K grid with real files, from the test NLL of each seed by number of prompts."""
    num_seeds = len(next(iter(nll.values())))
    base = TrialConfig().override({"data.train": data, "data.test": data})
    sweep = Sweep(
        name="k_sweep",
        base=base,
        design=Grid({"prompts.num_prompts": list(nll)}),
        baseline={"prompts.num_prompts": baseline},
        seeds=num_seeds,
        primary_metric=primary,
        question="How many soft prompts does the group need?\n\nPrediction: at most 4 (Table 3).",
    )
    trials, results = [], {}
    for num_prompts, by_seed in nll.items():
        cell = {"prompts.num_prompts": num_prompts}
        for seed, value in enumerate(by_seed):
            config = base.override({**cell, "seed": seed}).canonical()
            trial = Trial(config.key(), cell, config, {"data": {"train": "abc"}, "backbone": "def", "numerics": 1})
            trials.append(trial)
            place = folder / trial.key
            place.mkdir()
            write_files(place, num_prompts, seed, value)
            results[trial.key] = TrialResult(trial.key, "finished", metrics(num_prompts, value), place)
    plan = Plan(sweep, "demo", tuple({"prompts.num_prompts": k} for k in nll), tuple(range(num_seeds)), tuple(trials))
    return Made(plan, results, folder)


def metrics(num_prompts: int, nll: float) -> dict[str, float]:
    n = float(NUM_DIALOGUES * NUM_TURNS)
    return {
        **{"train/steps": 32.0, "train/seconds": 61.0, "test/seconds": 9.0, "seconds": 71.25},
        **{"dev/nll_start": 7.1234, "dev/nll": nll + 0.25, "dev/best_step": 32.0},
        **{"test/nll": nll, "test/oracle_nll": nll - 0.1, "test/num_responses": n, "test/mean_length": 9.5},
        **{"test/f1": 10.0 + num_prompts, "test/bleu": 1.5, "test/rouge_l": 12.25, "test/dist_avg": 31.5},
        **{"raw/f1": 9.0, "raw/dist_avg": 28.0, "test/share_cut": 12.5, "test/prompts_used": float(num_prompts)},
        **{"human/dist_avg": 58.25, "human/mean_length": 11.75, "human/dist_1": 40.0, "human/dist_2": 76.5},
    }


def write_files(folder: Path, num_prompts: int, seed: int, nll: float) -> None:
    history = [{"step": 0.0, "seconds": 0.0, "dev/nll": 7.1}, {"step": 4.0, "seconds": 9.0, "train/total": 3.0}]
    history += [{"step": 8.0 * i, "seconds": 9.0 * i, "dev/nll": nll + 1 / i} for i in range(1, 5)]
    lines = "\n".join(map(json.dumps, history))
    (folder / HISTORY).write_text(f"{lines}\n{lines[:20]}", encoding="utf-8")  # the last line is half written
    generator = np.random.default_rng([num_prompts, seed])
    responses = [(dialogue, turn) for dialogue in range(NUM_DIALOGUES) for turn in range(NUM_TURNS)]
    noise = generator.normal(0, 0.05, len(responses))
    tokens = np.array([TOKENS[turn] for _, turn in responses])
    noise -= np.average(noise, weights=tokens)
    rows = [
        {
            "dialogue": f"d{dialogue}",
            "turn": turn,
            "persona": "i like <b>tea</b> .",
            "context": "i like <b>tea</b> . hello ! how are you ?",
            "reference": "fine & well , thanks",
            "prediction": f"K{num_prompts} says {HOSTILE}",
            "raw_prediction": f"K{num_prompts} says {HOSTILE} R: more",
            "cut_by": "R:",
            "prompt": int(generator.integers(num_prompts)),
            "similarity": [0.5] * num_prompts,
            "nll": float(nll + noise[i]),
            "nll_by_prompt": [float(nll)] * num_prompts,
            "num_tokens": TOKENS[turn],
        }
        for i, (dialogue, turn) in enumerate(responses)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / PREDICTIONS)


THREE_SEEDS = {1: [3.30, 3.32, 3.31], 2: [3.25, 3.28, 3.24], 4: [3.10, 3.14, 3.09]}
SIX_SEEDS = {1: [3.30, 3.32, 3.31, 3.29, 3.33, 3.30], 4: [3.10, 3.14, 3.09, 3.11, 3.12, 3.08]}
ONE_SEED = {1: [3.31], 2: [3.25], 4: [3.10]}


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
        assert f"3 seeds find one of {found.detectable:.3f} in four of five studies" in text
        assert "Equality to within 0.01 is not shown (p = 1)." in text

    def test_no_difference_is_shown_by_equivalence_alone(self, tmp_path: Path) -> None:
        made = make(tmp_path, {1: [3.300, 3.320, 3.310, 3.290], 4: [3.301, 3.319, 3.310, 3.291]})
        assert "Equality to within 0.01 is shown by two one-sided tests (p = " in made.answer.verdict


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


class TestPage:
    def test_asks_nothing_of_the_network(self, tmp_path: Path) -> None:
        html = make(tmp_path, THREE_SEEDS).write()["report.html"]
        page = Page(html)
        assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
        assert not [values for _, values in page.elements if {"src", "srcset", "action"} & values.keys()]
        assert not [values for _, values in page.elements if not (values.get("href") or "#").startswith("#")]
        assert not re.search(r"url\((?!#)", html)
        assert "@import" not in html
        policy = next(values["content"] for tag, values in page.elements if "http-equiv" in values)
        assert policy is not None
        assert policy.startswith("default-src 'none';")
        (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy  # our script and no other

    def test_what_others_wrote_is_text(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(2, 0, f"lost {HOSTILE}")
        html = made.write()["report.html"]
        page = Page(html)
        assert sum(tag == "script" for tag, _ in page.elements) == 1
        assert "<b>tea" not in html
        assert HOSTILE in page.text
        assert "K4 says" in page.text
        assert not [name for _, values in page.elements for name in values if name.startswith("on")]

    def test_credentials_stay_out(self, tmp_path: Path) -> None:
        for name, text in make(tmp_path, ONE_SEED).write().items():
            assert "secret" not in text
            assert ("127.0.0.1" in text) == (name not in {"trials.csv", "table.tex"})

    @pytest.mark.parametrize("nll", [ONE_SEED, THREE_SEEDS])
    def test_says_what_was_asked_and_found(self, tmp_path: Path, nll: dict[int, list[float]]) -> None:
        made = make(tmp_path, nll)
        page = Page(made.write()["report.html"])
        text = " ".join(page.text.split())
        assert "How many soft prompts does the group need?" in text
        assert "Prediction: at most 4 (Table 3)." in text
        assert made.answer.verdict in text.replace("\N{MINUS SIGN}", "-")
        for seed in range(len(nll[4])):
            assert f"seed {seed}" in text
            assert f"{nll[4][seed]:.3f}" in text
        assert "python sweeps/k_sweep.py --scale demo" in text
        assert "optim.learning_rate = 0.01" in text
        drawn = [values.get("aria-label") for tag, values in page.elements if tag == "svg"]
        assert drawn[:3] == [
            "test NLL by cell",
            "difference in test NLL by cell",
            "Dev NLL by optimisation step, a line a trial",
        ]
        panels = [tag for tag, _ in page.elements if tag == "caption"]
        assert len(panels) == 2 * len(nll[4])  # of the usage of prompts; K = 1 has nothing to choose

    @pytest.mark.parametrize("left", ["nothing", "one trial", "no files"])
    def test_stands_with_little_to_show(self, tmp_path: Path, left: str) -> None:
        made = make(tmp_path, THREE_SEEDS)
        if left == "no files":
            for file in [*tmp_path.rglob(HISTORY), *tmp_path.rglob(PREDICTIONS)]:
                file.unlink()
        else:
            made.results = {made.trial(1).key: made.results[made.trial(1).key]} if left == "one trial" else {}
        files = made.write()
        assert "report.html" in files
        assert ("not run" in files["report.md"]) == (left != "no files")


class TestBesideThePaper:
    def test_published_values_stand_beside_ours(self, tmp_path: Path) -> None:
        files = make(tmp_path, THREE_SEEDS).write()
        text = " ".join(Page(files["report.html"]).text.split())
        assert "Beside the paper: Table 3" in text
        assert "so values do not compare and no difference is shown" in text
        for name in ("report.html", "report.md", "table.tex"):
            assert "paper 17.76" in files[name]  # F1 at K = 1
        (table,) = strictly(files["results.json"])["published"]
        rows = {row["row"]: row for row in table["rows"]}
        assert table["table"] == "table3"
        assert rows["K = 4"]["cell"] == "num_prompts=4"
        assert rows["K = 4"]["metrics"]["test/f1"]["ours"] == 14.0
        assert rows["K = 4"]["metrics"]["test/f1"]["effect"]["mean"] == pytest.approx(100 * 3 / 11)
        assert rows["K = 4"]["metrics"]["test/f1"]["paper_effect"] == pytest.approx(100 * (17.49 / 17.76 - 1))
        assert rows["K = 8"]["cell"] is None

    def test_equal_compute_is_the_best_by_then(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        for trial in made.plan.trials:  # four prompts take three times as long a step
            slow = 3 if trial.config.prompts.num_prompts == 4 else 1
            rows = [{"step": 8.0 * i, "seconds": 9.0 * i * slow, "dev/nll": 4.0 - 0.1 * i * slow} for i in range(5)]
            (made.results[trial.key].folder / HISTORY).write_text("\n".join(map(json.dumps, rows)))
        table = at_equal_compute(summarise(made.plan, made.results))
        assert table is not None
        assert table.titles == ("at step 32", "at 36 worker seconds", "at its end", "worker seconds")
        values = {row.label: [entry.value for entry in row.entries] for row in table.rows}
        assert values["num_prompts=1"] == pytest.approx([3.6, 3.6, 3.6, 36.0])
        assert values["num_prompts=4"] == pytest.approx([2.8, 3.7, 2.8, 108.0])

    def test_the_checklist_says_what_was_logged_and_what_was_not(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(4, 0, "lost")
        answers = strictly(made.write()["results.json"])["checklist"]
        assert answers["Number of trials"].endswith("9 distinct trials: 8 finished, 1 failed")
        assert answers["Seeds"].startswith("0, 1, 2, paired")
        assert answers["Hyperparameters"].endswith("prompts.num_prompts: 1, 2, 4")
        assert answers["Run time"].startswith("71 seconds a trial; 0.16 hours")
        assert answers["Code"].startswith("not logged")
        assert "24 test replies scored" in answers["Data statistics"]

    def test_csv_has_a_row_a_trial(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(4, 0, "lost")
        rows = list(csv.DictReader(io.StringIO(made.write()["trials.csv"])))
        assert [row["key"] for row in rows] == [trial.key for trial in made.plan.trials]
        assert [float(row["test/nll"]) for row in rows if row["cell"] == "num_prompts=1"] == THREE_SEEDS[1]
        assert [(row["state"], row["test/nll"]) for row in rows if row["key"] == made.trial(4).key] == [("failed", "")]


class TestMarkdown:
    def test_holds_the_table_and_the_verdict(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(2, 1, f"lost {HOSTILE}\nfor good")
        text = made.write()["report.md"]
        assert "<script" not in text
        header = next(line for line in text.splitlines() if line.startswith("| cell"))
        row = next(line for line in text.splitlines() if line.startswith("| num\\_prompts=4"))
        assert len(re.findall(r"(?<!\\)\|", header)) == len(re.findall(r"(?<!\\)\|", row))
        assert "3.110" in row
        assert "## Trials that did not finish" in text


def strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


class TestResultsJson:
    def test_holds_means_intervals_and_deltas(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        document = strictly(made.write()["results.json"])
        assert (document["schema"], document["version"]) == ("spt-sweeps/results", 1)
        assert document["sweep"]["id"] == made.plan.sweep_id
        cells = {cell["label"]: cell for cell in document["cells"]}
        interval = t_interval(THREE_SEEDS[4])
        assert cells["num_prompts=4"]["metrics"]["test/nll"] == pytest.approx(interval._asdict())
        assert cells["num_prompts=1"]["is_baseline"]
        delta = next(d for d in document["deltas"] if (d["cell"], d["metric"]) == ("num_prompts=4", "test/nll"))
        expected = paired_delta(THREE_SEEDS[4], THREE_SEEDS[1])
        assert [delta[name] for name in ("mean", "low", "high", "p")] == pytest.approx(expected)
        assert delta["p_holm"] == pytest.approx(0.5)
        assert delta["by_seed"] == pytest.approx({"0": -0.20, "1": -0.18, "2": -0.22})
        assert {trial["key"] for trial in document["trials"]} == set(made.plan.distinct)
        assert document["trials"][0]["folder"] == f"../{made.plan.trials[0].key}"

    def test_a_config_comes_back_as_it_was(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        document = strictly(made.write()["results.json"])
        for trial, written in zip(made.plan.trials, document["trials"], strict=True):
            assert TrialConfig.model_validate(written["config"]) == trial.config

    def test_what_is_no_number_is_null(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        made.change(4, 0, test__bleu=math.nan, test__f1=math.inf)
        made.fail(2, 0, "lost")
        document = strictly(made.write()["results.json"])
        by_key = {trial["key"]: trial for trial in document["trials"]}
        assert by_key[made.trial(4).key]["metrics"]["test/bleu"] is None
        assert by_key[made.trial(4).key]["metrics"]["test/f1"] is None
        failed = next(cell for cell in document["cells"] if cell["label"] == "num_prompts=2")
        assert not failed["is_whole"]
        assert failed["metrics"] == {}
        assert failed["problems"] == ["failed: lost"]
        assert by_key[made.trial(2).key]["state"] == "failed"


def test_a_curve_has_its_evaluations_and_survives_a_half_written_line(tmp_path: Path) -> None:
    made = make(tmp_path, ONE_SEED)
    points = dev_nll_curve(made.results[made.trial(4).key])
    expected = [(0.0, 7.1), (8.0, 4.1), (16.0, 3.6), (24.0, 3.1 + 1 / 3), (32.0, 3.35)]
    np.testing.assert_allclose(points, expected)


def test_markdown_shows_text_literally() -> None:
    assert escape("K <= 4 & a_b\n*c*") == "K &#60;= 4 &#38; a\\_b \\*c\\*"


class TestManyTrials:
    def test_each_trials_predictions_are_read_once_for_each_use(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For the interval of each metric over test dialogues, the examples and the use of the prompts."""
        made = make(tmp_path, {k: [3 - 0.01 * k] for k in range(1, 13)})
        read: list[str] = []
        original = pq.ParquetFile
        monkeypatch.setattr(pq, "ParquetFile", lambda path: (read.append(path.parent.name), original(path))[1])
        made.write()
        uses = Counter(read)
        covered = sum(metric in example_noise.COVERED for metric in registry.COMPARED)
        assert {uses[made.trial(k).key] for k in range(2, 13)} == {covered + 2}
        assert (
            uses[made.trial(1).key] == covered + 1
        )  # the baseline is read no more, and with one prompt there is no use of prompts to show

    def test_an_interval_is_computed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = make(tmp_path, {k: [3 - 0.01 * k, 3.1 - 0.01 * k] for k in range(1, 9)})
        num_metrics = len(made.results[made.trial(1).key].metrics)
        computed: list[Sequence[float]] = []
        monkeypatch.setattr(stats, "t_interval", lambda values: (computed.append(values), t_interval(values))[1])
        made.write()
        num_deltas = 7 * len(registry.COMPARED)
        num_effects = 7 * len(published.FIVE)
        assert 0 < len(computed) <= 8 * num_metrics + num_deltas + num_effects
