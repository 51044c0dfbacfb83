"""Causal attention as batched matrix products over blocks of queries, forward and backward.

A block of queries is multiplied by the keys up to its own end, so of the masked scores it computes only one corner.
Query heads that share keys are rows of one product, so keys are not repeated and their gradients need no sum over
heads. The attention weights are saved for the backward pass. They fill half a square: for SmolLM2 a fifth of the other
tensors that a layer saves at 170 tokens, less than half at 500.

`llama` uses it for its layers. The layers of transformers use it too when they train in bfloat16 on a CPU.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NAME = "spt"
"""Name of this attention in transformers (`attn_implementation`)."""
KEYS_A_BLOCK = 128
"""Keys in one block of queries."""


class _CausalAttention(torch.autograd.Function):
    """`attend` as an autograd function; queries, keys and values have the same dtype."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        query, keys, values, bias_NTS = inputs
        attended, weights = attend(query, keys, values, bias_NTS)
        ctx.save_for_backward(query, keys, values, *weights)
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (to_attended,) = gradients
        query, keys, values, *weights = ctx.saved_tensors
        return *attend_back(to_attended, query, keys, values, weights), None


def _blocks(query_NHTd: Tensor, keys_NHSd: Tensor) -> list[tuple[slice, int]]:
    """Blocks of queries, each with the end of the keys that its last query may see: multiples of a block, then the end.

    Multiples, because softmax in bfloat16 is slower by half over rows whose length is no multiple of a register.
    """
    num_queries, num_keys = query_NHTd.shape[2], keys_NHSd.shape[2]
    before = num_keys - num_queries
    ends = [*range((before // KEYS_A_BLOCK + 1) * KEYS_A_BLOCK, num_keys, KEYS_A_BLOCK), num_keys]
    starts = [before, *ends[:-1]]
    return [(slice(start - before, end - before), end) for start, end in zip(starts, ends, strict=True)]


def _grouped(block: Tensor, groups: int) -> Tensor:
    """A view of [N, H, rows x groups, ...] as [N, H, rows, groups, ...]."""
    return block.view(*block.shape[:2], -1, groups, block.shape[-1])


def _of_block(query_NHTd: Tensor, rows: slice, num_kv: int) -> Tensor:
    """The queries of a block as [N, H, rows x groups, d] with H key heads: query heads that share keys are rows."""
    num_rows, num_heads, _, width = query_NHTd.shape
    block = query_NHTd[:, :, rows].reshape(num_rows, num_kv, num_heads // num_kv, -1, width)
    return block.transpose(2, 3).flatten(2, 3)


def bias(seen_NTS: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as a term to add to the scores: 0 where a query sees a key, else the lowest number of the dtype.

    It is not minus infinity, because left padding sees no key at all, and its softmax would be NaN.
    """
    return torch.zeros_like(seen_NTS, dtype=dtype).masked_fill_(~seen_NTS, torch.finfo(dtype).min)


@functools.cache
def _corner(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`bias` of queries and keys at the same positions. The cache is small: a size is at most KEYS_A_BLOCK."""
    return bias(torch.ones(size, size, dtype=torch.bool, device=device).tril(), dtype)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias_NTS: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """softmax(Q K^T + bias) V.

    Args:
        query: scaled queries of the last T of S positions, [N, H, T, d].
        keys: [N, G, S, d], G a divisor of H.
        values: [N, G, S, d].
        bias_NTS: from `bias`, of the same dtype; None means that a query sees all keys up to its own position.

    Returns:
        The result, [N, T, H x d], and the attention weights of each block of queries, [N, G, queries x H / G, keys],
        which `attend_back` needs.
    """
    num_kv, groups = keys.shape[1], query.shape[1] // keys.shape[1]
    attended, weights = [], []
    for rows, end in _blocks(query, keys):
        scores = _of_block(query, rows, num_kv) @ keys[:, :, :end].mT
        by_query = _grouped(scores, groups)
        if bias_NTS is None:
            own = rows.stop - rows.start
            by_query[..., end - own :] += _corner(own, scores.dtype, scores.device).unsqueeze(1)
        else:
            by_query += bias_NTS[:, None, rows, None, :end]
        weights.append(scores.softmax(-1))
        attended.append(_grouped(weights[-1] @ values[:, :, :end], groups).transpose(1, 2).flatten(2))
    return torch.cat(attended, dim=1), weights


def attend_back(
    to_attended_NTD: Tensor, query: Tensor, keys: Tensor, values: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the scaled queries, the keys and the values.

    Args:
        to_attended_NTD: gradient of the result of `attend`, [N, T, H x d].
        query: as given to `attend`.
        keys: as given to `attend`.
        values: as given to `attend`.
        weights: attention weights that `attend` returned.
    """
    num_kv, groups = keys.shape[1], query.shape[1] // keys.shape[1]
    to_query, to_keys, to_values = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
    to_heads = to_attended_NTD.view(*to_attended_NTD.shape[:2], num_kv, groups, query.shape[-1])
    for (rows, end), of_block in zip(_blocks(query, keys), weights, strict=True):
        to_block = to_heads[:, rows].transpose(1, 2).flatten(2, 3)
        to_values[:, :, :end] += of_block.mT @ to_block
        to_scores = torch._softmax_backward_data(to_block @ values[:, :, :end].mT, of_block, -1, of_block.dtype)
        found = _grouped(to_scores @ keys[:, :, :end], groups)
        to_query[:, :, rows] = found.transpose(2, 3).flatten(1, 2)
        to_keys[:, :, :end] += to_scores.mT @ _of_block(query, rows, num_kv)
    return to_query, to_keys, to_values


def _precision(tensor: Tensor) -> torch.dtype:
    """The dtype of a matrix product of the tensor, autocast included."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def register() -> None:
    """Register this attention with transformers under NAME; calling it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def run(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        dropout: float = 0.0,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """SDPA as in transformers, except for training in bfloat16 on a CPU."""
        trains = query.requires_grad and query.device.type == "cpu" and _precision(query) == torch.bfloat16
        causal = getattr(module, "is_causal", False) and query.shape[2] == key.shape[2] and dropout == 0
        if not (trains and causal and attention_mask is not None and attention_mask.dtype == torch.bool):
            attended, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
            )
            return attended, None
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
        bias_NTS = bias(attention_mask[:, 0], query.dtype)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        attended_NTD = _CausalAttention.apply(query * scale, key, value, bias_NTS)  # type: ignore[no-untyped-call]
        return attended_NTD.unflatten(-1, (query.shape[1], -1)), None

    AttentionInterface.register(NAME, run)
    AttentionMaskInterface.register(NAME, sdpa_mask)
