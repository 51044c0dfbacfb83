"""Where the nodes of a cluster exchange a trial's files: a folder that all of them see, or a bucket."""

import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

_WHOLE = ".whole"
"""How the name of an empty file ends, that says that the folder beside it was written to its end."""


def is_remote(place: str) -> bool:
    """Whether a place is a URI, such as `s3://bucket/folder`, and no path of this machine."""
    return re.match(r"[a-z][a-z0-9+.-]+://", place) is not None


def place(given: str) -> str:
    """A place as a person gave it, in full."""
    return given if is_remote(given) else str(Path(given).expanduser().resolve())


def join(place: str, *names: str) -> str:
    """A place below another; a URI's query (`?region=...`) stays at its end."""
    base, question, query = place.partition("?")
    return "/".join((base.rstrip("/"), *names)) + question + query


def put(folder: Path, place: str) -> None:
    """Copy the files of a folder to a place, over what is there."""
    from pyarrow import fs

    system, path = _open(place)
    system.create_dir(path, recursive=True)
    fs.copy_files(str(folder), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)


def fetch(place: str, folder: Path) -> bool:
    """Copy the files at a place to a folder, over what is there; False if there are none."""
    from pyarrow import fs

    system, path = _open(place)
    if system.get_file_info(path).type != fs.FileType.Directory:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    fs.copy_files(path, str(folder), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())
    return True


def keep(folder: Path, place: str) -> None:
    """Let a place hold the files of a folder in the stead of those kept before, which stay until these are whole."""
    system, path = _open(place)
    before = _kept(system, path)
    number = max(before, default=0) + 1
    remove(join(place, str(number)))  # of a writer that was interrupted
    put(folder, join(place, str(number)))
    system.open_output_stream(f"{path}/{number}{_WHOLE}").close()
    for old in before:
        with suppress(OSError):  # it costs room and nothing else
            system.delete_file(f"{path}/{old}{_WHOLE}")
            system.delete_dir(f"{path}/{old}")


def fetch_kept(place: str, folder: Path) -> bool:
    """Copy the files that a place was last let keep to a folder; False if there are none."""
    kept = _kept(*_open(place))
    return bool(kept) and fetch(join(place, str(max(kept))), folder)


def _kept(system: Any, path: str) -> list[int]:
    """The numbers of what is kept whole at a place."""
    from pyarrow import fs

    if system.get_file_info(path).type != fs.FileType.Directory:
        return []
    names = (info.base_name for info in system.get_file_info(fs.FileSelector(path)))
    return [int(name.removesuffix(_WHOLE)) for name in names if name.endswith(_WHOLE)]


def remove(place: str) -> None:
    """Drop what is at a place, if anything is; what cannot be dropped costs room and nothing else."""
    from pyarrow import fs

    with suppress(OSError):
        system, path = _open(place)
        if system.get_file_info(path).type == fs.FileType.Directory:
            system.delete_dir(path)


def probe(place: str, *, option: str = "--storage") -> None:
    """Write, read and drop a small file.

    Raises:
        ValueError: the option, the place, and why it cannot be used.
    """
    try:
        system, path = _open(place)
        system.create_dir(path, recursive=True)
        name, text = f"{path}/.spt-probe-{uuid.uuid4().hex}", b"spt"
        with system.open_output_stream(name) as written:
            written.write(text)
        with system.open_input_stream(name) as read:
            same = read.read() == text
        system.delete_file(name)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these families
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{option} {place}: it cannot be written and read here ({reason}). Check its name, region and the "
            "credentials of this machine (for S3: its instance profile, or AWS_ACCESS_KEY_ID)"
        ) from None
    if not same:
        raise ValueError(f"{option} {place}: what was read there is not what was written")


def _open(place: str) -> tuple[Any, str]:
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(place if is_remote(place) else Path(place).resolve().as_uri())
    return system, path
