"""What a process frees it keeps, once told to: using it again costs no page fault."""

import platform
import resource
import subprocess
import sys

import pytest

BYTES = 40 * 2**20
"""More than glibc ever keeps of itself."""
AGAIN = 10
FAULTS = f"""
import resource, sys, threading, torch
from spt_core.cpu import memory

def use() -> None:
    torch.ones({BYTES}, dtype=torch.uint8)

def faults() -> None:
    if sys.argv[1] == "keep":
        assert memory.keep_freed()
    for _ in range({AGAIN}):
        use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({AGAIN}):
        use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""


def faults(name: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, name], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_used_again_is_not_faulted_in_again() -> None:
    by_default, kept = faults("default"), faults("keep")
    assert by_default > AGAIN * BYTES // resource.getpagesize() // 2  # or this shows nothing
    assert kept < by_default / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_kept_can_be_given_back() -> None:
    code = f"""
import psutil, torch
from spt_core.cpu import memory
assert memory.keep_freed()
many = [torch.ones({BYTES}, dtype=torch.uint8) for _ in range({AGAIN})]
del many
before = psutil.Process().memory_info().rss
memory.give_back()
print(before - psutil.Process().memory_info().rss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > AGAIN * BYTES // 2
