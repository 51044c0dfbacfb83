"""One logged trial run again, from its run id alone: a real trial, a real store, and what may have changed since."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from typer.testing import CliRunner

from spt_core import conversations
from sweeps.engine.cli.main import app
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.designs import Grid, factors
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan import plan as planning
from sweeps.engine.plan.plan import Plan
from sweeps.engine.store import provenance
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.tracking.logged_trial import LoggedTrial
from sweeps.engine.tracking.tracker import Tracker
from sweeps.engine.verify.compare import compare
from sweeps.engine.worker import attempt
from sweeps.engine.worker.job import SharedJob
from tests.conftest import PROJECT, tiny_config
from tests.sweeps.end_to_end.shown import Shown


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ran(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, dict[str, Any]]:
    """Two seeds of one cell, run once for all tests: the plan, the folder with model, data and trials, the metrics."""
    folder = tmp_path_factory.mktemp("ran")
    shutil.copytree(tiny_llama, folder / "model")
    for name in ("train", "valid"):
        shutil.copy(PROJECT / "spt_core" / "sample" / f"{name}.txt", folder / f"{name}.txt")
    sources = {"data__train": str(folder / "train.txt"), "data__test": str(folder / "valid.txt")}
    base = tiny_config(folder / "model", optim__max_steps=2, evaluation__every_steps=1, **sources)
    sweep = Sweep("mine", base, Grid({"prompts.num_prompts": [2]}), {"prompts.num_prompts": 2}, seeds=2)
    plan = planning.expand(sweep, scale="full", device_type="cpu")
    one_thread = Resources(workers=0, cpus_per_worker=1, gpus_per_worker=0.0)
    metrics = {}
    shared = SharedJob(
        sweep=plan.sweep_id,
        base=plan.trials[0].config,
        layout=OutputLayout(folder),
        resources=one_thread,
        owner="ann",
        facts=provenance.facts(),
    )
    for trial in plan.trials:
        request = shared.request(trial.key, trial.config, cell=factors(trial.cell), identity=trial.identity)
        job = shared.job(request)
        assert job.config == trial.config.model_dump()
        metrics[trial.key] = attempt.run(job, say=lambda message: None)["metrics"]
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()  # its migrations take seconds
    return plan, folder, metrics


@dataclass(frozen=True)
class Logged:
    """A folder whose MLflow holds the sweep, and what a test asks of it.

    Attributes:
        folder: with model, data, trials and MLflow, this test's own.
        plan: of the sweep.
    """

    folder: Path
    plan: Plan

    @property
    def shown(self) -> Shown:
        return Shown(f"sqlite:///{self.folder / 'mlflow.db'}", "mine")

    @property
    def child(self) -> Run:
        return self.shown.children[self.plan.trials[0].key]

    @property
    def run_id(self) -> str:
        return str(self.child.info.run_id)

    def artifact(self, name: str) -> Path:
        return Path(url2pathname(urlsplit(self.child.info.artifact_uri).path)) / name

    def edit(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a JSON file of the logged run in place."""
        values = json.loads(self.artifact(name).read_text())
        change(values)
        self.artifact(name).write_text(json.dumps(values))

    def verify(self, *arguments: str, run_id: str | None = None) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["verify", run_id or self.run_id, "--output", str(self.folder), *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def logged(ran: tuple[Plan, Path, dict[str, Any]], tmp_path: Path) -> Logged:
    plan, folder, metrics = ran
    shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db")
    track(
        plan, tmp_path, [TrialResult(key, "finished", found, folder / "trials" / key) for key, found in metrics.items()]
    )
    return Logged(tmp_path, plan)


def track(plan: Plan, folder: Path, results: list[TrialResult]) -> None:
    uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "mlartifacts")
    with Tracker(uri, plan=plan, artifacts=artifacts, facts={}) as tracker:
        for result in results:
            tracker.finish(plan.distinct[result.key], result)
        assert tracker.close() == ()


@pytest.fixture
def source(ran: tuple[Plan, Path, dict[str, Any]]) -> Iterator[Callable[[str], Path]]:
    """Files that the trial was made of, to change; they are put back."""
    before: dict[Path, bytes] = {}

    def of(name: str) -> Path:
        path = ran[1] / name
        before[path] = path.read_bytes()
        return path

    yield of
    for path, content in before.items():
        path.write_bytes(content)


def assert_refused(answer: tuple[int, str, str], *needles: str) -> None:
    code, _, error = answer
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1, "one line"
    for needle in needles:
        assert needle in error


def test_a_trial_reproduces_to_the_bit_from_its_run_id_alone(logged: Logged) -> None:
    torch.set_num_threads(2)  # the trial ran on one
    code, out, _ = logged.verify()
    assert code == 0, out
    assert "to the bit, on 1 thread: processor, torch and versions are those of the run" in out
    assert "num_prompts=2 seed 0: finished in" in out
    compared = sum(not name.endswith("seconds") for name in json.loads(logged.artifact("metrics.json").read_text()))
    assert compared > 50
    assert f"REPRODUCED exactly: {compared} metrics, all but timings, are equal" in out
    assert "NOT" not in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("test/nll")] == ["equal"]


