"""The registry of metrics: it knows what trials measure, and refuses what none does before anything runs."""

from pathlib import Path

import pytest

from spt_core.config import TrialConfig
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design import metrics
from sweeps.engine.design.designs import Grid
from sweeps.engine.design.search import Search
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import expand
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.worker.attempt import run
from sweeps.engine.worker.job import SharedJob
from tests.conftest import tiny_config

K = "prompts.num_prompts"


def test_every_metric_of_a_trial_is_registered(tiny_llama: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=1)
    shared = SharedJob("s", config, OutputLayout(tmp_path), Resources(0, 1, 0.0), owner="ann", facts={})
    measured = run(shared.job(shared.request("key", config, cell={}, identity={})), say=lambda _: None)["metrics"]
    names = {name.partition("/")[2] for name in measured if name.startswith(("test/", "raw/"))}
    assert len(names) > 20
    parts_of_others = {name for name in names if name.startswith(("usage/", "share_cut/"))}
    assert names - parts_of_others <= metrics.REGISTRY.keys()
    for split in ("test", "raw"):
        known = {f"{split}/{name}" for name in metrics._ANSWERABLE[split] if not name.startswith("bert_")}
        assert known <= measured.keys()


@pytest.mark.parametrize(
    ("name", "title", "decimals", "direction"),
    [
        ("test/nll", "test NLL", 3, "lower is better"),
        ("dev/nll", "dev NLL", 3, "lower is better"),
        ("routing/random/nll", "NLL", 3, "lower is better"),
        ("test/f1", "F1", 2, "higher is better"),
        ("dev/f1", "dev F1", 2, "higher is better"),
        ("raw/dist_avg", "raw DIST_AVG", 2, "nearer to the human replies is better"),
        ("test/bert_recall", "BERT R", 2, "higher is better"),
        ("something/new_one", "new one", 2, "higher is better"),
    ],
)
def test_what_is_known_of_a_metric(name: str, title: str, decimals: int, direction: str) -> None:
    assert (metrics.title(name), metrics.of(name).decimals) == (title, decimals)
    assert metrics.direction(name) == direction


def test_badness_is_lower_where_a_value_is_better() -> None:
    assert metrics.badness("test/nll", 3.0, human=None) < metrics.badness("test/nll", 3.1, human=None)
    assert metrics.badness("test/f1", 12.0, human=None) < metrics.badness("test/f1", 11.0, human=None)
    assert metrics.badness("test/dist_1", 55.0, human=60.0) < metrics.badness("test/dist_1", 70.0, human=60.0)


def test_an_nll_has_a_margin_in_nats_and_a_score_two_percent() -> None:
    assert metrics.margin("test/nll", 3.3) == metrics.margin("routing/turn/nll", 9.0) == 0.01
    assert metrics.margin("test/f1", -20.0) == pytest.approx(0.4)


def stated(primary: str) -> Sweep:
    return Sweep("mine", TrialConfig(), Grid({K: [1, 2]}), primary_metric=primary)


@pytest.mark.parametrize("name", ["test/meteor", "dev/foo", "f1", "test/", "test/usage_entropy", "human/f1", "nll"])
def test_an_unknown_primary_metric_is_refused_where_the_sweep_is_stated(name: str) -> None:
    with pytest.raises(ValueError, match=r"Sweep mine: primary_metric = .*The known ones are test/ nll, .*; dev/ nll"):
        stated(name)


@pytest.mark.parametrize("name", ["dev/foo", "test/nll", "raw/f1"])
def test_an_unknown_objective_is_refused_where_the_search_is_stated(name: str) -> None:
    with pytest.raises(ValueError, match=r"Search objective .*no trial has this metric. The known ones are dev/ nll"):
        Search({K: object()}, objectives=(name,))


@pytest.mark.parametrize(
    ("primary", "settings", "cure"),
    [
        ("test/bert_f1", {"evaluation.bert_encoder": None}, "evaluation.bert_encoder is None, .* set it"),
        ("dev/f1", {}, "ask for test/f1"),
        ("test/f1", {"evaluation.split": "dev"}, "leaves test alone"),
    ],
)
def test_a_metric_that_these_trials_will_not_have_is_refused_when_planned(
    tiny_llama: Path, primary: str, settings: dict[str, object], cure: str
) -> None:
    sweep = Sweep("mine", tiny_config(tiny_llama), Grid({K: [1, 2]}), primary_metric=primary)
    with pytest.raises(ValueError, match=cure):
        expand(sweep, scale="full", device_type="cpu", settings=settings)


def test_a_dev_metric_that_chooses_the_checkpoint_can_be_the_primary_one(tiny_llama: Path) -> None:
    sweep = Sweep("mine", tiny_config(tiny_llama), Grid({K: [1, 2]}), primary_metric="dev/f1")
    plan = expand(sweep, scale="full", device_type="cpu", settings={"evaluation.select_by": "f1"})
    assert len(plan.distinct) == 2
