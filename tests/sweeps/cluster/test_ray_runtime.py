"""Ray is ended without ending the process that it served."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# A thread that leaves one reference after the other in a cycle, with a collector that comes by all the time.
GARBAGE_WHILE_RAY_ENDS = """
import gc, threading, time
import ray
from sweeps.engine.cluster.ray_runtime import end_ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
held = [ray.put(1) for _ in range(30_000)]
gc.collect()
gc.freeze()
gc.set_threshold(5, 1, 1)
ended = threading.Event()

def litter():
    while held and not ended.is_set():
        cycle = [held.pop()]
        cycle.append(cycle)
        del cycle
        [[] for _ in range(8)]
        time.sleep(1e-4)

threading.Thread(target=litter, daemon=True).start()
end_ray()
assert held, "the thread was done before Ray was: this shows nothing"
ended.set()
print("goes on")
"""


def test_a_thread_that_collects_garbage_as_ray_ends_does_not_end_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", GARBAGE_WHILE_RAY_ENDS], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "goes on\n"), ended.stderr