def test_the_verdict_as_json(logged: Logged) -> None:
    code, out, err = logged.verify("--json")
    verdict = json.loads(out)
    assert code == 0
    assert verdict["reproduced"]
    assert verdict["equal"]
    assert verdict["had_to_be_equal"]
    assert verdict["threads"] == 1
    now = verdict["metrics"]["test/nll"]
    assert now["logged"] == now["now"] == logged.child.data.metrics["test/nll"]
    assert "seconds" not in " ".join(verdict["metrics"])
    assert "training 2/2" in err


@pytest.mark.parametrize(("name", "split"), [("train.txt", "train"), ("valid.txt", "test")])
def test_one_byte_of_the_data_is_refused_with_file_and_fingerprints(
    logged: Logged, source: Callable[[str], Path], name: str, split: str
) -> None:
    path = source(name)
    text = path.read_bytes()
    at = text.index(b"\t") + 1  # the first byte of the first reply
    path.write_bytes(text[:at] + (b"x" if text[at : at + 1] != b"x" else b"y") + text[at + 1 :])
    present = conversations.load(path).fingerprint
    fingerprint = logged.plan.trials[0].identity["data"][split]
    assert present != fingerprint
    assert_refused(
        logged.verify(),
        f"data.{split} = {path}: these are not the dialogues of the run",
        f"logged fingerprint {fingerprint}, present fingerprint {present}",
        f"--{split} FILE",
    )


def test_data_that_moved_is_the_same_data(logged: Logged, source: Callable[[str], Path], tmp_path: Path) -> None:
    path = source("train.txt")
    shutil.move(path, tmp_path / "elsewhere.txt")
    assert_refused(logged.verify(), f"data.train: {path}: there is no such file", "say where it is: --train FILE")
    code, out, _ = logged.verify("--train", str(tmp_path / "elsewhere.txt"))
    assert code == 0, out
    assert "REPRODUCED exactly" in out


