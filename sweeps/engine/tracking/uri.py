"""Where MLflow's runs go: whether a tracking URI can be used, and how it may be shown."""

import urllib.error
import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url

from sweeps.engine.store.redact import redact

_PROBE_SECONDS = 3.0


def check(uri: str) -> None:
    """Refuse a place for the runs that cannot be used, before the sweep starts.

    Args:
        uri: `http(s)://` of a tracking server, which is asked for its health; or `sqlite:///` a file, whose folder is
            made. A plain folder is refused, as MLflow itself refuses it by now.

    Raises:
        ValueError: names `--tracking-uri`, the value and what would do; within about three seconds.
    """
    try:
        scheme = urlsplit(uri).scheme
        if scheme in {"http", "https"}:
            _ask_server(uri)
        elif scheme == "sqlite":
            _prepare_file(make_url(uri).database)
        else:
            raise ValueError("this is neither an http(s):// address nor an sqlite:/// file")
    except (OSError, HTTPException, ValueError) as error:
        reason = redact(str(getattr(error, "reason", error)))
        raise ValueError(
            f"--tracking-uri {redact(uri)}: {reason}. Start a server (mlflow server --port 5000) and give its address, "
            "or keep the runs in a file: sqlite:///mlflow.db"
        ) from None


def _ask_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{redact(uri).rstrip('/')}/health", timeout=_PROBE_SECONDS) as answer:
            if answer.read(16).strip() != b"OK":
                raise ValueError("what answers there is no MLflow server")
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.UNAUTHORIZED:  # a gate before the server; MLflow's client has the credentials
            raise ValueError(f"what answers there is no healthy MLflow server (HTTP {error.code})") from None


def _prepare_file(database: str | None) -> None:
    if not database:
        raise ValueError("it names no file")
    path = Path(database)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open("rb") as file:
            if file.read(16) not in {b"", b"SQLite format 3\0"}:
                raise ValueError("the file is no SQLite database")
