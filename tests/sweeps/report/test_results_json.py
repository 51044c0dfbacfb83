"""The answer for programs: results.json and trials.csv."""

import math
from pathlib import Path

import pytest

from spt_core.config import TrialConfig
from sweeps.engine.analysis.stats import paired_delta, t_interval
from tests.sweeps.report.made_sweep import ONE_SEED, THREE_SEEDS, make, strictly


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