def test_another_model_is_refused(logged: Logged, source: Callable[[str], Path]) -> None:
    path = source("model/model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fingerprint = logged.plan.trials[0].identity["backbone"]
    assert_refused(logged.verify(), "this is not the model of the run", f"logged fingerprint {fingerprint}", "--model")


def test_a_run_that_is_not_there_is_refused(logged: Logged) -> None:
    assert_refused(logged.verify(run_id="0" * 32), f"RUN_ID {'0' * 32}: there is no such run", "spt ui")


def test_a_folder_without_a_store_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", "abc", "--output", str(tmp_path / "none")])
    assert_refused((result.exit_code, "", result.stderr), f"--output {tmp_path / 'none'}", "--tracking-uri")
    assert not (tmp_path / "none").exists()


def test_a_whole_sweep_is_refused(logged: Logged) -> None:
    refusal = logged.verify(run_id=logged.shown.parent.info.run_id)
    assert_refused(refusal, f"it is a whole sweep, {logged.plan.sweep_id}", "one of its child runs")


@pytest.mark.parametrize(
    ("state", "error", "reason"),
    [
        ("failed", "NonFiniteLossError: step 2", "the trial failed (NonFiniteLossError: step 2), so there is nothing"),
        ("interrupted", None, "nothing to verify yet: it was interrupted"),
    ],
)
def test_a_trial_that_did_not_finish_is_refused(
    ran: tuple[Plan, Path, dict[str, Any]], tmp_path: Path, state: Any, error: str | None, reason: str
) -> None:
    plan, folder, _ = ran
    shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db")
    track(plan, tmp_path, [TrialResult(plan.trials[0].key, state, {}, tmp_path / "nothing", error=error)])
    assert_refused(Logged(tmp_path, plan).verify(), reason, "run its sweep again")


@pytest.mark.parametrize("name", ["config.json", "environment.json", "metrics.json"])
def test_a_run_without_one_of_its_files_is_refused(logged: Logged, name: str) -> None:
    logged.artifact(name).unlink()
    assert_refused(logged.verify(), f"its file {name} cannot be had", "run its sweep again")


def test_a_file_that_is_no_json_is_refused(logged: Logged) -> None:
    logged.artifact("config.json").write_text("{")
    assert_refused(logged.verify(), "its file config.json is no JSON", "changed")


def test_other_arithmetic_is_refused_with_the_commit_of_then(logged: Logged) -> None:
    def older(environment: dict[str, Any]) -> None:
        environment["identity"]["numerics"] = 1
        environment["facts"]["git_commit"] = "abc123 with uncommitted changes"

    logged.edit("environment.json", older)
    assert_refused(
        logged.verify(), "numerics version: logged 1, here", "git checkout abc123, then apply the run's code.diff"
    )


def test_a_metric_changed_in_the_file_is_not_reproduced(logged: Logged) -> None:
    logged.edit("metrics.json", lambda metrics: metrics.update({"test/nll": metrics["test/nll"] - 1e-9}))
    code, out, _ = logged.verify()
    assert code == 1
    assert "NOT REPRODUCED: MLflow shows test/nll otherwise than the trial found" in out


def test_a_metric_changed_everywhere_is_not_reproduced(logged: Logged) -> None:
    better = logged.child.data.metrics["test/nll"] - 1e-9
    logged.edit("metrics.json", lambda metrics: metrics.update({"test/nll": better}))
    logged.shown.client.log_metric(logged.run_id, "test/nll", better, step=10)
    code, out, _ = logged.verify()
    assert code == 1
    assert "NOT REPRODUCED: 1 of " in out
    assert "differ, and had to be equal: test/nll" in out


def test_a_metric_changed_in_mlflow_alone_is_not_reproduced(logged: Logged) -> None:
    logged.shown.client.log_metric(logged.run_id, "test/f1", 99.0, step=10)
    code, out, _ = logged.verify()
    assert code == 1
    assert "MLflow shows 99.0" in out
    assert "NOT REPRODUCED: MLflow shows test/f1 otherwise than the trial found" in out


def test_a_config_changed_in_the_run_is_not_reproduced(logged: Logged) -> None:
    logged.edit("config.json", lambda config: config["optim"].update(learning_rate=0.5))
    code, out, _ = logged.verify()
    assert code == 1
    assert "key: logged" in out
    assert "NOT REPRODUCED" in out


def test_another_machine_is_held_to_the_spread_of_the_seeds(logged: Logged) -> None:
    def elsewhere(environment: dict[str, Any]) -> None:
        environment["execution"] |= {"processor": "Z80", "threads": 2}
        environment["facts"]["git_commit"] = "abc123"
        environment["facts"]["ray"] = "1.0"
        environment["identity"]["versions"]["transformers"] = "4.0"

    logged.edit("environment.json", elsewhere)
    code, out, _ = logged.verify()
    assert code == 0, out
    for needle in (
        "to a tolerance, on 2 threads: transformers was 4.0, is ",
        "the processor was Z80, is ",
        "note: code: logged abc123, here ",
        "note: ray: logged 1.0, here ",
        "2 standard deviations over the 2 seeds of its cell",
        "REPRODUCED",
    ):
        assert needle in out


def test_a_trial_that_fails_now_is_not_reproduced(logged: Logged) -> None:
    logged.edit("config.json", lambda config: config["optim"].update(learning_rate=1e30))
    code, out, _ = logged.verify()
    assert code == 1
    assert "NOT REPRODUCED: the trial finished then and failed now: NonFiniteLossError" in out


ALONE = LoggedTrial(
    run_id="r",
    name="seed 0",
    config={},
    environment={},
    metrics={"test/nll": 3.0, "test/f1": 20.0, "test/lm_agreement": 50.0, "seconds": 9.0},
    shown={"test/nll": 3.0, "test/f1": 20.0},
    seeds=({"test/nll": 3.0, "test/f1": 20.0},),
    primary_metric="test/nll",
)


@pytest.mark.parametrize(
    ("now", "exact", "reproduced"),
    [
        ({}, True, True),
        ({"seconds": 1.0}, True, True),  # a timing
        ({"test/lm_agreement": 50.1}, True, False),
        ({"test/lm_agreement": 90.0}, False, True),  # not a main metric
        ({"test/nll": 3.0199}, False, True),
        ({"test/nll": 3.0201}, False, False),
        ({"test/nll": math.nan}, False, False),
        ({"test/f1": 21.9}, False, True),  # a tenth of it
        ({"test/f1": 22.1}, False, False),
    ],
)
def test_without_seeds_the_default_tolerance_decides(now: dict[str, float], exact: bool, reproduced: bool) -> None:
    verdict = compare(ALONE, {**ALONE.metrics, **now}, exact=exact)
    assert verdict.reproduced == reproduced
    assert ("default" in verdict.tolerance) == (not exact)


def test_the_spread_of_the_seeds_is_the_tolerance() -> None:
    seeds = tuple({"test/nll": value} for value in (2.9, 3.0, 3.1))  # a standard deviation of 0.1
    several = replace(ALONE, seeds=seeds)
    for now, reproduced in ((3.19, True), (2.81, True), (3.21, False)):
        assert compare(several, {**ALONE.metrics, "test/nll": now}, exact=False).reproduced == reproduced
    alike = replace(ALONE, seeds=({"test/nll": 3.0}, {"test/nll": 3.0}))
    for now, reproduced in ((3.0019, True), (3.0021, False)):
        assert compare(alike, {**ALONE.metrics, "test/nll": now}, exact=False).reproduced == reproduced


def test_an_undefined_metric_is_equal_to_an_undefined_one_and_a_missing_one_is_off() -> None:
    undefined = replace(
        ALONE, metrics={"test/nll": math.nan, "test/bleu": math.inf}, shown={"test/bleu": 1.7976931348623157e308}
    )
    verdict = compare(undefined, {"test/nll": math.nan, "test/bleu": math.inf}, exact=True)
    assert verdict.reproduced
    assert verdict.is_equal
    assert not compare(ALONE, {"test/f1": 20.0}, exact=False).reproduced
