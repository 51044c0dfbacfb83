"""A trial that diverges; and trials that are cut short, by Ctrl-C and then by the death of their driver."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from spt_core import recipes
from spt_core.config import parse
from spt_core.training import fit
from tests.sweeps.as_a_user import EXACT, Ended, Folder, but_for_the_machine, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

GOOD, BAD = recipes.smollm2_135m().optim.learning_rate, 1e30


def test_a_trial_that_diverges_fails_once_and_the_others_are_kept(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = spt(folder, {"optim.learning_rate": [GOOD, BAD]})
    ended = folder.run(*command, "--model", tiny_llama, *EXACT, "--set", "prompts.num_prompts=2", "--workers", "0")
    assert ended.code == 1, ended.output
    assert "MLflow has not got" not in ended.output
    trials = folder.trials()
    good, bad = (trials[f"learning_rate={rate}"] for rate in (GOOD, BAD))
    assert (good["state"], bad["state"]) == ("finished", "failed")
    assert bad["error"].startswith("NonFiniteLossError: step 2: contrastive = nan")
    assert "a lower optim.learning_rate is the usual cure" in bad["error"]
    table = ended.output[ended.output.index("\ncell ") :]
    assert "failed: NonFiniteLossError" in table.partition("\nNLL in nats")[0]
    assert f"failed: learning_rate={BAD} seed 0: {bad['error']}" in table
    assert ended.output.count(f"learning_rate={BAD} seed 0: starting") == 1, "it would only fail again"
    assert "Traceback" not in ended.output
    assert [row["step"] for row in folder.history(bad["key"])] == [0, 1]
    entries = folder.ledger(good["key"], bad["key"])
    assert entries[good["key"]].state == "finished"
    assert (entries[bad["key"]].state, entries[bad["key"]].error) == ("failed", bad["error"])
    shown = folder.mlflow()
    assert shown.parent.info.status == "FINISHED"
    assert shown.children[good["key"]].info.status == "FINISHED"
    assert shown.children[bad["key"]].info.status == "FAILED"
    assert shown.children[bad["key"]].data.tags["spt.error"] == bad["error"]
    assert shown.children[bad["key"]].data.tags["spt.retries"] == "0"
    assert sorted(trial.state.name for trial in folder.study().trials) == ["COMPLETE", "FAIL"]


# --- interrupted with Ctrl-C, then killed, then run to its end ---

STEPS, EVERY = 100, 2
ONE_SWEEP = pytest.mark.xdist_group("interrupted")
"""What `broken` is run for: in one process, so that it is run once."""
SHORT, LONG = "max_steps=4", f"max_steps={STEPS}"


@dataclass(frozen=True)
class Broken:
    """A sweep of a short trial and a long one: stopped by Ctrl-C in the long one, killed further on, finished.

    Attributes:
        states: of the trials in the report after Ctrl-C; `statuses`: of their runs in MLflow.
        reached: the last evaluation of the long trial that each of the first two runs told of.
    """

    folder: Folder
    stopped: Ended
    states: dict[str, str]
    statuses: dict[str, str]
    killed: Ended
    reached: tuple[int, int]
    finished: Ended


@pytest.fixture(scope="module")
def broken(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    folder = Folder(tmp_path_factory.mktemp("broken"))
    command = spt(folder, {"optim.max_steps": [4, STEPS]})
    command += ["--set", "prompts.num_prompts=2", "--model", tiny_llama, *EXACT]

    first = folder.start(*command)
    first.until(rf"{SHORT} .*: finished")
    stopped_at = _step(first.until(rf"{LONG} .*: training \d\d+/"))
    first.signal(signal.SIGINT)
    stopped = first.wait()
    assert stopped.code == 130, stopped.output
    trials, shown = folder.trials(), folder.mlflow()
    states = {cell: trial["state"] for cell, trial in trials.items()}
    statuses = {cell: shown.children[trial["key"]].info.status for cell, trial in trials.items()}

    second = folder.start(*command)
    second.until(rf"{LONG} .*: training \d+/")
    killed_at = _step(second.until(rf"{LONG} .*: training \d+/"))
    second.signal(signal.SIGKILL)
    killed = second.wait()

    finished = folder.run(*command)
    del folder.results
    return Broken(folder, stopped, states, statuses, killed, (stopped_at, killed_at), finished)


@ONE_SWEEP
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(broken: Broken) -> None:
    assert "interrupted: what finished is kept; run the same command again to go on" in broken.stopped.output
    assert "Traceback" not in broken.stopped.output
    assert broken.states == {SHORT: "finished", LONG: "interrupted"}
    assert broken.statuses == {SHORT: "FINISHED", LONG: "KILLED"}


@ONE_SWEEP
def test_after_ctrl_c_the_same_command_goes_on_from_the_last_checkpoint(broken: Broken) -> None:
    assert broken.killed.code == -signal.SIGKILL
    assert "1 finished before, 1 to run" in broken.killed.output
    assert _step(broken.killed.output) > broken.reached[0] - EVERY  # the last checkpoint may not have been kept yet
    assert broken.reached[1] > broken.reached[0] > EVERY


@ONE_SWEEP
def test_after_a_kill_the_same_command_finishes_all_of_it_once(broken: Broken) -> None:
    assert broken.finished.code == 0, broken.finished.output
    assert _step(broken.finished.output) > broken.reached[1] - EVERY
    trials = broken.folder.trials()
    assert {cell: trial["state"] for cell, trial in trials.items()} == {SHORT: "finished", LONG: "finished"}
    history = broken.folder.history(trials[LONG]["key"])
    assert [row["step"] for row in history] == list(range(STEPS + 1))
    assert [row["step"] for row in history if "dev/nll" in row] == list(range(0, STEPS + 1, EVERY))
    shown = broken.folder.mlflow()
    assert shown.parent.info.status == "FINISHED"
    assert {run.info.status for run in shown.children.values()} == {"FINISHED"}
    assert len(shown.children) == 2
    told = [(row["step"], row["train/total"]) for row in history if "train/total" in row]
    assert sorted(shown.steps(trials[LONG]["key"], "train/total")) == told
    complete = [trial for trial in broken.folder.study().trials if trial.state.name == "COMPLETE"]
    assert sorted(trial.params["optim.max_steps"] for trial in complete) == [4, STEPS]


@ONE_SWEEP
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
        assert but_for_the_machine(row) == pytest.approx(but_for_the_machine(expected), abs=1e-6)


def _step(text: str) -> int:
    """The step of the long trial that is told first."""
    found = re.search(rf"{LONG} seed 0: training (\d+)/{STEPS}", text)
    assert found, text
    return int(found[1])
