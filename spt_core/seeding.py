"""Random streams that depend on a seed and a name alone, so that a new stream does not change the others."""

import hashlib

import torch


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator for one named stream of a seed.

    Args:
        seed: the trial's seed.
        name: the purpose of the stream, for example `"prompt", 3`.
    """
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
