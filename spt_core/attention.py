"""Causal attention as batched matrix products over blocks of queries, forward and backward.

Of the square that causality forbids, a block of queries meets the corner at its own end alone. Query heads that share
keys are rows of one product, so keys are never repeated and their gradients never summed over heads. The backward pass
computes its weights again; nothing of size [T, T] is kept between the two.

`llama` runs its layers with it, and transformers' own do in bfloat16 on a CPU, while they train.
"""

from typing import Any

import torch
from torch import Tensor

NAME = "spt"
"""What the backbone asks transformers for."""
QUERIES_A_BLOCK = 64


class _CausalAttention(torch.autograd.Function):
    """`attend` of queries [N, H, T, d] and of keys and values that may have fewer heads, all of one dtype."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        query, keys, values, bias_NTS = inputs
        ctx.save_for_backward(query, keys, values, bias_NTS)
        return attend(query, keys, values, bias_NTS)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (to_attended,) = gradients
        return *attend_back(to_attended, *ctx.saved_tensors), None


def _blocks(query_NHTd: Tensor, keys_NHSd: Tensor) -> list[tuple[slice, int]]:
    """Blocks of queries, each with the end of the keys that its last query may see."""
    num_queries, num_keys = query_NHTd.shape[2], keys_NHSd.shape[2]
    starts = range(0, num_queries, QUERIES_A_BLOCK)
    ends = [min(start + QUERIES_A_BLOCK, num_queries) for start in starts]
    return [(slice(start, end), num_keys - num_queries + end) for start, end in zip(starts, ends, strict=True)]


def _weights(query_NHrd: Tensor, keys_NHSd: Tensor, bias_NrS: Tensor, groups: int) -> Tensor:
    """Attention weights of a block of queries, which stand in `groups` rows for each position."""
    scores = query_NHrd @ keys_NHSd.mT
    _grouped(scores, groups).add_(bias_NrS[:, None, :, None])
    return scores.softmax(-1)


def _grouped(block: Tensor, groups: int) -> Tensor:
    """[N, H, rows x groups, ...] as [N, H, rows, groups, ...]."""
    return block.view(*block.shape[:2], -1, groups, block.shape[-1])


def _of_block(query_NHTd: Tensor, rows: slice, num_kv: int) -> Tensor:
    """The queries of a block, [N, H, rows x groups, d], H of keys: those that share keys are rows of one product."""
    num_rows, num_heads, _, width = query_NHTd.shape
    block = query_NHTd[:, :, rows].reshape(num_rows, num_kv, num_heads // num_kv, -1, width)
    return block.transpose(2, 3).flatten(2, 3)


def bias(seen_NTS: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 for keys that a query sees, the least number for the rest.

    Not minus infinity: padding before which nothing stands sees no key, and its softmax would be NaN.
    """
    return torch.zeros_like(seen_NTS, dtype=dtype).masked_fill_(~seen_NTS, torch.finfo(dtype).min)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias_NTS: Tensor) -> Tensor:
    """softmax(Q K^T + bias) V.

    Args:
        query: scaled queries of the last T of S positions, [N, H, T, d].
        keys: [N, G, S, d], G a divisor of H.
        values: [N, G, S, d].
        bias_NTS: from `bias`, of the same dtype.

    Returns:
        [N, T, H x d].
    """
    num_kv, groups = keys.shape[1], query.shape[1] // keys.shape[1]
    blocks = []
    for rows, end in _blocks(query, keys):
        weights = _weights(_of_block(query, rows, num_kv), keys[:, :, :end], bias_NTS[:, rows, :end], groups)
        attended = _grouped(weights @ values[:, :, :end], groups)
        blocks.append(attended.transpose(1, 2).flatten(2))
    return torch.cat(blocks, dim=1)


def attend_back(
    to_attended_NTD: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias_NTS: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the scaled queries, the keys and the values from that of `attend`'s result, [N, T, H x d]."""
    num_kv, groups, width = keys.shape[1], query.shape[1] // keys.shape[1], query.shape[-1]
    to_query, to_keys, to_values = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
    to_heads = to_attended_NTD.view(*to_attended_NTD.shape[:2], num_kv, groups, width)
    for rows, end in _blocks(query, keys):
        block = _of_block(query, rows, num_kv)
        to_block = to_heads[:, rows].transpose(1, 2).flatten(2, 3)
        weights = _weights(block, keys[:, :, :end], bias_NTS[:, rows, :end], groups)
        to_values[:, :, :end] += weights.mT @ to_block
        to_scores = torch._softmax_backward_data(to_block @ values[:, :, :end].mT, weights, -1, weights.dtype)
        found = _grouped(to_scores @ keys[:, :, :end], groups)
        to_query[:, :, rows] = found.transpose(2, 3).flatten(1, 2)
        to_keys[:, :, :end] += to_scores.mT @ block
    return to_query, to_keys, to_values


def _precision(tensor: Tensor) -> torch.dtype:
    """The dtype that a matrix product of the tensor would have here."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def register() -> None:
    """Make the name known to transformers; again is harmless."""
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
        """transformers' attention by SDPA, but for what trains in bfloat16 on a CPU."""
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
