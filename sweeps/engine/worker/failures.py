"""What went wrong with a trial, and what that asks for: less memory at once, another worker, or a person."""

import errno
import re
from collections.abc import Iterator

from sweeps.engine.store.redact import redact

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "could not create a primitive",  # oneDNN's, which got no page for its code
)
"""How torch says it without an exception of its own."""
_DISK_FULL = ("No space left on device", "disk is full", "Disk quota exceeded")
"""How safetensors, SQLite and the system say it."""

_KILLED_FOR_MEMORY = ("running low on memory", "OutOfMemoryError")
"""How Ray's memory monitor says that it killed a process."""
_CAUSES = ("cause", "health_check_failure", "controller_failure", "orig")
"""Attributes that hold it: of Ray's task errors, of Train's health checks and controller, of SQLAlchemy's errors."""
_ADVICE = "Some common causes include"
"""Where Ray, having said what happened, goes on for half a page."""
_NODE_ID = r", ID: [0-9a-f]{32,}"
"""Ray's own name of a node, behind its address."""


class LostProcessError(Exception):
    """The process that held a trial's claim is gone; the message says what is known of it, on one line."""


def read_tune_error(text: str) -> Exception:
    """The last error that Tune wrote beside a trial, as one of the kinds below.

    Args:
        text: of the trial's error file: `Failure # N (...)`, then what the error said, for each failure.
    """
    said = text.rpartition("Failure # ")[2].partition("\n")[2].partition(_ADVICE)[0].strip()
    lines = said.splitlines() or ["nothing is known of why"]
    if any(phrase in said for phrase in _KILLED_FOR_MEMORY):
        return MemoryError(lines[0])
    if said.startswith("ray::"):  # an error of the function itself, behind its traceback
        return RuntimeError(lines[-1])
    return LostProcessError(lines[-1].strip())


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a trial wanted more memory than there was: a GPU's, the machine's, or what Ray's monitor grants."""
    return any(_is_memory(one) for one in _innermost(error))


def lost_its_process(error: BaseException) -> bool:
    """Whether a process of a trial is gone."""
    kinds = {"RayActorError", LostProcessError.__name__}
    return any(kind.__name__ in kinds for one in _innermost(error) for kind in type(one).__mro__)


def found_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk, or a quota on it, is full."""
    said = ""
    chain: BaseException | None = error
    while chain is not None:  # a library may have put words of its own around it
        said += "".join(str(one) for one in (chain, *_innermost(chain)))
        chain = chain.__cause__ or chain.__context__
    return any(phrase in said for phrase in _DISK_FULL)


def one_line(error: BaseException) -> str:
    """What went wrong, for a table: the innermost failure of a Train run, the lack of memory before all others."""
    found = list(_innermost(error))
    told = next(filter(_is_memory, found), found[0])
    lines = re.sub(_NODE_ID, "", str(told).partition(_ADVICE)[0].strip()).splitlines()
    # A lack of memory is said first, and what Ray knows of the node after it; an error behind its traceback.
    kind = "its process was lost" if isinstance(told, LostProcessError) else type(told).__name__
    return redact(f"{kind}: {lines[0 if _is_memory(told) else -1]}") if lines else kind


def _innermost(error: BaseException) -> Iterator[BaseException]:
    """The failures that an error is the envelope of, one a worker; the error itself if it is none."""
    failures = getattr(error, "worker_failures", None)
    cause = next(filter(None, (getattr(error, name, None) for name in _CAUSES)), None)
    if failures:
        for failure in failures.values():
            yield from _innermost(failure)
    elif isinstance(cause, BaseException):
        yield from _innermost(cause)
    else:
        yield error


def _is_memory(error: BaseException) -> bool:
    # By name: torch's and Ray's are no relatives, and torch is not imported where a trial is only watched.
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
    return named or refused or said or isinstance(error, MemoryError)
