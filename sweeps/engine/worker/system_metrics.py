"""What a trial takes of its machine, under MLflow's names, sampled in the worker whenever it reports."""

import resource
import sys
from typing import Any

import psutil

PREFIX = "system/"
_MIB = 2**20
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of `ru_maxrss`."""


class SystemMetrics:
    """Samples the CPU, memory and GPU of this process and its machine.

    Args:
        device: the trial's: `cpu`, `cuda`, `cuda:1`.
    """

    def __init__(self, device: str) -> None:
        self._device, self._process = device, psutil.Process()
        self.sample()  # shares of the CPU are since the sample before

    def sample(self) -> dict[str, float]:
        """CPU in percent since the last sample (of the process: 100 is one core); memory in MiB and percent, now."""
        memory, resident = psutil.virtual_memory(), self._process.memory_info().rss
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT  # of which the kernel's is a moment old
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": (memory.total - memory.available) / _MIB,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_percentage": self._process.cpu_percent(),
            "process_memory_megabytes": resident / _MIB,
            "process_peak_memory_megabytes": max(peak, resident) / _MIB,
            **(self._of_gpu() if self._device.startswith("cuda") else {}),
        }
        return {PREFIX + name: float(value) for name, value in found.items()}

    def _of_gpu(self) -> dict[str, Any]:
        import torch

        free, total = torch.cuda.mem_get_info(self._device)
        return {
            "gpu_0_memory_usage_megabytes": (total - free) / _MIB,
            "gpu_0_memory_usage_percentage": 100 * (total - free) / total,
            "process_gpu_peak_memory_megabytes": torch.cuda.max_memory_allocated(self._device) / _MIB,
        }
