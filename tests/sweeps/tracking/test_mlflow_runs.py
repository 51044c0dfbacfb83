"""What MLflow shows of a sweep: each run, file and metric once, however often and by whomever it was sent."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from spt_core.config import flatten
from sweeps.engine.store import trial_folder
from sweeps.engine.store.ledger import Ledger
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.tracking.tracker import Tracker
from sweeps.engine.worker.job import MetricRow
from tests.sweeps.end_to_end.shown import Shown
from tests.sweeps.tracking.tracked_trials import FILES, FINAL, ROWS, finished, leave_files, make_plan, run_all


def test_a_sweep_is_one_parent_and_a_child_a_trial(uri: str, track: Callable[..., Tracker], tmp_path: Path) -> None:
    plan = make_plan()
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<html>")
    with track(plan) as tracker:
        run_all(tracker, plan, tmp_path)
        tracker.summarise(report, {"test/nll": 3.25, "test/nll/num_prompts=4, name=hf://a/b, rate=1e+30": 3.5})
        assert tracker.close() == ()

    shown = Shown(uri)
    parent = shown.parent
    assert parent.info.run_name == plan.sweep_id
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"scale": "tiny", "cells": "2", "seeds": "2", "primary_metric": "test/nll"}
    assert parent.data.tags.items() >= {"git.commit": "abc123", "store": "postgresql://db/spt"}.items()
    assert parent.data.metrics == {"test/nll": 3.25, "test/nll/num_prompts 4 name hf /a/b rate 1e 30": 3.5}
    assert shown.files(parent) == {"plan.json", "report.html"}
    outline = json.loads(
        shown.client.download_artifacts(parent.info.run_id, "plan.json", str(tmp_path))
        and (tmp_path / "plan.json").read_text()
    )
    assert [trial["key"] for trial in outline["trials"]] == [trial.key for trial in plan.trials]

    assert shown.children.keys() == plan.distinct.keys()
    for trial in plan.trials:
        child = shown.children[trial.key]
        assert child.info.run_name == trial.label
        assert child.info.status == "FINISHED"
        assert child.data.params == {path: str(value) for path, value in flatten(trial.config).items()}
        expected = {
            "mlflow.parentRunId": parent.info.run_id,
            "factor.prompts.num_prompts": str(trial.cell["prompts.num_prompts"]),
            "seed": str(trial.seed),
            "identity.data.train": "f00d",
            "identity.versions.torch": "2",
        }
        assert child.data.tags.items() >= expected.items()
        assert "spt.reused" not in child.data.tags
        assert child.data.metrics == FINAL
        assert shown.steps(trial.key, "dev/nll") == [(0, 4.0), (2, 3.75), (4, 3.5)]
        assert shown.steps(trial.key, "test/f1") == [(4, 17.5)]
        assert shown.files(child) == FILES
        assert shown.files(child, "adapter") == {"adapter/prompts.safetensors"}


def test_a_child_shows_its_datasets_and_its_retries(uri: str, track: Callable[..., Tracker], tmp_path: Path) -> None:
    plan = make_plan()
    one, other = plan.trials[:2]
    reasons = ("ConnectionError: its worker process has died", "MemoryError")
    trial_folder.write_retries(tmp_path / one.key, trial_folder.Retries({"micro_batch_size": 2}, reasons))
    for _ in range(2):
        with track(plan) as tracker:
            tracker.finish(one, TrialResult(one.key, "finished", FINAL, leave_files(tmp_path / one.key)))
            tracker.finish(other, finished(other, tmp_path))
        for trial in (one, other):
            shutil.rmtree(tmp_path / trial.key / "adapter")
    shown = Shown(uri)
    tags = shown.children[one.key].data.tags
    assert (tags["spt.retries"], tags["spt.micro_batch_size"]) == ("2", "2")
    assert tags["spt.retry_reasons"] == "; ".join(reasons)
    assert "retries.json" in shown.files(shown.children[one.key])
    assert shown.children[other.key].data.tags["spt.retries"] == "0"
    assert "spt.micro_batch_size" not in shown.children[other.key].data.tags
    for child in shown.children.values():
        read = {i.tags[0].value: (i.dataset.name, i.dataset.digest) for i in child.inputs.dataset_inputs}
        assert read == {"training": ("sample:train", "f00d"), "evaluation": ("sample:valid", "beef")}
        assert len(child.inputs.dataset_inputs) == 2


def test_the_same_sweep_again_adds_nothing(uri: str, track: Callable[..., Tracker], tmp_path: Path) -> None:
    plan = make_plan()
    with track(plan) as tracker:
        run_all(tracker, plan, tmp_path)
    before = Shown(uri)
    children = before.everything()
    assert before.parent.info.status == "KILLED"  # it was not summarised
    noticed = {"test/f1": -1.0}  # would be, if a complete child were not left alone
    results = [TrialResult(key, "finished", noticed, tmp_path / key, reused=True) for key in plan.distinct]
    with track(plan) as tracker:
        for trial, result in zip(plan.distinct.values(), results, strict=True):
            tracker.finish(trial, result)
        tracker.summarise(tmp_path, {})
    after = Shown(uri)
    assert after.parent.info.run_id == before.parent.info.run_id
    assert after.parent.info.status == "FINISHED"
    assert after.everything() == children


def test_a_trial_resumed_after_its_driver_died_is_one_child_with_each_step_once(
    uri: str, track: Callable[..., Tracker], tmp_path: Path
) -> None:
    plan = make_plan()
    trial = plan.trials[0]
    first = track(plan)
    first.begin(trial)
    first.progress(trial, ROWS[0])
    first.progress(trial, ROWS[1])
    assert first._outbox.close(30) == ()  # as if killed: nothing says how the trial ended
    assert Shown(uri).children[trial.key].info.status == "RUNNING"
    with track(plan) as second:
        second.begin(trial)
        second.progress(trial, replace(ROWS[1], seconds=99.0))  # again, from the checkpoint
        second.progress(trial, ROWS[1])
        second.progress(trial, ROWS[2])
        second.finish(trial, finished(trial, tmp_path))
        assert second.close() == ()
    shown = Shown(uri)
    assert shown.children.keys() == {trial.key}
    assert shown.steps(trial.key, "dev/nll") == [(0, 4.0), (2, 3.75), (4, 3.5)]
    assert shown.children[trial.key].info.status == "FINISHED"


def test_what_a_dead_server_did_not_receive_is_sent_by_the_next_run(
    uri: str, track: Callable[..., Tracker], tmp_path: Path
) -> None:
    plan = make_plan()
    results = {trial.key: finished(trial, tmp_path) for trial in plan.trials}
    with track(plan) as tracker:
        tracker.begin(plan.trials[0])  # and its end got lost
    with track(plan) as tracker:
        for trial in plan.trials:
            tracker.finish(trial, replace(results[trial.key], reused=True))
    shown = Shown(uri)
    assert shown.children.keys() == plan.distinct.keys()
    for trial in plan.trials:
        child = shown.children[trial.key]
        assert child.info.status == "FINISHED"
        assert child.data.metrics == FINAL
        assert shown.steps(trial.key, "dev/nll") == [(0, 4.0), (2, 3.75), (4, 3.5)]
        assert shown.files(child) == FILES
        assert ("spt.reused" in child.data.tags) == (trial is not plan.trials[0])


def test_a_final_value_that_differs_from_the_last_step_is_the_one_shown(
    uri: str, track: Callable[..., Tracker], tmp_path: Path
) -> None:
    plan = make_plan()
    trial = plan.trials[0]
    result = replace(finished(trial, tmp_path), metrics={"dev/nll": 2.5})  # of the best step, say
    for _ in range(2):
        with track(plan) as tracker:
            tracker.finish(trial, replace(result, state="interrupted"))
    shown = Shown(uri)
    assert shown.children[trial.key].data.metrics == {"dev/nll": 2.5}
    assert shown.steps(trial.key, "dev/nll") == [(0, 4.0), (2, 3.75), (4, 3.5), (4, 2.5)]


def test_failed_and_stopped_trials_show_their_state_until_a_retry_succeeds(
    uri: str, track: Callable[..., Tracker], tmp_path: Path
) -> None:
    plan = make_plan()
    failed, stopped = plan.trials[:2]
    why = "RuntimeError: no answer from https://ann:hunter2@host/x"
    with track(plan) as tracker:
        for trial in (failed, stopped):
            tracker.begin(trial)
        tracker.finish(failed, TrialResult(failed.key, "failed", {}, tmp_path / "absent", error=why))
        tracker.finish(stopped, TrialResult(stopped.key, "interrupted", {}, tmp_path / "absent"))
    shown = Shown(uri)
    assert shown.children[failed.key].info.status == "FAILED"
    assert shown.children[failed.key].data.tags["spt.error"] == "RuntimeError: no answer from https://host/x"
    assert shown.children[stopped.key].info.status == "KILLED"
    with track(plan) as tracker:
        for trial in (failed, stopped):
            tracker.begin(trial)
            tracker.finish(trial, finished(trial, tmp_path))
    again = Shown(uri)
    for trial in (failed, stopped):
        assert again.children[trial.key].info.run_id == shown.children[trial.key].info.run_id
        assert again.children[trial.key].info.status == "FINISHED"
        assert not again.children[trial.key].data.tags.get("spt.error")


def test_a_reused_trial_of_another_sweep_gets_one_child_here(
    uri: str, track: Callable[..., Tracker], tmp_path: Path
) -> None:
    small, large = make_plan((1, 4)), make_plan((1, 4, 8))
    with track(small) as tracker:
        run_all(tracker, small, tmp_path)
    shared = small.trials[0]
    result = TrialResult(shared.key, "finished", FINAL, tmp_path / shared.key, reused=True)
    os.utime(result.folder / "metrics.json", (1_700_000_000, 1_700_000_000))
    for _ in range(2):
        with track(large) as tracker:
            tracker.finish(shared, result)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("k_sweep")
    copies = client.search_runs([experiment.experiment_id], f"tags.`spt.trial_key` = '{shared.key}'")
    assert len(copies) == 2
    (here,) = [run for run in copies if run.data.tags.get("spt.reused") == "true"]
    parent = client.get_run(here.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["spt.sweep_id"] == large.sweep_id
    assert here.data.metrics == FINAL
    assert (here.info.start_time, here.info.end_time) == (1_699_999_998_000, 1_700_000_000_000)  # as it ran


def test_a_trial_measured_anew_replaces_its_child(uri: str, track: Callable[..., Tracker], tmp_path: Path) -> None:
    plan = make_plan()
    trial = plan.trials[0]
    with track(plan) as tracker:
        tracker.finish(trial, finished(trial, tmp_path))
    old = Shown(uri).children[trial.key].info.run_id
    with track(plan) as tracker:
        tracker.begin(trial)
        tracker.progress(trial, MetricRow(1, 4, 0.5, {"dev/nll": 9.0}))
    shown = Shown(uri)
    assert shown.children[trial.key].info.run_id != old
    assert shown.steps(trial.key, "dev/nll") == [(1, 9.0)]
    assert shown.client.get_run(old).info.lifecycle_stage == "deleted"


def test_drivers_that_share_a_ledger_make_each_run_once(
    uri: str, track: Callable[..., Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_searched = threading.Barrier(2)
    create_run = MlflowClient.create_run

    def create_when_both_searched(*args: Any, **options: Any) -> Run:
        with suppress(threading.BrokenBarrierError):
            both_searched.wait(0.5)
        return create_run(*args, **options)

    monkeypatch.setattr(MlflowClient, "create_run", create_when_both_searched)
    plan = make_plan((1, 2, 3, 4))
    results = [(trial, finished(trial, tmp_path, reused=True)) for trial in plan.trials]
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    trackers = [track(plan, ledger=ledger) for _ in range(2)]
    for tracker in trackers:
        for trial, result in results:
            tracker.finish(trial, result)
    assert [tracker.close(120) for tracker in trackers] == [(), ()]
    shown = Shown(uri)
    assert shown.parent.info.run_name == plan.sweep_id
    assert shown.children.keys() == plan.distinct.keys()
    for key in plan.distinct:
        assert shown.steps(key, "dev/nll") == [(0, 4.0), (2, 3.75), (4, 3.5)]


def test_long_values_are_cut_and_passwords_left_out(uri: str, track: Callable[..., Tracker], tmp_path: Path) -> None:
    source = "https://ann:hunter2@host/" + "x" * 7000
    plan = make_plan(train=source)
    with track(plan) as tracker:
        tracker.begin(plan.trials[0])
    shown = Shown(uri)
    kept = shown.children[plan.trials[0].key].data.params["data.train"]
    assert len(kept) == 6000
    assert kept.startswith("https://host/xxx")
    assert kept.endswith("x…")
    assert b"hunter2" not in (tmp_path / "mlflow.db").read_bytes()


def test_mlflow_prints_and_logs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # of the root logger, as a driver might
    plan = make_plan()
    uri = f"sqlite:///{tmp_path / 'new.db'}"  # whose tables are made, migration by migration
    with Tracker(uri, plan=plan, artifacts=str(tmp_path / "artifacts"), facts={}) as tracker:
        tracker.finish(plan.trials[0], finished(plan.trials[0], tmp_path))
    assert Shown(uri).children.keys() == {plan.trials[0].key}
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")
