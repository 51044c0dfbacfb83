"""Causal attention for training in bfloat16 on a CPU: fused kernel forward, matrix products backward, in blocks.

The backward pass of torch's fused kernel took a fifth of an optimisation step on a CPU, and either pass computed the
half of the square that causality forbids. Here a block of queries meets only the keys up to its own end, and the
backward pass computes its weights again and takes batched products of them; nothing of size [T, T] is kept between the
two. In float32, where a product costs twice as much, torch's own is the faster, and is what runs.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NAME = "spt"
"""What the backbone asks transformers for."""
QUERIES_A_BLOCK = 64


class _CausalAttention(torch.autograd.Function):
    """softmax(Q K^T scale + bias) V of [N, H, T, D] tensors of one dtype; bias [N, 1, T, T] is 0 or minus infinity."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        query, key, value, bias, scale = inputs
        blocks = [
            F.scaled_dot_product_attention(
                query[:, :, rows], key[:, :, :end], value[:, :, :end], attn_mask=bias[:, :, rows, :end], scale=scale
            )
            for rows, end in _blocks(query.shape[2])
        ]
        attended = torch.cat(blocks, dim=2)
        ctx.save_for_backward(query, key, value, bias)
        ctx.scale = scale
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (to_attended,) = gradients
        query, key, value, bias = ctx.saved_tensors
        query = query * ctx.scale
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for rows, end in _blocks(query.shape[2]):
            weights = (query[:, :, rows] @ key[:, :, :end].mT).add_(bias[:, :, rows, :end]).softmax(-1)
            to_value[:, :, :end] += weights.mT @ to_attended[:, :, rows]
            to_weights = to_attended[:, :, rows] @ value[:, :, :end].mT
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_query[:, :, rows] = to_scores @ key[:, :, :end]
            to_key[:, :, :end] += to_scores.mT @ query[:, :, rows]
        return to_query.mul_(ctx.scale), to_key, to_value, None, None


def _blocks(num_queries: int) -> list[tuple[slice, int]]:
    """Blocks of queries, each with the end of the keys that its last query may see."""
    starts = range(0, num_queries, QUERIES_A_BLOCK)
    ends = [min(start + QUERIES_A_BLOCK, num_queries) for start in starts]
    return [(slice(start, end), end) for start, end in zip(starts, ends, strict=True)]


def _precision(tensor: Tensor) -> torch.dtype:
    """The dtype that a matrix product of the tensor would have here."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def register() -> None:
    """Make the name known to transformers; again is harmless."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
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
        """transformers' attention by SDPA, but for what the function above is for."""
        trains = query.requires_grad and query.device.type == "cpu" and _precision(query) == torch.bfloat16
        causal = getattr(module, "is_causal", False) and query.shape[2] == key.shape[2] and dropout == 0
        if not (trains and causal and attention_mask is not None and attention_mask.dtype == torch.bool):
            attended, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
            )
            return attended, None
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
        groups = getattr(module, "num_key_value_groups", 1)
        bias = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, -torch.inf)
        attended = _CausalAttention.apply(  # type: ignore[no-untyped-call]
            query,
            repeat_kv(key, groups),
            repeat_kv(value, groups),
            bias,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
        )
        return attended.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
