"""A machine without a fault, and what would run on it."""

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.engine.doctor.facts import Facts, look
from sweeps.engine.doctor.finding import Needs


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with a token that only its owner reads, and no cluster."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "SPT_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("t" * 40)
    token.chmod(0o600)
    return tmp_path


@pytest.fixture
def request_(home: Path, tiny_llama: Path) -> Needs:
    return Needs(
        model=str(tiny_llama),
        train="sample:train",
        test="sample:valid",
        output=home / "runs",
        storage=None,
        tracking_uri=f"sqlite:///{home / 'runs' / 'mlflow.db'}",
        num_trials=24,
    )


@pytest.fixture
def facts(request_: Needs) -> Facts:
    """Those of this machine, with enough disk and memory for any test to run beside others."""
    seen = look(*request_.sources)
    return replace(seen, disk_gib={"/": 500.0}, memory_gib=32.0)
