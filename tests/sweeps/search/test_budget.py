import pytest

from sweeps.engine.search.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_device_hours_are_those_that_trials_hold_devices_for() -> None:
    clock = Clock()
    budget = Budget(1.0, devices=2.0, clock=clock)
    budget.start("a")
    clock.now += 900
    budget.start("b")
    clock.now += 600
    assert budget.spent_hours == pytest.approx(2 * (1500 + 600) / 3600)
    budget.end("a")
    clock.now += 600
    assert budget.spent_hours == pytest.approx(2 * (1500 + 1200) / 3600)
    budget.end("b")
    clock.now += 9999
    assert budget.spent_hours == pytest.approx(1.5)
    assert budget.is_spent


def test_it_is_spent_when_it_is_reached_and_not_before() -> None:
    clock = Clock()
    budget = Budget(0.5, clock=clock)
    budget.start("a")
    clock.now = 1799
    assert not budget.is_spent
    clock.now = 1800
    assert budget.is_spent


def test_without_hours_it_is_never_spent() -> None:
    clock = Clock()
    budget = Budget(None, clock=clock)
    budget.start("a")
    clock.now = 1e9
    assert not budget.is_spent


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_hours_that_are_none_are_refused(hours: float) -> None:
    with pytest.raises(ValueError, match=r"--budget-hours .* above 0"):
        Budget(hours)
