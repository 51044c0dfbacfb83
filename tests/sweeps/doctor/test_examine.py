"""What the doctor finds on storage, sharing and MLflow; `spt doctor` on a machine without and with a fault."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sweeps.engine.doctor import examine
from sweeps.engine.doctor.finding import Needs
from tests.sweeps.command_line import invoke
from tests.sweeps.doctor.findings import only


def test_a_good_machine_is_green(home: Path, tiny_llama: Path) -> None:
    code, out, _ = invoke("doctor", "--model", tiny_llama, "--output", home / "runs", "--json")
    assert code == 0, out
    findings = json.loads(out)["findings"]
    assert {finding["level"] for finding in findings} == {"ok"}
    checks = ("python", "packages", "dashboard", "gpu", "precision", "disk", "memory", "token")
    assert {finding["check"] for finding in findings} >= {*checks, "model", "train", "test", "storage", "mlflow"}


def test_each_finding_is_printed_with_what_why_and_cure(home: Path, tiny_llama: Path) -> None:
    code, out, _ = invoke("doctor", "--model", tiny_llama, "--output", home / "runs", "--train", "nowhere.txt")
    assert code == 1
    lines = out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("error"))
    problem, why, cure = lines[at : at + 3]
    assert "nowhere.txt" in problem
    assert why.strip().startswith("why: ")
    assert cure.strip().startswith("cure: ")
    assert lines[-1].endswith("0 warnings, 1 errors")


def test_a_folder_that_another_node_does_not_see(request_: Needs) -> None:
    found = only([examine.examine_sharing(request_, ["10.0.0.7"], may_grow=False)], "sharing")
    assert "not there on 10.0.0.7" in found.what


def test_a_local_folder_where_nodes_may_be_added(request_: Needs) -> None:
    found = only([examine.examine_sharing(request_, [], may_grow=True)], "sharing")
    assert "own disk" in found.what
    bucket = replace(request_, storage="s3://bucket/spt")
    assert examine.examine_sharing(bucket, [], may_grow=True).level == "ok"


def test_storage_that_cannot_be_written(request_: Needs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = replace(request_, storage=str(tmp_path / "file" / "below"))
    assert "--storage" in only([examine.examine_storage(blocked)], "storage").what


def test_mlflow_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = only([examine.examine_tracking(f"http://ann:secret@127.0.0.1:{port}")], "mlflow")
    assert "refused" in found.what
    assert "secret" not in str(found)


class _Locked(BaseHTTPRequestHandler):
    """What MLflow with basic authentication says to one without credentials."""

    def do_GET(self) -> None:
        healthy = self.path == "/health"
        self.send_response(200 if healthy else 401)
        self.end_headers()
        self.wfile.write(b"OK" if healthy else b"You are not authenticated.")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def locked() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Locked)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_mlflow_that_asks_for_credentials(locked: str) -> None:
    assert "~/.mlflow/credentials" in only([examine.examine_tracking(locked)], "mlflow").cure
