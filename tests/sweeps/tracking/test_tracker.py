"""A tracker whose server is away: the sweep does not wait for it, and what was logged arrives later, once."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.engine.tracking.tracker import Tracker
from sweeps.engine.tracking.uri import check
from tests.sweeps.end_to_end.shown import Shown
from tests.sweeps.tracking.tracked_trials import FACTS, FILES, FINAL, ROWS, make_plan, run_all


class Server:
    """A real tracking server on loopback, which can be stopped and started again on its port."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store = folder, store
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.store]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else ten processes
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        for _ in range(120):
            try:
                check(self.uri)
            except ValueError:
                time.sleep(0.5)
            else:
                return
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(uri: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, uri)
    server.start()
    yield server
    server.stop()


def test_the_sweep_does_not_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plan = make_plan()
    started = time.monotonic()
    tracker = Tracker(f"http://ann:hunter2@127.0.0.1:{port}", plan=plan, artifacts=None, facts=FACTS)
    run_all(tracker, plan, tmp_path)
    tracker.summarise(tmp_path, {})
    assert time.monotonic() - started < 1
    missing = tracker.close(timeout=0.5)
    assert time.monotonic() - started < 5
    label = plan.trials[0].label
    assert missing[:4] == ("the sweep", f"start of {label}", f"progress of {label}", f"end of {label}")
    assert missing[-1] == "the report"
    assert tracker.close(timeout=60) == missing
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_what_is_logged_while_the_server_is_away_arrives_once_when_it_is_back(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan()
    first = plan.trials[0]
    tracker = Tracker(server.uri, plan=plan, artifacts=None, facts=FACTS)
    arrived = threading.Event()
    tracker.begin(first)
    tracker.progress(first, ROWS[0])
    tracker._outbox.add("a sign for the test", arrived.set)
    assert arrived.wait(60)

    server.stop()
    run_all(tracker, plan, tmp_path)
    tracker.summarise(tmp_path, {"test/nll": 3.25})
    time.sleep(3)  # an absence of several attempts: nothing happens in it that could be waited for
    assert [message for message in caplog.messages if "is away" in message] != []

    server.start()
    assert tracker.close(timeout=120) == ()
    assert capfd.readouterr().out == ""  # no "View run ..." lines
    shown = Shown(server.uri)
    assert shown.parent.info.status == "FINISHED"
    assert shown.parent.data.metrics == {"test/nll": 3.25}
    assert shown.children.keys() == plan.distinct.keys()
    for key, child in shown.children.items():
        assert child.info.status == "FINISHED"
        assert child.data.metrics == FINAL
        assert shown.steps(key, "dev/nll") == [(0, 4.0), (2, 3.75), (4, 3.5)]
        assert shown.files(child) == FILES
