"""One way from a command to a plan: what `spt run` and `spt reproduce` make of the same cluster."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeps import loss_ablation, table1
from sweeps.engine.cli import main as cli
from sweeps.engine.cli import reproduce
from sweeps.engine.cluster import resources
from sweeps.engine.cluster.nodes import Cluster, Nodes
from sweeps.engine.driver import request
from sweeps.engine.driver.request import Request, ResolvedRequest, parse_settings, resolve
from tests.conftest import PROJECT

GPUS = Cluster((Nodes(1, 7.0), Nodes(16, 8.0, 1.0, 60.0, "V100")))


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[ResolvedRequest]:
    """A cluster of 16 V100 that this process is connected to; what the commands resolve is kept, and nothing runs."""
    found: list[ResolvedRequest] = []

    def keep(asked: Request) -> ResolvedRequest:
        found.append(resolve(asked))
        return found[-1]

    for module in (resources, request):
        monkeypatch.setattr(module, "at_hand", lambda: GPUS)
    monkeypatch.setattr(request, "resolve", keep)
    monkeypatch.setattr(reproduce, "connection", lambda **_: nullcontext())
    monkeypatch.setattr("sweeps.engine.cluster.ray_runtime.connection", lambda **_: nullcontext())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("SPT_STORAGE", "s3://bucket/folder")
    return found


def test_reproduce_plans_the_very_trials_that_run_plans_on_a_cluster(
    resolved: list[ResolvedRequest], tmp_path: Path
) -> None:
    common = ["--scale", "tiny", "--dry-run", "--output", str(tmp_path)]
    runner = CliRunner()
    for arguments in (
        ["run", str(PROJECT / "sweeps" / "loss_ablation.py"), *common],
        ["run", str(PROJECT / "sweeps" / "table1.py"), *common, "--no-retune"],
        ["reproduce", "table2", *common],
    ):
        done = runner.invoke(cli.app, arguments)
        assert done.exit_code == 0, done.output
    by_run, by_reproduce = resolved[:2], resolved[2:]
    assert [one.plan.sweep.name for one in by_run] == [loss_ablation.SWEEP.name, table1.SWEEP.name]
    assert [one.plan.sweep_id for one in by_reproduce] == [one.plan.sweep_id for one in by_run]
    for run, again in zip(by_run, by_reproduce, strict=True):
        assert list(again.plan.distinct) == list(run.plan.distinct)
        assert (again.resources, again.layout, again.tracking_uri) == (run.resources, run.layout, run.tracking_uri)
    first = by_reproduce[0]
    assert first.resources.gpus_per_worker == 1.0
    assert first.layout.storage == "s3://bucket/folder"
    assert first.tracking_uri == "http://tracking:5000"
    trial = first.plan.trials[0]
    assert trial.identity["device_type"] == "cuda"
    assert trial.config.backbone.precision == "float16"


def test_gpus_of_a_kind_that_ray_does_not_know_need_a_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Cluster((Nodes(1, 7.0), Nodes(2, 8.0, 1.0)))
    for module in (resources, request):
        monkeypatch.setattr(module, "at_hand", lambda: unknown)
    asked: dict[str, Any] = {"sweep": loss_ablation.SWEEP, "question": "", "scale": "tiny", "model": None}
    asked |= {"seeds": None, "resources": resources.Resources(), "output": Path("runs")}
    with pytest.raises(ValueError, match=r"backbone.precision = 'auto': this machine has no GPU to ask"):
        resolve(Request(**asked, settings={}))
    told = resolve(Request(**asked, settings={"backbone.precision": "float16"}))
    assert told.plan.trials[0].identity["precision"] == "float16"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.b=1"], {"a.b": 1}),
        (["a.b=x y", "c=null", "d=None"], {"a.b": "x y", "c": None, "d": None}),
        (["a=[1, 2]", "b=True"], {"a": [1, 2], "b": True}),
    ],
)
def test_settings_are_json_or_text(given: list[str], expected: Mapping[str, Any]) -> None:
    assert parse_settings(given) == expected


def test_set_wins_over_the_option_for_the_same_field() -> None:
    settings = parse_settings(["optim.max_steps=7"], train="dialogues.txt", steps=40)
    assert settings == {"data.train": "dialogues.txt", "optim.max_steps": 7}


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="--set seeds: it should be FIELD=VALUE"):
        parse_settings(["seeds"])
