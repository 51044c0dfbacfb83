"""The places that a sweep writes to: an MLflow server that is away for a while, and a disk that is full."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.family import TUNE_FUNCTION
from tests.sweeps.end_to_end.as_a_user import EXACT, Folder, assert_whole, spt
from tests.sweeps.end_to_end.shown import Shown

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

AWAY_SECONDS = 30
MIB = 2**20


class Server:
    """A real `mlflow server` on the loopback address, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder

    def start(self) -> None:
        where = ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}", "--workers", "1"]
        where += ["--default-artifact-root", str(self._folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", *where, "--host", "127.0.0.1", "--port", str(self.port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # a worker of it that lived on would keep the port
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=1).status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path)
    one.start()
    yield one
    one.stop()


def test_a_server_that_is_away_for_half_a_minute_gets_all_of_it(
    server: Server, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [1, 2]}), "--model", tiny_llama, *EXACT, "--workers", "0"]
    command += ["--concurrency", "1", "--set", "optim.max_steps=80"]
    sweep = folder.start(*command, "--tracking-uri", server.uri)
    sweep.until(r"training \d+/")
    server.stop()
    back = time.monotonic() + AWAY_SECONDS
    sweep.until(": finished")  # nobody waits for the server
    held = sweep.family.processes(TUNE_FUNCTION)  # until it is back, however slow the machine is
    for process in held:
        process.suspend()
    while time.monotonic() < back:
        assert sweep.family.driver.poll() is None, "the sweep goes on without the server"
        time.sleep(0.2)
    server.start()
    for process in held:
        process.resume()
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert "is away" in ended.output
    assert "MLflow has not got" not in ended.output
    children = assert_whole(folder, steps=80, shown=Shown(server.uri, "mine"))
    assert len(children) == 2
    for child in children.values():  # what the compare view of the server shows
        assert child.data.tags["factor.prompts.num_prompts"] == child.data.params["prompts.num_prompts"]
        assert {one.dataset.name for one in child.inputs.dataset_inputs} == {"sample:train", "sample:valid"}
        assert child.data.metrics["system/process_memory_megabytes"] > 100
    assert len({child.data.tags["cell"] for child in children.values()}) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for an output folder, a tmpfs."""
    place = tmp_path / "out"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mount is not allowed here, and a small disk needs it")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_sweep_with_its_cure_and_space_lets_it_go_on(
    small_disk: Path, tiny_llama: Path, tmp_path: Path, fill: Callable[[Path], Path]
) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [1, 2]}), "--model", tiny_llama, *EXACT, "--workers", "0"]
    command += ["--concurrency", "1", "--set", "optim.max_steps=60"]
    sweep = folder.start(*command)
    sweep.until(": finished")
    sweep.until(r"training \d+/")
    ballast = fill(small_disk)
    full = sweep.wait()
    assert full.code == 1, full.output
    assert "Traceback" not in full.output, full.output
    assert "free some space" in full.output, full.output
    assert "(raised as a result of" not in full.output, "what the database said, not what SQLAlchemy put around it"
    ballast.unlink()
    ended = folder.run(*command)
    assert ended.code == 0, ended.output
    assert "0 finished before" not in ended.output, "what had finished is kept"
    assert len(assert_whole(folder, steps=60)) == 2


@pytest.fixture
def fill() -> Callable[[Path], Path]:
    def until_full(place: Path) -> Path:
        ballast = place / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        return ballast

    return until_full
