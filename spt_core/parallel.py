"""Data parallelism without a wrapper: every worker has the whole batch and runs the backbone on some of its rows.

Scores are small, so they are gathered, and every worker computes the same global objective. Each worker propagates the
gradient through its own rows, and the sum over workers is the gradient of the global batch. With one worker all
functions here are the identity.
"""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    """Number of workers of this trial."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this worker, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def own_rows(num_rows: int) -> slice:
    """The rows of a global batch that belong to this worker: contiguous, and empty if there are too few."""
    each = -(-num_rows // world_size())
    return slice(min(rank() * each, num_rows), min((rank() + 1) * each, num_rows))


def gather_rows(own: Tensor, num_rows: int) -> Tensor:
    """All workers' rows of a tensor, in the order of the global batch, without gradient.

    Args:
        own: this worker's rows, those of `own_rows(num_rows)`.
        num_rows: number of rows of the global batch.
    """
    if world_size() == 1:
        return own.detach()
    each = -(-num_rows // world_size())
    padded = own.new_zeros(each, *own.shape[1:])
    padded[: len(own)] = own.detach()
    shares = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(shares, padded)
    return torch.cat(shares)[:num_rows]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all workers, in place. A gradient that no worker has stays None."""
    if world_size() == 1:
        return
    for parameter in parameters:
        has_gradient = torch.tensor(float(parameter.grad is not None), device=parameter.device)
        dist.all_reduce(has_gradient)
        if has_gradient > 0:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)


def gather_lists(own: list[T]) -> list[T]:
    """The concatenation of every worker's list, on every worker."""
    if world_size() == 1:
        return own
    shares: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(shares, own)
    return [item for share in shares for item in share]
