"""`ray up`, `ray submit`, `ray rsync-down`, `ray down` for real: over ssh to this machine, as a user of its own.

The user has the packages of the environment that runs the tests, and nothing else; the project reaches it as the
cluster's YAML says.
"""

import base64
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import PROJECT

USER = "spt-loopback"
YAML = PROJECT / "clusters" / "loopback.yaml"
RAY, MLFLOW, SSH = 6390, 5090, 22
_NODE_PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")


def _why_not() -> str:
    if os.geteuid() != 0:
        return "a user of its own is made by root alone"
    missing = [name for name in ("sshd", "rsync", "make", "pgrep", "useradd") if not _which(name)]
    if missing:
        return f"{', '.join(missing)} is not installed (Debian: openssh-server, rsync)"
    if not _NODE_PYTHON.exists():
        return f"{_NODE_PYTHON} is not there: another user cannot run this environment's own"
    return "something listens on 127.0.0.1:22" if _listens(SSH) else ""


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(_why_not()), reason=_why_not()),
]


def _until(condition: Callable[[], object], *, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _processes() -> list[str]:
    uid = pwd.getpwnam(USER).pw_uid
    found = []
    for process in psutil.process_iter(["uids", "cmdline"]):
        if process.info["uids"] and process.info["uids"].real == uid:
            found.append(" ".join(process.info["cmdline"] or []))
    return found


@dataclass(frozen=True)
class Session:
    """From `ray up` to `ray down`.

    Attributes:
        home: of the cluster's user.
        up: what `ray up` said; `submit`, likewise of the sweep.
        token_mode: of the file with Ray's token; `password_mode`, likewise of MLflow's.
        stranger: what MLflow answered to one without the password, and to one with a wrong one.
        joined: how `ray.init` at the cluster's address ended without its token.
        runs: of MLflow, parent and children, asked with the password.
        fetched: folder that `ray rsync-down` filled.
        mounted: what there was in the user's copy of the project.
        left: processes of the user after `ray down`.
    """

    home: Path
    up: str
    submit: subprocess.CompletedProcess[str]
    token_mode: int
    password_mode: int
    stranger: tuple[int, int]
    joined: subprocess.CompletedProcess[str]
    runs: list[dict[str, str]]
    fetched: Path
    mounted: set[str]
    left: list[str]


@pytest.fixture(scope="module")
def session(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("loopback")
    with _user() as home, _sshd(folder, home):
        model = home / "model"
        shutil.copytree(tiny_llama, model)
        subprocess.run(["chown", "-R", f"{USER}:", model], check=True)
        config = yaml.safe_load(YAML.read_text())
        config["auth"]["ssh_private_key"] = str(folder / "key")
        edited = folder / "loopback.yaml"
        edited.write_text(yaml.safe_dump(config))
        ray = _client(folder, edited)
        try:
            up = ray("up", "-y", check=True).stdout
            submit = ray(
                "submit",
                *(str(PROJECT / "sweeps" / "k_sweep.py"), "--", "--scale", "tiny", "--model", str(model)),
                *("--set", "backbone.precision=float32"),
                check=True,
            )
            ray("rsync-down", "~/runs/", str(folder / "runs"), check=True)
            credentials = (home / ".mlflow" / "credentials").read_text().split()
            runs = _runs(*(credentials[-4], credentials[-1]))
            stranger = (_status({}), _status(_basic("admin", "password1234")))
            joined = _join(folder / "stranger")
            modes = [(home / path).stat().st_mode & 0o777 for path in (".ray/auth_token", ".mlflow/credentials")]
            mounted = {path.name for path in (home / "spt-sweeps").iterdir()}
        finally:
            ray("down", "-y")
        _until(lambda: not _processes())
        yield Session(home, up, submit, *modes, stranger, joined, runs, folder / "runs", mounted, _processes())


def _user() -> "_User":
    return _User()


class _User:
    """The cluster's user while the block runs: its Python has this environment's packages."""

    def __enter__(self) -> Path:
        self.__exit__()
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", USER], check=True)
        home = Path(pwd.getpwnam(USER).pw_dir)
        venv = home / "spt-sweeps" / ".venv"
        subprocess.run([_NODE_PYTHON, "-m", "venv", "--without-pip", venv], check=True)
        packages = venv / sysconfig.get_path("purelib", vars={"base": ""}).lstrip("/")
        (packages / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n{home / 'spt-sweeps'}\n")
        for name, module in (("ray", "ray.scripts.scripts"), ("mlflow", "mlflow"), ("spt", "sweeps.engine.cli.main")):
            script = venv / "bin" / name
            script.write_text(f'#!/bin/sh\nexec "{venv}/bin/python" -m {module} "$@"\n')
            script.chmod(0o755)
        (venv / ".installed").touch()
        os.utime(venv / ".installed", (time.time() + 86400,) * 2)  # `make setup` then has nothing to do
        subprocess.run(["chown", "-R", f"{USER}:", home], check=True)
        return home

    def __exit__(self, *exception: object) -> None:
        if any(entry.pw_name == USER for entry in pwd.getpwall()):
            uid = pwd.getpwnam(USER).pw_uid
            for process in psutil.process_iter(["uids"]):
                if process.info["uids"] and process.info["uids"].real == uid:
                    process.kill()
            _until(lambda: not _processes())
            subprocess.run(["userdel", "--remove", USER], check=True, capture_output=True)
        shutil.rmtree(f"/tmp/ray-{USER}", ignore_errors=True)


class _sshd:  # noqa: N801
    """An ssh server on the loopback address, for that user and that key alone, while the block runs."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder, self._home = folder, home

    def __enter__(self) -> None:
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._folder / name], check=True)
        allowed = self._home / "authorized"
        shutil.copy(self._folder / "key.pub", allowed)
        shutil.chown(allowed, USER)
        Path("/run/sshd").mkdir(exist_ok=True)
        settings = {
            "ListenAddress": f"127.0.0.1:{SSH}",
            "HostKey": self._folder / "host",
            "AuthorizedKeysFile": allowed,
            "AllowUsers": USER,
            "PasswordAuthentication": "no",
            "StrictModes": "no",
            "PidFile": "none",
            "UsePAM": "no",
        }
        config = self._folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        server = _which("sshd")
        assert server
        log = self._folder / "sshd.log"
        self._process = subprocess.Popen([server, "-D", "-f", config, "-E", log])
        assert _until(lambda: _listens(SSH), seconds=20), log.read_text()

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)


def _client(folder: Path, edited: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`ray COMMAND loopback.yaml ...` as a person at another machine types it, in the project's root."""
    home = folder / "client"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def ray(command: str, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", command, str(edited), *arguments],
            cwd=PROJECT,
            env={**inherited, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    return ray


def _basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _ask(path: str, body: object, headers: dict[str, str]) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{MLFLOW}/api/2.0/mlflow/{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, object] = json.loads(answer.read())
        return found


def _status(headers: dict[str, str]) -> int:
    try:
        _ask("experiments/search", {"max_results": 10}, headers)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def _runs(user: str, password: str) -> list[dict[str, str]]:
    """The tags and the status of every run of the sweep."""
    headers = _basic(user, password)
    experiments = _ask("experiments/search", {"max_results": 10}, headers)["experiments"]
    assert isinstance(experiments, list)
    ids = [experiment["experiment_id"] for experiment in experiments if experiment["name"] == "k_sweep"]
    runs = _ask("runs/search", {"experiment_ids": ids, "max_results": 10}, headers)["runs"]
    assert isinstance(runs, list)
    return [
        {"status": run["info"]["status"], **{tag["key"]: tag["value"] for tag in run["data"]["tags"]}} for run in runs
    ]


def _join(home: Path) -> subprocess.CompletedProcess[str]:
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", f"import ray; ray.init('127.0.0.1:{RAY}'); print('joined')"],
        env={**inherited, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_sweep_runs_to_its_end_where_it_lands(session: Session) -> None:
    assert session.submit.returncode == 0, session.submit.stdout
    assert "0 finished before, 3 to run" in session.submit.stdout
    assert "report  runs/k_sweep-tiny-" in session.submit.stdout


def test_the_trackers_server_holds_parent_and_children(session: Session) -> None:
    parents = [run for run in session.runs if "mlflow.parentRunId" not in run]
    assert len(parents) == 1
    assert len(session.runs) == 4
    assert {run["status"] for run in session.runs} == {"FINISHED"}
    assert parents[0]["tracking"] == f"http://127.0.0.1:{MLFLOW}"


def test_results_come_back(session: Session) -> None:
    (report,) = session.fetched.glob("k_sweep-tiny-*/results.json")
    assert {trial["state"] for trial in json.loads(report.read_text())["trials"]} == {"finished"}
    assert report.with_name("report.html").stat().st_size > 10_000


def test_a_node_gets_the_project_and_nothing_else_of_the_checkout(session: Session) -> None:
    assert session.mounted == {
        *(".venv", "LICENSE", "Makefile", "README.md", "clusters", "constraints.txt", "pyproject.toml"),
        *("spt_core", "sweeps"),
    }


def test_without_its_token_nobody_joins_and_without_its_password_nobody_reads(session: Session) -> None:
    assert session.stranger == (401, 401)
    assert session.joined.returncode != 0
    assert "joined" not in session.joined.stdout
    assert "token" in session.joined.stderr
    assert (session.token_mode, session.password_mode) == (0o600, 0o600)


def test_ray_down_leaves_no_process(session: Session) -> None:
    assert session.left == []
