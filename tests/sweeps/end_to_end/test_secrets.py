"""Passwords in the addresses that a sweep is given stay out of everything that it writes and prints."""

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.sweeps.end_to_end.as_a_user import EXACT, Ended, Folder, spt
from tests.sweeps.end_to_end.shown import Shown
from tests.sweeps.end_to_end.test_faults_places import Server, server

__all__ = ["server"]

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRACKING, STUDY, STORAGE = "tr@cking:pa%s/s", "stu@dy:pa%ss", "sto@rage:pa%s+s"
"""With the characters that end a password for a careless reader."""


def assert_nowhere(secret: str, folder: Folder, ended: Ended) -> None:
    """In no file below the output folder (databases, pickles and pages among them), and in nothing printed."""
    parts = [secret, quote(secret, safe=""), quote(secret), *secret.replace("%", "@").split("@")]
    parts = [part for part in parts if len(part) > 4]
    for path in [path for path in folder.out.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        found = [part for part in parts if part.encode() in content]
        assert not found, f"{path.relative_to(folder.out)}: {found}"
    assert not [part for part in parts if part in ended.output]


def test_passwords_of_the_tracking_server_and_the_study_are_nowhere(
    tiny_llama: Path, tmp_path: Path, server: Server
) -> None:
    folder = Folder(tmp_path)
    tracking = server.uri.replace("://", f"://ann:{quote(TRACKING, safe='')}@")
    study = f"sqlite:///file:{tmp_path / 'study.db'}?uri=true&password={quote(STUDY, safe='')}"
    command = [*spt(folder, {"prompts.num_prompts": [1, 2]}), "--model", tiny_llama, *EXACT, "--workers", "0"]
    ended = folder.run(*command, "--tracking-uri", tracking, f"--study={study}")
    assert ended.code == 0, ended.output
    assert (tmp_path / "study.db").is_file(), "the study is where its address says"
    shown = Shown(server.uri, folder.name)
    assert {child.info.status for child in shown.children.values()} == {"FINISHED"}
    assert "spt run" in folder.results["facts"]["command"] or "cli" in folder.results["facts"]["command"]
    for secret in (TRACKING, STUDY):
        assert_nowhere(secret, folder, ended)
        for run in (shown.parent, *shown.children.values()):
            assert secret not in str(run.to_dictionary())
        assert quote(secret, safe="").encode() not in (tmp_path / "server.db").read_bytes()
        assert secret.encode() not in (tmp_path / "server.db").read_bytes()


def test_the_password_of_a_storage_that_fails_is_nowhere(tiny_llama: Path, tmp_path: Path) -> None:
    """The trial fails with what the file system says of its address, and that is shown, logged and recorded."""
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [2]}), "--model", tiny_llama, *EXACT, "--workers", "1"]
    ended = folder.run(*command, "--storage", f"s3://KEY:{STORAGE}@bucket/folder")
    assert ended.code == 1, ended.output
    (trial,) = folder.results["trials"]
    assert trial["state"] == "failed"
    assert trial["error"]
    assert_nowhere(STORAGE, folder, ended)
