"""The device of a process: which one there is, and how a process is set up to train on it."""

import torch

from spt_core.cpu import memory


def default_device() -> str:
    """`cuda` if a GPU is available, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare_process(device: str) -> None:
    """Set this process up for training on a device: on a CPU it keeps the memory that a step frees (`cpu.memory`)."""
    if device == "cpu":
        memory.keep_freed()
