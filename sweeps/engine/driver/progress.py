"""What a person sees while a sweep runs: a line a trial and the whole, live on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.engine.design.metrics import DEV_NLL
from sweeps.engine.plan.trial import Trial
from sweeps.engine.worker.job import MetricRow

PLAIN_SECONDS = 15.0
"""Seconds between two plain lines of one trial."""
_DONE = frozenset({"finished", "reused", "failed", "pruned"})


class _Line:
    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.state = "waiting"
        self.step = 0
        self.total_steps = 0
        self.loss: float | None = None
        self.dev_nll: float | None = None
        self.test_share = 0.0
        self.started: float | None = None
        self.first: tuple[str, float, float] | None = None
        self.said = 0.0
        self.note = ""

    def train(self, row: MetricRow, now: float) -> None:
        self.step, self.total_steps = row.step, row.total_steps
        self.loss = row.metrics.get("train/total", self.loss)
        self.dev_nll = row.metrics.get(DEV_NLL, self.dev_nll)
        self._enter("training", now)

    def test(self, share: float, now: float) -> None:
        self.test_share = share
        self._enter("testing", now)

    def _enter(self, state: str, now: float) -> None:
        self.state = state
        if self.first is None or self.first[0] != self.state:
            self.first = (self.state, now, self._done())

    def _done(self) -> float:
        return self.test_share if self.state == "testing" else self.step / max(self.total_steps, 1)

    def eta(self, now: float) -> float | None:
        """Seconds to the end of training, or of the test, from the pace since the first report of it."""
        if self.first is None or self.first[0] != self.state or not self.first[2] < self._done() < 1:
            return None
        return (now - self.first[1]) / (self._done() - self.first[2]) * (1 - self._done())

    def progress(self) -> str:
        if self.state == "testing":
            return f"test {self.test_share:.0%}"
        return f"{self.step}/{self.total_steps}" if self.total_steps else ""


class ProgressView:
    """Shows the trials of a sweep as they go on; a context manager.

    Args:
        console: where to. A terminal gets one live table, anything else a line now and then.
        trials: in the order of the plan.
    """

    def __init__(self, console: Console, *, trials: Sequence[Trial]) -> None:
        self._console = console
        self._lines = {trial.key: _Line(trial) for trial in trials}
        self._note = ""
        self._started = time.monotonic()
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)

    def __enter__(self) -> "ProgressView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def add(self, trial: Trial) -> None:
        """A trial that was not known when the sweep began."""
        self._lines.setdefault(trial.key, _Line(trial))

    def start(self, key: str) -> None:
        """A trial was handed to a worker."""
        self._note = ""
        line = self._lines[key]
        line.state, line.started = "starting", time.monotonic()
        self._say(line, "starting")

    def announce(self, what: str) -> None:
        """Say what the whole waits for, until the first trial starts."""
        self._note = what
        if not self._console.is_terminal:
            self._console.print(f"{what} ...", highlight=False, markup=False)

    def wait(self, key: str) -> None:
        """A trial is being run by another driver, which is waited for."""
        line = self._lines[key]
        line.state = "elsewhere"
        self._say(line, "another driver is running it, or died a moment ago: waiting for that one")

    def retry(self, key: str, why: str) -> None:
        """A trial broke off and goes on from its checkpoint."""
        line = self._lines[key]
        line.state = "retrying"
        self._say(line, f"retrying: {why}")

    def train(self, key: str, row: MetricRow) -> None:
        """A trial reported the metrics of a step."""
        line, now = self._lines[key], time.monotonic()
        line.train(row, now)
        self._say_now_and_then(line, now, at_once=DEV_NLL in row.metrics)

    def test(self, key: str, share: float) -> None:
        """A trial scored a share of its test responses."""
        line, now = self._lines[key], time.monotonic()
        line.test(share, now)
        self._say_now_and_then(line, now)

    def _say_now_and_then(self, line: _Line, now: float, *, at_once: bool = False) -> None:
        if at_once or now - line.said >= PLAIN_SECONDS:
            self._say(line, self._describe(line, now))

    def end(self, key: str, state: str, note: str = "") -> None:
        """A trial ended: `finished`, `failed`, `reused` or `interrupted`."""
        line = self._lines[key]
        line.state, line.note = state, note
        took = f" in {_duration(time.monotonic() - line.started)}" if line.started else ""
        self._say(line, f"{state}{took}{': ' + note if note else ''}  [{self._overall()}]")

    def _describe(self, line: _Line, now: float) -> str:
        eta = line.eta(now)
        parts = [
            f"{line.state} {line.progress()}" if line.state == "training" else line.progress(),
            f"loss {line.loss:.3f}" if line.loss is not None else "",
            f"dev NLL {line.dev_nll:.3f}" if line.dev_nll is not None else "",
            f"ETA {_duration(eta)}" if eta is not None else "",
        ]
        return "  ".join(filter(None, parts))

    def _say(self, line: _Line, what: str) -> None:
        line.said = time.monotonic()
        if not self._console.is_terminal:
            clock = _duration(time.monotonic() - self._started)
            self._console.print(
                f"{clock:>7}  {line.trial.label}: {what}", highlight=False, markup=False, soft_wrap=True
            )

    def _overall(self) -> str:
        done = sum(line.state in _DONE for line in self._lines.values())
        parts = [f"{done} of {len(self._lines)} trials done", _duration(time.monotonic() - self._started), self._note]
        return ", ".join(filter(None, parts))

    def _table(self) -> Table:
        now = time.monotonic()
        table = Table(title=self._overall(), title_justify="left", box=None, pad_edge=False)
        for heading in ("trial", "state", "step", "loss", "dev NLL", "ETA"):
            justify: Literal["left", "right"] = "left" if heading in {"trial", "state"} else "right"
            table.add_column(heading, justify=justify, no_wrap=heading != "trial")
        active = [line for line in self._lines.values() if line.state not in {"waiting", *_DONE}]
        done = [line for line in self._lines.values() if line.state in _DONE]
        waiting = [line for line in self._lines.values() if line.state == "waiting"]
        room = max(3, self._console.height - 6 - len(active))
        shown = [*done[-room:], *active, *waiting[: max(0, room - len(done))]]
        for line in shown:
            eta = line.eta(now)
            table.add_row(
                Text(line.trial.label),
                Text(line.state, style={"failed": "red", "finished": "green", "reused": "green"}.get(line.state, "")),
                line.progress(),
                f"{line.loss:.3f}" if line.loss is not None else "",
                f"{line.dev_nll:.3f}" if line.dev_nll is not None else "",
                _duration(eta) if eta is not None else "",
            )
        if len(shown) < len(self._lines):
            table.add_row(Text(f"... and {len(self._lines) - len(shown)} more"), "", "", "", "", "")
        return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
