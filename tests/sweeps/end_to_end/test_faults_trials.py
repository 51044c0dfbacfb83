"""A trial that diverges; and trials that are cut short, by Ctrl-C and then by the death of their driver."""

import re
import signal
from pathlib import Path

import pytest
import torch

from spt_core import recipes
from spt_core.config import TrialConfig, parse
from spt_core.training import fit
from tests.sweeps.end_to_end.as_a_user import EXACT, Folder, but_for_the_machine, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

GOOD, BAD = recipes.smollm2_135m().optim.learning_rate, 1e30
STEPS, EVERY = 150, 2
SHORT, LONG = "max_steps=4", f"max_steps={STEPS}"


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


def test_a_trial_cut_short_by_ctrl_c_and_then_by_a_kill_ends_as_one_that_never_was(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Beside a short trial, which has finished before: Ctrl-C, the same command killed further on, and once more."""
    folder = Folder(tmp_path)
    command = spt(folder, {"optim.max_steps": [4, STEPS]})
    command += ["--set", "prompts.num_prompts=2", "--model", tiny_llama, *EXACT, "--concurrency", "2"]

    first = folder.start(*command)
    first.until(rf"{SHORT} .*: finished")
    stopped_at = step_of(first.until(rf"{LONG} .*: training \d\d+/"))
    first.signal(signal.SIGINT)
    stopped = first.wait()
    assert stopped.code == 130, stopped.output
    assert "interrupted: what finished is kept; run the same command again to go on" in stopped.output
    assert "Traceback" not in stopped.output
    trials, shown = folder.trials(), folder.mlflow()
    assert {cell: trial["state"] for cell, trial in trials.items()} == {SHORT: "finished", LONG: "interrupted"}
    statuses = {cell: shown.children[trial["key"]].info.status for cell, trial in trials.items()}
    assert statuses == {SHORT: "FINISHED", LONG: "KILLED"}

    second = folder.start(*command)
    assert "1 finished before, 1 to run" in second.until("finished before")
    assert step_of(second.until(rf"{LONG} .*: training \d+/")) > stopped_at - EVERY, "it may not have kept the last one"
    killed_at = step_of(second.until(rf"{LONG} .*: training \d+/"))
    assert killed_at > stopped_at > EVERY
    second.signal(signal.SIGKILL)
    assert second.wait().code == -signal.SIGKILL

    finished = folder.run(*command)
    assert finished.code == 0, finished.output
    assert step_of(finished.output) > killed_at - EVERY
    del folder.results
    trials, shown = folder.trials(), folder.mlflow()
    assert {cell: trial["state"] for cell, trial in trials.items()} == {SHORT: "finished", LONG: "finished"}
    trial = trials[LONG]
    history = folder.history(trial["key"])
    assert [row["step"] for row in history] == list(range(STEPS + 1))
    assert [row["step"] for row in history if "dev/nll" in row] == list(range(0, STEPS + 1, EVERY))
    assert shown.parent.info.status == "FINISHED"
    assert {run.info.status for run in shown.children.values()} == {"FINISHED"}
    assert len(shown.children) == 2
    told = [(row["step"], row["train/total"]) for row in history if "train/total" in row]
    assert sorted(shown.steps(trial["key"], "train/total")) == told
    complete = [one for one in folder.study().trials if one.state.name == "COMPLETE"]
    assert sorted(one.params["optim.max_steps"] for one in complete) == [4, STEPS]

    rows, metrics = without_a_break(parse(trial["config"]))
    assert trial["metrics"]["dev/nll"] == pytest.approx(metrics["dev/nll"], abs=1e-9)
    for row, expected in zip(history, rows, strict=True):
        assert but_for_the_machine(row) == pytest.approx(but_for_the_machine(expected), abs=1e-6)


def without_a_break(config: TrialConfig) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The history and the metrics of a trial that goes through at once, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, float]] = []
    try:
        fitted = fit(config, report=lambda row, _: rows.append(row), device="cpu")
    finally:
        torch.set_num_threads(threads)
    return rows, fitted.metrics


def step_of(text: str) -> int:
    """The step of the long trial that is told first."""
    found = re.search(rf"{LONG} seed 0: training (\d+)/{STEPS}", text)
    assert found, text
    return int(found[1])
