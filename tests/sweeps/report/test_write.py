"""Reports of made-up trials: the numbers are where they should be, nothing is hidden, nothing gets out or in."""

import base64
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sweeps.engine.analysis import example_noise, stats
from sweeps.engine.analysis.cells import dev_nll_curve, summarise
from sweeps.engine.analysis.stats import t_interval
from sweeps.engine.design import metrics as registry
from sweeps.engine.paper import published
from sweeps.engine.report.further_tables import at_equal_compute
from sweeps.engine.report.table import escape
from sweeps.engine.store.trial_folder import HISTORY, PREDICTIONS
from tests.sweeps.report.made_sweep import (
    HOSTILE,
    ONE_SEED,
    THREE_SEEDS,
    make,
    strictly,
)


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


def test_figures_that_a_report_no_longer_has_are_dropped(tmp_path: Path) -> None:
    made = make(tmp_path, ONE_SEED)
    made.write()
    figures = tmp_path / "report" / "figures"
    names = {path.name for path in figures.iterdir()}
    assert {"primary_metric.pdf", "primary_metric.png"} <= names
    for name in ("pareto_front.pdf", "pareto_front.png", "notes.txt"):
        (figures / name).write_bytes(b"of before")
    made.write()
    assert {path.name for path in figures.iterdir()} == names | {"notes.txt"}
