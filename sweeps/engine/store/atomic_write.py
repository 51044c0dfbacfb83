"""Files that others read while they are written."""

import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of which nobody ever reads a part; of several who write it at once, one has the last word.

    Args:
        path: in a folder that is there.
        content: all of it; text is written as UTF-8.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
