"""A command started as a person starts it, with all processes that descend from it: to follow, kill and count them.

The descendants are known by a mark in their environment, so that those of a dead driver are found too.
"""

import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

TRAIN_WORKER = "RayTrainWorker"
"""What the title of a Train worker's process holds."""
TUNE_FUNCTION = "ImplicitFunc"
"""The same of a Tune function's: the supervisor of a trial, or all of a trial with `--workers 0`."""
_MARK = "SPT_FAMILY"
_OWN = {"RAY_worker_niceness": "0"}
"""Ray's workers yield to all others by default, and starve on a machine that is shared."""


class Family:
    """A Python command in a session of its own, apart from this process's terminal and Ray.

    Args:
        arguments: of Python.
        folder: it runs in.
        environment: beside this process's, without Ray's variables.
    """

    def __init__(
        self, arguments: Sequence[str | Path], *, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._mark = uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.driver = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=inherited | _OWN | {_MARK: self._mark} | dict(environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._said: list[str] = []
        self._heard = threading.Condition()
        self._read = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def output(self) -> str:
        """What the command and its descendants have said so far."""
        with self._heard:
            return "".join(self._said)

    def until(self, pattern: str, *, timeout: float = 180) -> str:
        """The next line, after those that were returned before, in which a pattern is found.

        Raises:
            TimeoutError: there was none in so many seconds, or before the end.
        """
        deadline = time.monotonic() + timeout
        with self._heard:
            while True:
                while self._read < len(self._said):
                    self._read += 1
                    if re.search(pattern, self._said[self._read - 1]):
                        return self._said[self._read - 1]
                left = deadline - time.monotonic()
                if left <= 0 or not self._listener.is_alive():
                    raise TimeoutError(f"no {pattern!r} in:\n{''.join(self._said)}")
                self._heard.wait(min(left, 1))

    def processes(self, title: str = "") -> list[psutil.Process]:
        """The descendants that live, or those of them whose title holds a text; the command itself is none."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(_MARK) == self._mark and process.pid != self.driver.pid
                if ours and process.status() != psutil.STATUS_ZOMBIE and title in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue
        return found

    def wait(self, *, timeout: float, grace: float) -> list[psutil.Process]:
        """Wait for the command's end, then for that of its descendants.

        Args:
            timeout: seconds for the command.
            grace: seconds that descendants may outlive it.

        Returns:
            Those that did.
        """
        self.driver.wait(timeout)
        orphans: list[psutil.Process] = psutil.wait_procs(self.processes(), timeout=grace)[1]
        self._listener.join(grace)
        return orphans

    def _listen(self) -> None:
        assert self.driver.stdout is not None
        for line in self.driver.stdout:
            with self._heard:
                self._said.append(line)
                self._heard.notify_all()
