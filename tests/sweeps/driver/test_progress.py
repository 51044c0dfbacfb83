import io
from collections.abc import Callable

import pytest
from rich.console import Console

from spt_core.config import TrialConfig
from sweeps.engine.driver.progress import ProgressView
from sweeps.engine.plan.trial import Trial
from sweeps.engine.worker.job import MetricRow

PATH = "prompts.num_prompts"


class Clock:
    """A monotonic clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sweeps.engine.driver.progress.time.monotonic", clock)
    return clock


def make_trials(number: int, **levels: object) -> list[Trial]:
    return [Trial(f"key{index}", {PATH: index, **levels}, TrialConfig(), {}) for index in range(number)]


class Screen:
    """A view and what a person sees of it: the lines printed, or the live table as it stands."""

    def __init__(self, trials: list[Trial], *, terminal: bool = False, width: int = 80, height: int = 24) -> None:
        self._file = io.StringIO()
        self.console = Console(
            file=self._file,
            force_terminal=terminal,
            color_system=None,
            width=width,
            height=height,
            legacy_windows=False,
        )
        self.view = ProgressView(self.console, trials=trials)

    def printed(self) -> list[str]:
        return self._file.getvalue().splitlines()

    def table(self) -> list[str]:
        with self.console.capture() as captured:
            self.console.print(self.view._table())
        return [line.rstrip() for line in captured.get().splitlines()]


@pytest.fixture
def training(clock: Clock) -> Callable[[Screen], None]:
    def report(screen: Screen) -> None:
        """The first trial is at 10 of 40 steps, one second each."""
        screen.view.start("key0")
        clock.now += 5
        screen.view.train("key0", MetricRow(0, 40, 0.0, {"dev/nll": 4.0}))
        clock.now += 10
        screen.view.train("key0", MetricRow(10, 40, 0.0, {"train/total": 12.5, "dev/nll": 3.5}))

    return report


def test_without_a_terminal_each_event_is_a_line(training: Callable[[Screen], None], clock: Clock) -> None:
    screen = Screen(make_trials(2))
    with screen.view:
        screen.view.announce("starting Ray")
        training(screen)
        screen.view.train("key0", MetricRow(11, 40, 0.0, {"train/total": 12.0}))  # too soon for a line
        clock.now += 15
        screen.view.train("key0", MetricRow(26, 40, 0.0, {"train/total": 11.0}))
        screen.view.train("key0", MetricRow(40, 40, 0.0, {"dev/nll": 3.0}))
        screen.view.end("key0", "finished")
        screen.view.end("key1", "failed", "ValueError: no")
    assert screen.printed() == [
        "starting Ray ...",
        "   0:00  num_prompts=0 seed 0: starting",
        "   0:05  num_prompts=0 seed 0: training 0/40  dev NLL 4.000",
        "   0:15  num_prompts=0 seed 0: training 10/40  loss 12.500  dev NLL 3.500  ETA 0:30",
        "   0:30  num_prompts=0 seed 0: training 26/40  loss 11.000  dev NLL 3.500  ETA 0:13",
        "   0:30  num_prompts=0 seed 0: training 40/40  loss 11.000  dev NLL 3.000",
        "   0:30  num_prompts=0 seed 0: finished in 0:30  [1 of 2 trials done, 0:30]",
        "   0:30  num_prompts=1 seed 0: failed: ValueError: no  [2 of 2 trials done, 0:30]",
    ]


def test_a_terminal_shows_every_trial_and_the_whole(training: Callable[[Screen], None]) -> None:
    screen = Screen(make_trials(3), terminal=True)
    screen.view.announce("starting Ray")
    assert screen.table()[0] == "0 of 3 trials done, 0:00, starting Ray"
    training(screen)
    screen.view.end("key2", "reused")
    title, headings, *rows = screen.table()
    assert title == "1 of 3 trials done, 0:15"
    assert headings.split() == ["trial", "state", "step", "loss", "dev", "NLL", "ETA"]
    assert [row.split()[0] for row in rows] == ["num_prompts=2", "num_prompts=0", "num_prompts=1"]
    assert rows[1].split()[2:] == ["0", "training", "10/40", "12.500", "3.500", "0:30"]
    assert rows[2].split()[-1] == "waiting"


def test_the_test_phase_has_a_share_and_an_eta_of_its_own(training: Callable[[Screen], None], clock: Clock) -> None:
    screen = Screen(make_trials(1), terminal=True)
    training(screen)
    screen.view.test("key0", 0.0)
    clock.now += 6
    screen.view.test("key0", 0.25)
    assert screen.table()[2].split()[3:] == ["testing", "test", "25%", "12.500", "3.500", "0:18"]


def test_a_trial_that_another_driver_runs_is_not_said_to_start(clock: Clock) -> None:
    plain, live = Screen(make_trials(1)), Screen(make_trials(1), terminal=True)
    for screen in (plain, live):
        screen.view.start("key0")
        screen.view.wait("key0")
    assert "another driver is running it" in plain.printed()[-1]
    assert live.table()[2].split()[-1] == "elsewhere"


@pytest.mark.parametrize("height", [12, 24])
def test_a_long_sweep_fits_the_screen_with_what_is_running(
    training: Callable[[Screen], None], clock: Clock, height: int
) -> None:
    screen = Screen(make_trials(100), terminal=True, height=height)
    training(screen)
    for index in range(1, 60):
        screen.view.end(f"key{index}", "finished")
    table = screen.table()
    assert len(table) <= height - 1
    assert any("training" in line for line in table)
    assert any("num_prompts=59" in line for line in table)  # the last that ended
    assert table[-1].startswith("... and ")


def test_long_labels_wrap_and_numbers_do_not(training: Callable[[Screen], None]) -> None:
    levels = {f"losses.contrastive.a_rather_long_name_{letter}": 0.123456 for letter in "abc"}
    screen = Screen(make_trials(1, **levels), terminal=True, width=80)
    training(screen)
    table = screen.table()
    assert max(map(len, table)) <= 80
    assert any(line.endswith("training  10/40  12.500    3.500  0:30") for line in table)
