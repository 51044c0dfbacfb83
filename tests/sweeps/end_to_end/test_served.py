"""A cell that a server replies to, beside one of the local model: trained, written, reported, without an NLL."""

import json
from pathlib import Path

from spt_core import recipes
from sweeps.engine.analysis.answer import answer
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.designs import Cases, factors
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.driver import run_sweep
from sweeps.engine.plan import plan as planning
from sweeps.engine.report.write import write
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.worker import attempt
from sweeps.engine.worker.job import SharedJob
from tests.conftest import tiny_config
from tests.spt_core.test_baselines import server

__all__ = ["server"]


def test_a_served_cell_is_reported_beside_a_local_one(tiny_llama: Path, tmp_path: Path, server: str) -> None:
    base = recipes.in_context(tiny_config(tiny_llama))
    served = {"in_context.endpoint": server, "in_context.endpoint_model": "some-model"}
    sweep = Sweep(name="served", base=base, design=Cases({"local": {}, "served": served}), baseline={})
    plan = planning.expand(sweep, scale="tiny", device_type="cpu")
    places = OutputLayout(tmp_path)
    resources = Resources(workers=0, cpus_per_worker=1, gpus_per_worker=0.0)
    found = {}
    shared = SharedJob(plan.sweep_id, plan.trials[0].config, places, resources, owner="ann", facts={})
    for trial in plan.trials:
        job = shared.job(shared.request(trial.key, trial.config, cell=factors(trial.cell), identity=trial.identity))
        outcome = attempt.run(job, say=lambda message: None)
        found[trial.key] = TrialResult(trial.key, "finished", outcome["metrics"], places.trial(trial.key))
    local, remote = (found[trial.key] for trial in plan.trials)
    assert "test/nll" in local.metrics
    assert "test/nll" not in remote.metrics
    assert {path.name for path in local.folder.iterdir()} - {path.name for path in remote.folder.iterdir()} == {
        "adapter"
    }
    assert run_sweep._summary(answer(plan, found)).keys() == {"trials/finished", "test/nll/local"}
    page = write(answer(plan, found), tmp_path / "report", facts={}).read_text()
    assert "you said 2 things" in page
    cells = json.loads((tmp_path / "report" / "results.json").read_text())["cells"]
    assert len(cells) == 2
