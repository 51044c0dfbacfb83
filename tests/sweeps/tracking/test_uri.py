import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sweeps.engine.tracking.uri import check


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


class _Answers(BaseHTTPRequestHandler):
    status, body = 200, b"OK"
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[tuple[int, type[_Answers]]]:
    handler = type("Handler", (_Answers,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port, handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_is_not_there_is_refused_at_once_with_the_cure(closed_port: int) -> None:
    uri = f"http://127.0.0.1:{closed_port}"
    started = time.monotonic()
    with pytest.raises(ValueError, match=rf"--tracking-uri {uri}: .*refused.*mlflow server.*sqlite:///mlflow\.db"):
        check(uri)
    assert time.monotonic() - started < 3


def test_a_server_that_hangs_is_refused_after_seconds(silent_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="timed out"):
        check(f"http://127.0.0.1:{silent_port}")
    assert time.monotonic() - started < 5


def test_a_healthy_server_is_accepted_below_a_path_too(answering: tuple[int, type[_Answers]]) -> None:
    port, handler = answering
    check(f"http://ann:hunter2@127.0.0.1:{port}/mlflow/")
    assert handler.asked == ["/mlflow/health"]


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (403, b""), (404, b""), (500, b"")])
def test_what_answers_and_is_no_mlflow_server_is_refused(
    answering: tuple[int, type[_Answers]], status: int, body: bytes
) -> None:
    port, handler = answering
    handler.status, handler.body = status, body
    with pytest.raises(ValueError, match="what answers there"):
        check(f"http://127.0.0.1:{port}")


def test_a_gate_that_wants_credentials_is_left_to_those_who_have_them(
    answering: tuple[int, type[_Answers]],
) -> None:
    port, handler = answering
    handler.status = 401
    check(f"http://127.0.0.1:{port}")


def test_the_folder_of_an_sqlite_file_is_made_and_nothing_else(tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path}/a/b/mlflow.db")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are the notes of a person")
    with pytest.raises(ValueError, match="no SQLite database"):
        check(f"sqlite:///{tmp_path}/notes.db")


@pytest.mark.parametrize("uri", ["", "mlruns", "file:///mlruns", "ftp://host", "sqlite://", "http://[oops", "http://"])
def test_what_cannot_hold_runs_is_refused_with_the_cure(uri: str) -> None:
    with pytest.raises(ValueError, match=r"--tracking-uri .*sqlite:///mlflow\.db"):
        check(uri)


@pytest.mark.parametrize("password", ["hunter2", "p@ss:w@rd", ""])
def test_a_refusal_does_not_show_user_or_password(closed_port: int, password: str) -> None:
    with pytest.raises(ValueError, match="refused") as refusal:
        check(f"http://ann:{password}@127.0.0.1:{closed_port}")
    assert "@" not in str(refusal.value)
    assert "ann" not in str(refusal.value)
