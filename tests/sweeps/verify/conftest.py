"""A sweep that ran once, and its log in a store of each test's own."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.designs import Grid, factors
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan import plan as planning
from sweeps.engine.store import provenance
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.worker import attempt
from sweeps.engine.worker.job import SharedJob
from tests.conftest import PROJECT, tiny_config
from tests.sweeps.verify.logged_run import Logged, Ran, track


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ran(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Two seeds of one cell, run once for all tests."""
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


@pytest.fixture
def logged(ran: Ran, tmp_path: Path) -> Logged:
    plan, folder, metrics = ran
    shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db")
    track(
        plan, tmp_path, [TrialResult(key, "finished", found, folder / "trials" / key) for key, found in metrics.items()]
    )
    return Logged(tmp_path, plan)


@pytest.fixture
def source(ran: Ran) -> Iterator[Callable[[str], Path]]:
    """Files that the trial was made of, to change; they are put back."""
    before: dict[Path, bytes] = {}

    def of(name: str) -> Path:
        path = ran[1] / name
        before[path] = path.read_bytes()
        return path

    yield of
    for path, content in before.items():
        path.write_bytes(content)
