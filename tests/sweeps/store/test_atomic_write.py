"""Files that are written by several at once and read meanwhile."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sweeps.engine.store.atomic_write import write_whole


def test_a_file_that_several_write_is_always_one_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "[]")

    def write(writer: int) -> None:
        for turn in range(100):
            write_whole(path, json.dumps([writer] * (turn + 1)))

    with ThreadPoolExecutor(5) as pool:
        writing = [pool.submit(write, writer) for writer in range(4)]
        while not all(one.done() for one in writing):
            assert len(set(json.loads(path.read_text()))) <= 1
    for one in writing:
        one.result()
    assert len(json.loads(path.read_text())) == 100
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
