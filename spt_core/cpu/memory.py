"""Whether the C library of this process keeps freed memory or returns it to the kernel."""

import ctypes
import functools

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_NEVER = -1
_TOP_PAD_BYTES = 64 * 2**20
_MMAP_BYTES = 2**30


@functools.cache
def keep_freed() -> bool:
    """Make glibc keep the memory that this process frees; with another C library nothing changes.

    A training step on a CPU frees about a gigabyte of activations. If glibc returns it to the kernel, the next step
    causes a page fault for each page, and the kernel handles them on one thread: an eighth of a step
    (docs/performance.md).

    Returns:
        Whether the C library accepted the settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = [(_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES), (_MMAP_THRESHOLD, _MMAP_BYTES)]
    return all(mallopt(name, value) == 1 for name, value in settings)


def give_back() -> None:
    """Return the freed memory that glibc keeps to the kernel; with another C library nothing changes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
