"""What a trial that broke off does next, and how much of that is decided by the words of an exception."""

import errno
import pickle
import sqlite3
from pathlib import Path

import pytest
import ray.exceptions
import sqlalchemy as sa
import torch
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.air.execution.resources.fixed import FixedResourceManager
from ray.train import ControllerError
from ray.tune.execution import tune_controller

from spt_core.config import TrialConfig
from sweeps.engine.driver.tune_patch import ActorOutOfMemoryError, survive_memory_kills
from sweeps.engine.store import trial_folder
from sweeps.engine.store.trial_folder import Retries
from sweeps.engine.worker import retry_policy
from sweeps.engine.worker.failures import found_disk_full, one_line, ran_out_of_memory
from sweeps.engine.worker.retry_policy import GaveUpError, halved, next_attempt


class OfWorkersError(Exception):
    """As Ray Train reports what happened to its workers."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__("Training failed")
        self.worker_failures = dict(enumerate(failures))


def too_large() -> RuntimeError:
    """What torch itself says of a tensor that no machine holds."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62 // 8, dtype=torch.float64)
    return caught.value


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    too_large(),
    RuntimeError("could not create a primitive"),
    ray.exceptions.OutOfMemoryError("the node is running low on memory"),
    ActorOutOfMemoryError("the node is running low on memory"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_memory_is_seen_through_what_ray_wraps_it_in(error: Exception) -> None:
    assert ran_out_of_memory(error)
    assert ran_out_of_memory(OfWorkersError(ConnectionError("peer closed"), error))
    assert one_line(OfWorkersError(ConnectionError("peer closed"), error)) == one_line(error)


def test_of_what_rays_memory_monitor_says_people_are_told_the_first_line() -> None:
    said = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, "
        f"ID: {'0f' * 28}) was 22.4GB used / 23.5GB limit (0.953)\n"
        "OOM kill reason: Memory usage exceeded threshold\n"
        "Refer to the documentation on how to address the out of memory issue"
    )
    error = ActorOutOfMemoryError(said)
    assert one_line(pickle.loads(pickle.dumps(error))) == (
        "ActorOutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. "
        "Memory on the node (IP: 192.0.2.2) was 22.4GB used / 23.5GB limit (0.953)"
    )
    assert isinstance(error, ray.exceptions.RayActorError), "or Tune would end the whole run"
    assert not error.preempted


def test_tune_is_told_of_a_process_killed_for_memory_as_of_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_controller, "RayActorManager", tune_controller.RayActorManager)
    survive_memory_kills()
    manager = tune_controller.RayActorManager(resource_manager=FixedResourceManager({"CPU": 1}))
    monkeypatch.setattr(manager, "_cleanup_actor", lambda tracked_actor: None)  # there is none
    heard: list[Exception] = []
    actor = TrackedActor(0, on_error=lambda _, error: heard.append(error))
    task = TrackedActorTask(actor, on_error=lambda _, error: heard.append(error))
    manager._actor_task_failed(task, ray.exceptions.OutOfMemoryError("low"))
    manager._actor_start_failed(actor, ray.exceptions.OutOfMemoryError("low"))
    assert [type(error) for error in heard] == [ActorOutOfMemoryError] * 3
    with pytest.raises(RuntimeError, match="unexpected"):
        manager._actor_task_failed(task, ray.exceptions.RayError("something else"))


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("memory"), ConnectionError("reset")])
def test_other_failures_are_not_taken_for_a_lack_of_memory(error: Exception) -> None:
    assert not ran_out_of_memory(error)
    assert not ran_out_of_memory(OfWorkersError(error))


def layouts(config: TrialConfig, workers: int = 1) -> list[tuple[int | None, int | None]]:
    """Those that a trial which always lacks memory goes through, to the last."""
    so_far, seen = Retries(), []

    def fail_for_ever() -> None:
        nonlocal so_far
        for _ in range(50):
            so_far = next_attempt(so_far, MemoryError(), config=config, workers=workers, losses=0)
            seen.append((so_far.layout.get("micro_batch_size"), so_far.layout.get("prompts_per_pass")))

    with pytest.raises(GaveUpError, match=r"compute\.gradient_checkpointing=true"):
        fail_for_ever()
    return seen


def test_memory_is_halved_down_to_one_context_and_one_prompt_and_no_further() -> None:
    config = TrialConfig().override({"optim.batch_size": 8, "prompts.num_prompts": 4})
    assert layouts(config) == [(4, None), (2, None), (1, None), (1, 1)]
    assert layouts(config, workers=2) == [(2, None), (1, None), (1, 1)]
    assert layouts(config.override({"prompts.num_prompts": 1})) == [(4, None), (2, None), (1, None)]
    assert layouts(config.override({"compute.micro_batch_size": 3})) == [(1, None), (1, 1)]
    assert layouts(config.override({"compute.micro_batch_size": 100}))[0] == (4, None)


def test_a_layout_that_the_config_refuses_is_not_tried() -> None:
    config = TrialConfig().override({"optim.batch_size": 4, "prompts.num_prompts": 4})
    assert layouts(config.override({"backbone.dropout": True})) == []
    assert layouts(config.override({"losses.fusion.of": "weighted_logits"})) == [(2, None), (1, None)]


def test_another_layout_is_the_same_trial() -> None:
    config = TrialConfig().override({"optim.batch_size": 8})
    smaller = halved(config, workers=1)
    assert smaller == {"micro_batch_size": 4}
    assert config.override({"compute.micro_batch_size": 4}).key() == config.key()
    assert config.override({"compute.micro_batch_size": 4}).scoring.batch_size == 4
    assert config.scoring == config.evaluation


def test_a_worker_is_replaced_three_times() -> None:
    lost = ConnectionError("its worker died. Some common causes include: (1) and so on for half a page")
    so_far = Retries()
    for losses in range(3):
        so_far = next_attempt(so_far, lost, config=TrialConfig(), workers=1, losses=losses)
    assert so_far.layout == {}
    assert so_far.reasons == (one_line(lost),) * 3
    assert "half a page" not in so_far.reasons[0]
    with pytest.raises(GaveUpError, match=r"after 3 retries\)$"):
        next_attempt(so_far, lost, config=TrialConfig(), workers=1, losses=3)
    killed = OfWorkersError(ray.exceptions.RayActorError(error_msg="its process has died"))
    with pytest.raises(GaveUpError, match=r"after 3 retries\); .* set compute\.micro_batch_size"):
        next_attempt(so_far, killed, config=TrialConfig(), workers=1, losses=3)


def test_what_train_says_of_its_controller_is_seen_through() -> None:
    assert ran_out_of_memory(ControllerError(ray.exceptions.OutOfMemoryError("low")))
    assert not ran_out_of_memory(ControllerError(ValueError("no")))


def test_a_full_disk_is_a_persons_to_mend() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert found_disk_full(OfWorkersError(full))
    of_database = sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    assert found_disk_full(of_database)
    assert one_line(of_database) == "OperationalError: database or disk is full"
    with pytest.raises(GaveUpError, match="free some space"):
        next_attempt(Retries(), full, config=TrialConfig(), workers=1, losses=0)


def test_retries_are_kept_in_the_trials_folder(tmp_path: Path) -> None:
    assert trial_folder.read_retries(tmp_path / "trial") == Retries()
    kept = Retries({"micro_batch_size": 2}, ("MemoryError",))
    trial_folder.write_retries(tmp_path / "trial", kept)
    assert trial_folder.read_retries(tmp_path / "trial") == kept
    assert retry_policy.describe(kept) == "MemoryError; compute.micro_batch_size=2"
