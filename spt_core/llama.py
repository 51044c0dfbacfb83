"""A frozen Llama behind soft prompts on a CPU: forward and backward by hand, and the prompts in full precision.

Attention is causal and the soft prompts come first, so what a prompt is in each layer depends on the prompt alone. It
is computed once for all rows that share it, in float32; the text then meets its keys and values. In bfloat16 a Gaussian
prompt, whose entries are far larger than a token's, is where the digits are lost, and with them the direction of the
gradient.

A layer is one autograd function. No weight has a gradient, so it keeps the residual stream, queries, keys, values and
the two halves of the gated product, and nothing else; and it makes few passes over memory, where autograd's casts,
sums and copies took a quarter of a step. The last layer computes what predicts the response, of the rest keys and
values alone.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spt_core.attention import attend, attend_back, bias


def is_supported(model: Any) -> bool:
    """Whether `hidden` is the function of a model: Llama's layers as they are, on a CPU, without biases or updates."""
    from transformers import LlamaForCausalLM

    if type(model) is not LlamaForCausalLM or model.device.type != "cpu" or model.config.hidden_act != "silu":
        return False
    linears = (linear for layer in model.model.layers for linear in _linears(layer))
    return not model.config.attention_dropout and all(type(each) is nn.Linear and each.bias is None for each in linears)


def hidden(
    model: Any,
    prompts_KLD: Tensor,
    prompt_N: Tensor,
    text_NTD: Tensor,
    mask_NT: Tensor,
    *,
    exact: Any,
    num_last: int,
    checkpointing: bool = False,
) -> Tensor:
    """The normalised last hidden state of the last columns of each row.

    Args:
        model: for which `is_supported` holds; the products of the text are of its dtype.
        prompts_KLD: soft prompts, L of at least 1, of the dtype of the residual stream.
        prompt_N: the prompt in front of each row.
        text_NTD: embeddings of context and response, of the same dtype.
        mask_NT: 1 where a column of the text is attended to.
        exact: the same model in the dtype of the residual stream, for the products of the prompts.
        num_last: how many columns are asked for, at least 1.
        checkpointing: keep the input of each layer alone and compute the rest again in the backward pass.

    Returns:
        [N, num_last, D], of the dtype of the residual stream.
    """
    used_C, prompt_N = torch.unique(prompt_N, return_inverse=True)
    prompts_CLD = prompts_KLD[used_C]
    num_virtual, num_tokens = prompts_CLD.shape[1], text_NTD.shape[1]
    dtype = model.dtype
    run = _checkpointed if checkpointing and torch.is_grad_enabled() else _Layer.apply
    seen_NS = torch.cat([mask_NT.new_ones(len(mask_NT), num_virtual), mask_NT], dim=1).bool()
    text_bias = bias(_seen(seen_NS, num_tokens), dtype)
    prompt_bias = bias(_seen(seen_NS.new_ones(1, num_virtual), num_virtual), prompts_CLD.dtype)
    position_NT = (num_virtual - 1 + mask_NT.long().cumsum(-1)).clamp(min=0)
    text_angles = model.model.rotary_emb(text_NTD, position_NT)
    prompt_angles = model.model.rotary_emb(prompts_CLD, torch.arange(num_virtual).unsqueeze(0))
    with torch.autocast("cpu", enabled=False):
        for layer, exact_layer in zip(model.model.layers, exact.model.layers, strict=True):
            last = layer is model.model.layers[-1]
            prompts_CLD, key_CHLd, value_CHLd = run(
                prompts_CLD, None, None, *prompt_angles, prompt_bias, exact_layer, 1 if last else num_virtual
            )
            early = (key_CHLd.to(dtype)[prompt_N], value_CHLd.to(dtype)[prompt_N])
            text_NTD, _, _ = run(text_NTD, *early, *text_angles, text_bias, layer, num_last if last else num_tokens)
        last_NTD: Tensor = model.model.norm(text_NTD)
    return last_NTD


