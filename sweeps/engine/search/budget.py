"""How many device hours a run of a sweep may take, and has taken."""

import time
from collections.abc import Callable


class Budget:
    """Device hours of one run of a sweep: each trial holds its devices from the moment it is handed out to its end.

    A device is a GPU, or a worker where there are no GPUs.

    Args:
        hours: of devices; None is as many as it takes.
        devices: of each trial; may be a fraction.
        clock: in seconds.

    Raises:
        ValueError: hours that are not above 0.
    """

    def __init__(
        self, hours: float | None, *, devices: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if hours is not None and not hours > 0:
            raise ValueError(f"--budget-hours {hours:g}: it should be above 0")
        self.hours = hours
        self._devices, self._clock = devices, clock
        self._running: dict[str, float] = {}
        self._ended_seconds = 0.0

    def start(self, trial_id: str) -> None:
        """A trial was handed out."""
        self._running[trial_id] = self._clock()

    def end(self, trial_id: str) -> None:
        """A trial ended, in whatever way."""
        self._ended_seconds += self._clock() - self._running.pop(trial_id)

    @property
    def spent_hours(self) -> float:
        """By trials that ended and by those that are running."""
        now = self._clock()
        seconds = self._ended_seconds + sum(now - started for started in self._running.values())
        return seconds * self._devices / 3600

    @property
    def is_spent(self) -> bool:
        """No further trial is handed out; those that are running go on to their end."""
        return self.hours is not None and self.spent_hours >= self.hours
