"""What a plan will take: what it rests on, and real steps timed on the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spt_core import schedule
from spt_core.config import TrialConfig
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.designs import Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan import calibration
from sweeps.engine.plan.calibration import Calibration
from sweeps.engine.plan.estimate import calibrate, estimate, shapes
from sweeps.engine.plan.plan import Plan, expand
from sweeps.engine.plan.trial import Trial
from sweeps.engine.store import trial_folder
from tests.conftest import tiny_config

K = "prompts.num_prompts"
HERE = Resources(workers=1, cpus_per_worker=1, gpus_per_worker=0.0, concurrency=2)
PARTS = Calibration(
    start_seconds=10.0,
    step_seconds=2.0,
    dev_seconds=0.5,
    test_seconds=1.0,
    memory_mib=2048.0,
    train_responses=100,
    dev_responses=40,
    test_responses=30,
    threads=1,
    measured="2030-01-01 00:00",
)


@pytest.fixture
def plan_of(tiny_llama: Path) -> Callable[..., Plan]:
    def expanded(*levels: int, seeds: int = 1, **settings: Any) -> Plan:
        sweep = Sweep("some", tiny_config(tiny_llama, **settings), Grid({K: levels or (1, 2)}), seeds=seeds)
        return expand(sweep, scale="full", device_type="cpu")

    return expanded


def shape(trial: Trial) -> str:
    return shapes(trial.config, trial.identity, threads=1)[0]


def leave(output: Path, trial: Trial, seconds: float) -> None:
    """The files of a trial that finished."""
    folder = output / "trials" / trial.key
    folder.mkdir(parents=True)
    (folder / trial_folder.CONFIG).write_text(json.dumps(trial.config.model_dump()))
    (folder / trial_folder.ENVIRONMENT).write_text(json.dumps({"identity": dict(trial.identity)}))
    (folder / trial_folder.METRICS).write_text(json.dumps({"worker/seconds": seconds}))


@pytest.mark.parametrize("max_steps", [None, 1, 5, 24, 25, 26, 60])
@pytest.mark.parametrize("every", [None, 1, 4, 25, 30])
def test_evaluations_are_counted_as_training_makes_them(max_steps: int | None, every: int | None) -> None:
    config = TrialConfig().override(
        {"optim.batch_size": 4, "optim.epochs": 3, "optim.max_steps": max_steps, "evaluation.every_steps": every}
    )
    stop = schedule.num_steps(config, 98)
    made = [s for s in range(1, stop + 1) if schedule.evaluates_at(s, config, num_examples=98, stop=stop)]
    assert schedule.num_evaluations(config, 98) == 1 + len(made)


def test_a_trial_takes_its_start_its_steps_its_evaluations_and_its_test() -> None:
    config = TrialConfig().override(
        {
            "optim.batch_size": 10,
            "optim.max_steps": 6,
            "evaluation.every_steps": 3,
            "data.max_dev_responses": 20,
            "data.max_test_responses": None,
        }
    )
    assert PARTS.seconds(config) == 10 + 6 * 2 + 3 * 20 * 0.5 + 30 * 1
    of_search = config.override({"evaluation.split": "none", "data.max_dev_responses": None})
    assert PARTS.seconds(of_search) == 10 + 6 * 2 + 3 * 40 * 0.5


def test_what_costs_nothing_is_no_other_shape(plan_of: Callable[..., Plan]) -> None:
    one = plan_of(2).trials[0]
    free = {"optim.learning_rate": 0.5, "losses.selection.tau_g": 3.0, "losses.fusion.weight": 0.2, "seed": 7}
    assert shapes(one.config.override(free), one.identity, threads=1) == shapes(one.config, one.identity, threads=1)


@pytest.mark.parametrize(
    "dear",
    [
        {K: 4},
        {"prompts.prompt_length": 9},
        {"optim.batch_size": 5},
        {"losses.fusion.enabled": False},
        {"data.max_tokens": 77},
        {"compute.prompts_per_pass": 1},
        {"evaluation.max_new_tokens": 9},
    ],
)
def test_what_costs_time_is_another_shape(plan_of: Callable[..., Plan], dear: dict[str, Any]) -> None:
    one = plan_of(2).trials[0]
    parts, whole = shapes(one.config, one.identity, threads=1)
    other_parts, other_whole = shapes(one.config.override(dear), one.identity, threads=1)
    assert parts != other_parts
    assert whole != other_whole


def test_more_steps_are_the_same_parts_of_another_whole(plan_of: Callable[..., Plan]) -> None:
    one = plan_of(2).trials[0]
    parts, whole = shapes(one.config, one.identity, threads=1)
    longer = shapes(one.config.override({"optim.max_steps": 999}), one.identity, threads=1)
    assert (longer[0], longer[1] == whole) == (parts, False)


def test_without_a_basis_there_is_no_figure(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    found = estimate(plan_of(), [], output=tmp_path, resources=HERE, price_per_hour=3.0)
    assert (found.trials, found.without_basis, found.device_hours, found.cost) == (2, 2, None, None)
    (line,) = found.describe(tmp_path)
    assert line.startswith("No basis for an estimate")
    assert "--calibrate" in line


def test_it_rests_on_a_calibration_then_on_finished_trials_and_says_what_has_neither(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = plan_of(1, 2, 4)
    measured, ran, unknown = plan.trials
    calibration.remember(tmp_path, shape(measured), PARTS)
    leave(tmp_path, plan_of(2, optim__learning_rate=0.7).trials[0], 100.0)
    leave(tmp_path, plan_of(2, optim__learning_rate=0.8).trials[0], 140.0)
    found = estimate(plan, [], output=tmp_path, resources=HERE, price_per_hour=3.0)
    seconds = PARTS.seconds(measured.config) + 120.0
    assert found.device_hours == pytest.approx(seconds / 3600)
    assert found.wall_hours == pytest.approx(seconds / 3600 / 2)
    assert found.cost == pytest.approx(3 * seconds / 3600)
    assert found.memory_mib == 2048.0
    assert found.without_basis == 1
    assert found.bases == ("3 steps timed here", "finished trials of the same shape")
    text = " ".join(found.describe(tmp_path))
    assert "2.0 GiB a worker" in text
    assert "at 3 a device hour" in text
    assert "Not in it, for want of a basis: 1 of other shapes" in text
    assert estimate(plan, [unknown.key, ran.key], output=tmp_path, resources=HERE).without_basis == 0


def test_two_workers_hold_two_devices(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    leave(tmp_path, plan_of(2, optim__learning_rate=0.7).trials[0], 100.0)
    two = Resources(workers=2, cpus_per_worker=1, gpus_per_worker=0.0, concurrency=1)
    found = estimate(plan_of(2), [], output=tmp_path, resources=two)
    assert found.device_hours == pytest.approx(200 / 3600)
    assert found.wall_hours == pytest.approx(100 / 3600)


def test_a_file_of_another_version_is_no_basis(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / calibration.CALIBRATION).write_text('{"abc": {"seconds": 1}}')
    folder = tmp_path / "trials" / "broken"
    folder.mkdir(parents=True)
    (folder / trial_folder.METRICS).write_text("{")
    assert estimate(plan_of(), [], output=tmp_path, resources=HERE).device_hours is None


@pytest.mark.slow
def test_real_steps_are_timed_once_and_remembered(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """K = 1 and 2 on the tiny model, each in a process of its own; a second plan measures nothing."""
    plan, said = plan_of(1, 2, seeds=2), list[str]()
    calibrate(plan, [], output=tmp_path, resources=HERE, say=said.append)
    assert [line for line in said if line.startswith("calibrating")] == [
        "calibrating 1 of 2: num_prompts=1 seed 0 ...",
        "calibrating 2 of 2: num_prompts=2 seed 0 ...",
    ]
    measured = calibration.remembered(tmp_path)
    assert measured.keys() == {shape(trial) for trial in plan.trials}
    for found in measured.values():
        assert min(found.start_seconds, found.step_seconds, found.dev_seconds, found.test_seconds) > 0
        assert 100 < found.memory_mib < 20_000
        assert found.train_responses > found.dev_responses > 0
        assert found.test_responses > 0
    again = list[str]()
    calibrate(plan, [], output=tmp_path, resources=HERE, say=again.append)
    assert not again
    known = estimate(plan, [], output=tmp_path, resources=HERE)
    assert (known.without_basis, known.trials) == (0, 4)
    assert known.device_hours is not None
    assert known.device_hours > 0


def test_steps_that_do_not_run_are_refused_with_the_reason(plan_of: Callable[..., Plan]) -> None:
    config = plan_of(1).trials[0].config.override({"backbone.name": "/nowhere/at/all"})
    with pytest.raises(ValueError, match=r"--calibrate: the steps did not run: .*nowhere"):
        calibration.calibrate(config, device_type="cpu", threads=1)
