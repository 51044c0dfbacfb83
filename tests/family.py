"""Starts a command as a user starts it, and follows, kills and counts all processes that descend from it.

A mark in the environment identifies the descendants, so those of a dead driver are found too. The end-to-end tests and
`benchmarks.soak` use it.
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
"""Part of the process title of a Train worker."""
TUNE_FUNCTION = "ImplicitFunc"
"""Part of the process title of a Tune function: the supervisor of a trial, or the whole trial with `--workers 0`."""
_MARK = "SPT_FAMILY"
_OWN = {"RAY_worker_niceness": "0"}
"""Ray starts its workers with a low priority by default, and on a shared machine they get no processor time."""


class Family:
    """A Python command in a session of its own, separate from this process's terminal and Ray.

    Args:
        arguments: command-line arguments of Python.
        folder: working directory.
        environment: variables added to those of this process, from which Ray's are removed.
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
        """What the command and its descendants have printed so far."""
        with self._heard:
            return "".join(self._said)

    def until(self, pattern: str, *, timeout: float = 180) -> str:
        """The next line that matches a pattern, after the line that the previous call returned.

        Raises:
            TimeoutError: no such line came within `timeout` seconds, or before the command ended.
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
        """The live descendants whose title contains a text (all of them by default), without the command itself."""
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
        """Wait until the command ends, then until its descendants end.

        Args:
            timeout: seconds to wait for the command.
            grace: seconds to wait for its descendants after that.

        Returns:
            The descendants that are still alive.
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
