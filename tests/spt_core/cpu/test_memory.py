"""After `keep_freed` a process keeps freed memory, and its reuse causes no page faults."""

import platform
import resource
import subprocess
import sys

import pytest

BYTES = 40 * 2**20
"""More than glibc keeps by default."""
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
def test_reused_memory_causes_no_page_faults() -> None:
    by_default, kept = faults("default"), faults("keep")
    assert by_default > AGAIN * BYTES // resource.getpagesize() // 2  # otherwise the test shows nothing
    assert kept < by_default / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_can_be_returned() -> None:
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
