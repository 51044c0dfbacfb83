"""What travels between driver and worker: jobs are rebuilt from what Tune is handed, messages come out as said."""

import copy
from pathlib import Path

import pytest

from sweeps import baselines, loss_ablation
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.designs import factors
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import expand
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.worker.job import (
    Ended,
    Message,
    MetricRow,
    Retrying,
    RunsElsewhere,
    Scoring,
    SharedJob,
    as_report,
    key_of,
    message_of,
)


@pytest.mark.parametrize("sweep", [baselines.SWEEP, loss_ablation.SWEEP], ids=lambda sweep: sweep.name)
def test_a_job_is_the_trial_that_tune_was_handed_in_a_short_text(sweep: Sweep, tmp_path: Path) -> None:
    plan = expand(sweep, scale="full", device_type="cpu")
    shared = SharedJob(
        sweep=plan.sweep_id,
        base=plan.trials[0].config,
        layout=OutputLayout(tmp_path, storage="s3://bucket"),
        resources=Resources(workers=2, cpus_per_worker=3, gpus_per_worker=0.0, spread=True),
        owner="ann",
        facts={"command": "spt run"},
        code_diff="+ a line",
    )
    for trial in {**plan.known, **plan.distinct}.values():
        request = shared.request(trial.key, trial.config, cell=factors(trial.cell), identity=trial.identity)
        assert key_of(request) == trial.key
        assert all(isinstance(value, str) for value in request.values()), "a copy of Tune's shares them"
        assert copy.deepcopy(request)["job"] is request["job"]
        assert len(request["job"]) < 2_000
        job = shared.job(request)
        assert job.config == trial.config.model_dump()
        assert job.environment["identity"] == trial.identity
        assert job.environment["cell"] == factors(trial.cell)
        assert (job.environment["sweep"], job.environment["facts"]) == (plan.sweep_id, {"command": "spt run"})
        assert (job.workers, job.cpus_per_worker, job.spread, job.owner) == (2, 3, True, "ann")
        assert job.handed_over == f"s3://bucket/files/{trial.key}"
        assert job.code_diff == "+ a line"


@pytest.mark.parametrize(
    "message",
    [MetricRow(1, 4, 0.5, {"dev/nll": 3.0}), Scoring(0.25), RunsElsewhere(), Retrying(), Ended()],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_out_of_a_report_as_it_was_said(message: Message) -> None:
    assert message_of(as_report(message)) == message


def test_a_row_has_one_shape_from_training_and_from_a_history() -> None:
    told = {"step": 2.0, "total_steps": 8.0, "seconds": 1.5, "train/total": 3.0, "dev/nll": None}
    row = MetricRow.of(told)
    assert row == MetricRow(2, 8, 1.5, {"train/total": 3.0})
    assert row.percent == 25.0
