"""Random streams that depend on a seed and a name alone, so that adding one never shifts another."""

import hashlib

import torch


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator for one named stream of a seed.

    Args:
        seed: the trial's seed.
        name: what the stream is for, for example `"prompt", 3`.
    """
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
