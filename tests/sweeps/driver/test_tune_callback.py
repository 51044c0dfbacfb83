"""What the driver makes of a lost process: the test plays Tune, and the person; ledger and files are real."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from ray.exceptions import RayActorError

from sweeps.engine.driver.tune_callback import TuneCallback
from sweeps.engine.driver.tune_patch import ActorOutOfMemoryError
from sweeps.engine.store import trial_folder
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.ledger import Ledger
from sweeps.engine.worker import retry_policy
from tests.sweeps.tracking.tracked_trials import make_plan

LOW = ActorOutOfMemoryError("the node was running low on memory")
DIED = RayActorError(error_msg="its process has died")


class Driver:
    """A watcher of a plan, whose first trial this driver has claimed."""

    def __init__(self, folder: Path) -> None:
        plan, self.places = make_plan(), OutputLayout(folder)
        self.ledger = Ledger(self.places.ledger)
        self.view = Mock()
        self.watcher = TuneCallback(
            plan, self.places, self.ledger, owner="ann", workers=0, view=self.view, tracker=Mock()
        )
        self.key = plan.trials[0].key
        self.said = folder / "error.txt"
        assert self.ledger.claim(self.key, owner="ann")

    def lost(self, error: Exception, *, failures: int) -> Any:
        """The Tune trial, after so many failures, of which this error was the last."""
        with self.said.open("a") as file:  # as Tune does
            file.write(f"Failure # {failures} (occurred at 2026-01-01)\n{error}\n")
        return SimpleNamespace(config={"key": self.key}, num_failures=failures, error_file=str(self.said))

    @property
    def layout(self) -> dict[str, int]:
        return dict(trial_folder.read_retries(self.places.trial(self.key)).layout)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def test_a_process_killed_for_memory_is_replaced_by_one_that_needs_less(driver: Driver) -> None:
    whole = make_plan().trials[0].config.optim.batch_size
    driver.watcher.on_trial_recover(1, [], driver.lost(LOW, failures=1))
    assert driver.layout == {"micro_batch_size": whole // 2}
    (key, told), _ = driver.view.retry.call_args
    assert key == driver.key
    assert "low on memory" in told
    assert told.endswith(f"compute.micro_batch_size={whole // 2}")


def test_one_that_was_killed_for_memory_too_often_fails_and_the_next_run_goes_on_smaller(driver: Driver) -> None:
    driver.watcher.on_trial_error(1, [], driver.lost(LOW, failures=retry_policy.MOST_LOSSES + 1))
    entry = driver.ledger.entries([driver.key])[driver.key]
    assert entry.state == "failed"
    assert entry.error is not None
    assert entry.error.endswith(
        f"micro_batch_size={driver.layout['micro_batch_size']} when the same command is run again"
    )


def test_one_that_died_too_often_fails_and_says_what_may_help(driver: Driver) -> None:
    driver.watcher.on_trial_error(1, [], driver.lost(DIED, failures=retry_policy.MOST_LOSSES + 1))
    entry = driver.ledger.entries([driver.key])[driver.key]
    assert (entry.state, driver.layout) == ("failed", {})
    assert entry.error == f"its process was lost: its process has died (after 3 retries); {retry_policy.ADVICE}"


def test_one_that_was_dead_before_it_began_is_free_to_be_handed_out_again(driver: Driver) -> None:
    driver.watcher.on_trial_error(1, [], driver.lost(DIED, failures=0))
    assert driver.ledger.entries([driver.key])[driver.key].state == "interrupted"
    assert driver.ledger.claim(driver.key, owner="bob")