def _checkpointed(*inputs: Any) -> Any:
    return checkpoint(_Layer.apply, *inputs, use_reentrant=False)


class _Layer(torch.autograd.Function):
    """One decoder layer of [N, T, D] behind keys and values [N, H, L, d] that precede its own.

    Gives the stream of the last columns asked for, [N, num_last, D], and the layer's own rotated keys and values.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        stream_NTD, early_key, early_value, cos_NTd, sin_NTd, bias_NTS, layer, num_last = inputs
        dtype = layer.mlp.up_proj.weight.dtype
        attention, mlp, head = layer.self_attn, layer.mlp, layer.self_attn.head_dim
        num_early = 0 if early_key is None else early_key.shape[2]
        last = slice(stream_NTD.shape[1] - num_last, None)

        normed_NTD, scale_NT1 = _normalise(stream_NTD, layer.input_layernorm, dtype)
        key = _split(_linear(normed_NTD, attention.k_proj), head)
        value = _heads_first(_split(_linear(normed_NTD, attention.v_proj), head), dtype)
        query = _split(_linear(normed_NTD[:, last], attention.q_proj), head)
        key = _heads_first(_rotate(key, cos_NTd, sin_NTd), dtype)
        query = _heads_first(_rotate(query, cos_NTd[:, last], sin_NTd[:, last]) * attention.scaling, dtype)
        del normed_NTD
        keys = key if early_key is None else torch.cat([early_key, key], dim=2)
        values = value if early_value is None else torch.cat([early_value, value], dim=2)
        attended = attend(query, keys, values, bias_NTS[:, last])
        middle_NTD = stream_NTD[:, last] + _linear(attended, attention.o_proj)

        normed_NTD, middle_scale_NT1 = _normalise(middle_NTD, layer.post_attention_layernorm, dtype)
        gate, up = _linear(normed_NTD, mlp.gate_proj), _linear(normed_NTD, mlp.up_proj)
        out_NTD = middle_NTD + _linear(F.silu(gate).mul_(up), mlp.down_proj)

        ctx.save_for_backward(
            stream_NTD,
            scale_NT1,
            cos_NTd,
            sin_NTd,
            bias_NTS,
            query,
            keys,
            values,
            middle_NTD,
            middle_scale_NT1,
            gate,
            up,
        )
        ctx.layer, ctx.num_early, ctx.dtype = layer, num_early, dtype
        ctx.set_materialize_grads(False)
        return out_NTD, key, value

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        to_out, to_own_key, to_own_value = gradients
        stream, scale, cos, sin, bias_NTS, query, keys, values, middle, middle_scale, gate, up = ctx.saved_tensors
        layer, num_early, dtype = ctx.layer, ctx.num_early, ctx.dtype
        attention, mlp = layer.self_attn, layer.mlp
        to_stream = torch.zeros_like(stream)
        last = slice(stream.shape[1] - middle.shape[1], None)
        to_normed = torch.zeros_like(stream, dtype=dtype)
        if to_out is None:
            to_keys, to_values = torch.zeros_like(keys), torch.zeros_like(values)
        else:
            to_gated = _linear_back(to_out.to(dtype), mlp.down_proj)
            to_up = to_gated * F.silu(gate)
            to_gate = torch.ops.aten.silu_backward(to_gated.mul_(up), gate)
            to_middle_normed = _linear_back(to_gate, mlp.gate_proj, to_up, mlp.up_proj)
            to_middle = _normalise_back(
                to_middle_normed, middle, middle_scale, layer.post_attention_layernorm, carried=to_out
            )
            to_attended = _linear_back(to_middle.to(dtype), attention.o_proj)
            to_query, to_keys, to_values = attend_back(to_attended, query, keys, values, bias_NTS[:, last])
            to_query = _rotate(_tokens_first(to_query), cos[:, last], -sin[:, last]).mul_(attention.scaling)
            to_normed[:, last] = _linear_back(to_query.flatten(2).to(dtype), attention.q_proj)
            to_stream[:, last] = to_middle
        to_key, to_value = to_keys[:, :, num_early:], to_values[:, :, num_early:]
        if to_own_key is not None:
            to_key = to_key + to_own_key
        if to_own_value is not None:
            to_value = to_value + to_own_value
        to_key = _rotate(_tokens_first(to_key), cos, -sin).flatten(2).to(dtype)
        to_value = _tokens_first(to_value).flatten(2)
        to_normed += _linear_back(to_key, attention.k_proj, to_value, attention.v_proj)
        to_stream = _normalise_back(to_normed, stream, scale, layer.input_layernorm, carried=to_stream)
        early = (to_keys[:, :, :num_early], to_values[:, :, :num_early]) if num_early else (None, None)
        return (to_stream, *early, None, None, None, None, None)


def _linears(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _linear(input_T: Tensor, module: nn.Linear) -> Tensor:
    return F.linear(input_T, module.weight)


def _linear_back(to_output: Tensor, module: nn.Linear, *more: Any) -> Tensor:
    """Gradient of the input of one linear layer, or of two that share it."""
    width = module.in_features
    found = to_output.flatten(0, 1) @ module.weight
    if more:
        to_second, second = more
        found.addmm_(to_second.flatten(0, 1), second.weight)
    return found.view(*to_output.shape[:2], width)


def _normalise(stream_NTD: Tensor, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """RMS-normalised stream in a dtype, and the scale of each column, [N, T, 1]."""
    width = stream_NTD.shape[-1]
    square_NT1 = torch.linalg.vector_norm(stream_NTD, dim=-1, keepdim=True).square_()
    scale_NT1 = square_NT1.div_(width).add_(norm.variance_epsilon).rsqrt_()
    return (stream_NTD * scale_NT1).mul_(norm.weight.to(stream_NTD.dtype)).to(dtype), scale_NT1


def _normalise_back(
    to_normed_NTD: Tensor, stream_NTD: Tensor, scale_NT1: Tensor, norm: Any, *, carried: Tensor
) -> Tensor:
    """Gradient of the stream: what its normalised form has to tell, added to what went past it."""
    to_unit_NTD = to_normed_NTD.to(stream_NTD.dtype).mul_(norm.weight.to(stream_NTD.dtype))
    along_NT1 = torch.linalg.vecdot(to_unit_NTD, stream_NTD).unsqueeze(-1)
    along_NT1.mul_(scale_NT1**3).div_(stream_NTD.shape[-1])
    return torch.addcmul(carried, to_unit_NTD, scale_NT1).addcmul_(stream_NTD, along_NT1, value=-1)


def _split(flat_NTD: Tensor, head: int) -> Tensor:
    return flat_NTD.view(*flat_NTD.shape[:-1], -1, head)


def _heads_first(by_token_NTHd: Tensor, dtype: torch.dtype) -> Tensor:
    num_rows, num_tokens, num_heads, width = by_token_NTHd.shape
    return by_token_NTHd.new_empty(num_rows, num_heads, num_tokens, width, dtype=dtype).copy_(
        by_token_NTHd.transpose(1, 2)
    )


def _tokens_first(by_head_NHTd: Tensor) -> Tensor:
    return by_head_NHTd.transpose(1, 2)


def _rotate(heads_NTHd: Tensor, cos_NTd: Tensor, sin_NTd: Tensor) -> Tensor:
    """Rotary positions, in the dtype of the angles."""
    half = heads_NTHd.shape[-1] // 2
    cos, sin = cos_NTd.unsqueeze(2), sin_NTd.unsqueeze(2)
    heads_NTHd = heads_NTHd.to(cos.dtype)
    rotated = heads_NTHd * cos
    rotated[..., :half].addcmul_(heads_NTHd[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(heads_NTHd[..., :half], sin[..., half:])
    return rotated


def _seen(seen_NS: Tensor, num_queries: int) -> Tensor:
    """Which keys each of the last queries sees, [N, T, S], from which columns anyone does."""
    num_keys = seen_NS.shape[1]
    causal_TS = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    return seen_NS.unsqueeze(1) & causal_TS
