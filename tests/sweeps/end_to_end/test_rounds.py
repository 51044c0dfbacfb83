"""A demo-scale sweep with a nuisance factor through Ray Tune: cut short by its budget, resumed, reported, verified."""

import json
import shutil
from pathlib import Path

import optuna
import pytest

from tests.conftest import PROJECT
from tests.sweeps.end_to_end.test_sweep import Ended, Folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RATES = (0.01, 0.1)
SPT = ("-m", "sweeps.engine.cli.main")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Folder:
    """With the sweep's file, its data and its model, all named by relative paths."""
    made = Folder(tmp_path_factory.mktemp("rounds"))
    for name in ("train", "valid"):
        shutil.copy(PROJECT / "spt_core" / "sample" / f"{name}.txt", made.path / f"{name}.txt")
    shutil.copytree(tiny_llama, made.path / "model")
    (made.path / "mine.py").write_text(
        "from spt_core import recipes\n"
        "from sweeps.engine import Cases, PerCellTuning, Sweep\n"
        "CASES = Cases({'PT': {'prompts.num_prompts': 1}, 'SPT': {'prompts.num_prompts': 2}})\n"
        f"RETUNE = PerCellTuning({{'optim.learning_rate': {list(RATES)}}})\n"
        "SWEEP = Sweep('mine', recipes.smollm2_135m(), CASES, retune=RETUNE)\n"
    )
    return made


@pytest.fixture(scope="module")
def cut_short(folder: Folder) -> Ended:
    """A budget of two seconds is spent by the first trial."""
    asked = ["--scale", "demo", "--model", "model", "--train", "train.txt", "--test", "valid.txt", "--workers", "0"]
    place = ["--study", f"journal:{folder.path / 'study.log'}", "--budget-hours", "0.0005", "--concurrency", "1"]
    return folder.run(*SPT, "run", "mine.py", *asked, *place, "--cpus-per-worker", "1")


@pytest.fixture(scope="module")
def resumed(folder: Folder, cut_short: Ended) -> Ended:
    assert cut_short.code == 3, cut_short.output
    return folder.run(*SPT, "resume", "mine")


def test_a_budget_that_is_spent_ends_the_run_with_what_ran(folder: Folder, cut_short: Ended) -> None:
    assert cut_short.code == 3, cut_short.output
    assert "first 4 trials that retune optim.learning_rate in 0.01, 0.1 within each cell" in cut_short.output
    assert cut_short.output.count(": starting") == 1
    assert "the budget is spent: " in cut_short.output
    assert "run the same command again to go on" in cut_short.output
    retuned = folder.results["retuned"]
    states = sorted(one["state"] for cell in retuned["cells"] for one in cell["tried"])
    assert (retuned["ended"], states) == (False, ["finished", "not run", "not run", "not run"])
    assert {trial["state"] for trial in folder.results["trials"]} == {"not run"}


def test_a_resume_tunes_each_cell_and_runs_it_at_its_best(folder: Folder, resumed: Ended) -> None:
    assert resumed.code == 0, resumed.output
    assert resumed.output.count(": reused") == 1
    assert resumed.output.count(": starting") == 5
    del folder.results
    retuned, trials = folder.results["retuned"], folder.trials()
    assert retuned["ended"]
    for cell in retuned["cells"]:
        assert [one["state"] for one in cell["tried"]] == ["finished"] * 2
        best = min(cell["tried"], key=lambda one: one["dev_nll"])
        assert cell["chosen"] == best["levels"]
        config = trials[cell["cell"]]["config"]
        assert (config["optim"]["learning_rate"], config["seed"]) == (best["levels"]["optim.learning_rate"], 0)
        for one in cell["tried"]:
            (metrics,) = [entry.metrics for entry in folder.ledger(one["key"]).values()]
            assert metrics["dev/nll"] == one["dev_nll"]
            assert not any(name.startswith("test/") and name != "test/seconds" for name in metrics)
    assert all(trial["metrics"]["test/nll"] > 0 for trial in trials.values())


def test_both_rounds_are_in_mlflow_and_in_the_study(folder: Folder, resumed: Ended) -> None:
    assert resumed.code == 0, resumed.output
    del folder.results
    shown, storage = folder.mlflow(), optuna.storages.JournalStorage(_journal(folder))
    assert len(shown.children) == 6
    rates = {child.data.tags["factor.optim.learning_rate"] for child in shown.children.values()}
    assert rates == {str(rate) for rate in RATES}
    sweep_id = folder.results["sweep"]["id"]
    studies = {name: optuna.load_study(study_name=name, storage=storage) for name in (sweep_id, f"{sweep_id}-tuning")}
    assert [len(study.trials) for study in studies.values()] == [2, 4]
    assert not (folder.out / "optuna.db").exists()


def _journal(folder: Folder) -> optuna.storages.journal.JournalFileBackend:
    return optuna.storages.journal.JournalFileBackend(str(folder.path / "study.log"))


def test_status_report_and_plan_know_what_there_is(folder: Folder, resumed: Ended) -> None:
    assert resumed.code == 0, resumed.output
    (status,) = json.loads(folder.run(*SPT, "status", "--json").output)
    assert (status["counts"]["finished"], status["trials"]) == (6, [])
    (page,) = folder.out.glob("mine-*/report.html")
    page.unlink()
    report = folder.run(*SPT, "report", "mine.py")
    assert report.code == 0, report.output
    assert "Nuisance factors, retuned within each cell" in page.read_text()
    assert "starting" not in report.output
    again = folder.run(*SPT, "resume", status["sweep_id"], "--dry-run")
    assert again.code == 0, again.output
    assert "4 finished before, 0 to run" in again.output
    assert "2 finished before, 0 to run" in again.output


def test_a_trial_of_it_is_verified_and_not_once_its_data_have_changed(folder: Folder, resumed: Ended) -> None:
    assert resumed.code == 0, resumed.output
    run_id = folder.mlflow().children[folder.trials()["SPT"]["key"]].info.run_id
    same = folder.run(*SPT, "verify", run_id)
    assert same.code == 0, same.output
    assert "REPRODUCED exactly" in same.output
    data = folder.path / "train.txt"
    before = data.read_bytes()
    at = before.index(b"your persona: ") + len(b"your persona: ") + 3
    data.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
    try:
        changed = folder.run(*SPT, "verify", run_id)
    finally:
        data.write_bytes(before)
    assert changed.code == 2, changed.output
    assert "these are not the dialogues of the run" in changed.output
