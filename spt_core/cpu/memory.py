"""What the C library does with memory that was freed."""

import ctypes
import functools

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_NEVER = -1
_TOP_PAD_BYTES = 64 * 2**20
_MMAP_BYTES = 2**30


@functools.cache
def keep_freed() -> bool:
    """Let a glibc process keep what it frees, in place of handing it back to the kernel: of any other, nothing changes.

    A step on a CPU frees about a gigabyte of activations, and the next step's first touch of each page of it was a
    fault in the kernel, which does not share its work between threads: an eighth of a step (docs/performance.md).

    Returns:
        Whether the C library took it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = [(_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES), (_MMAP_THRESHOLD, _MMAP_BYTES)]
    return all(mallopt(name, value) == 1 for name, value in settings)


def give_back() -> None:
    """Hand what a glibc process has freed and kept back to the kernel, for whoever has run out of memory."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
