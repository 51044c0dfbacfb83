"""A frozen Llama behind soft prompts on a CPU: forward and backward written by hand, the prompts in full precision.

Attention is causal and the soft prompts come first, so the hidden states of a prompt depend on the prompt alone. They
are computed once for all sequences that share the prompt, in float32. The text then attends to the keys and values of
the prompt. In bfloat16 a Gaussian prompt, whose entries are far larger than those of a token, would lose the digits
that decide the direction of the gradient.

A layer is one autograd function. No weight has a gradient, so a layer saves only the residual stream, queries, keys,
values, attention weights and the two halves of the gated product. It makes few passes over memory: the casts, sums and
copies of autograd took a quarter of a step. Sequences are packed without padding. The last layer computes the positions
that predict the response; of all other positions it computes keys and values alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spt_core.cpu.attention import attend, attend_back

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


def is_supported(model: Any) -> bool:
    """Whether `hidden` equals a model: it has unchanged Llama layers on a CPU, without biases or adapters."""
    from transformers import LlamaForCausalLM

    if type(model) is not LlamaForCausalLM or model.device.type != "cpu" or model.config.hidden_act != "silu":
        return False
    linears = (linear for layer in model.model.layers for linear in _linears(layer))
    return not model.config.attention_dropout and all(type(each) is nn.Linear and each.bias is None for each in linears)


@dataclass(frozen=True)
class Packed:
    """The layout of packed sequences, [P, ...]: their lengths, and their place in a longer layout.

    Attributes:
        runs: for neighbouring sequences of equal length, their number and that length.
        at: index of each column in a longer layout; None if this layout is the whole.
    """

    runs: tuple[tuple[int, int], ...]
    at: Tensor | None = None

    def split(self, packed_P: Tensor) -> list[Tensor]:
        """The sequences of each run as [number, length, ...]."""
        of_runs = torch.split(packed_P, [num_rows * length for num_rows, length in self.runs])
        return [of_run.view(*run, *of_run.shape[1:]) for of_run, run in zip(of_runs, self.runs, strict=True)]

    def last(self, lengths: Sequence[int]) -> "Packed":
        """The layout of the last columns of each sequence.

        Args:
            lengths: for each run, the number of columns to keep of a sequence.
        """
        at = self.split(torch.arange(sum(num_rows * length for num_rows, length in self.runs)))
        kept = [of_run[:, of_run.shape[1] - length :].flatten() for of_run, length in zip(at, lengths, strict=True)]
        return Packed(tuple((n, length) for (n, _), length in zip(self.runs, lengths, strict=True)), torch.cat(kept))

    def of(self, longer_P: Tensor) -> Tensor:
        """The columns of this layout, taken from a tensor of the longer one."""
        return longer_P if self.at is None else longer_P[self.at]

    def spread(self, packed_Q: Tensor, num_columns: int) -> Tensor:
        """A tensor of the longer layout with these columns, and zeros elsewhere."""
        if self.at is None:
            return packed_Q
        return packed_Q.new_zeros(num_columns, *packed_Q.shape[1:]).index_copy_(0, self.at, packed_Q)


def hidden(
    model: Any,
    prompts_KLD: Tensor,
    prompt_N: Tensor,
    text_NTD: Tensor,
    mask_NT: Tensor,
    *,
    exact: Any,
    num_response: int,
    checkpointing: bool = False,
) -> Tensor:
    """The normalised last hidden states that predict the responses.

    Args:
        model: a model for which `is_supported` holds; its dtype is that of the matrix products of the text.
        prompts_KLD: soft prompts, L at least 1, in the dtype of the residual stream.
        prompt_N: the prompt in front of each sequence.
        text_NTD: embeddings of context and response, in the same dtype.
        mask_NT: 1 where a token is; the tokens of a sequence are contiguous, and the first is one of the context.
        exact: the same model in the dtype of the residual stream, for the matrix products of the prompts.
        num_response: R, the number of columns of the response, which are the last ones.
        checkpointing: save only the input of each layer, and compute the rest again in the backward pass.

    Returns:
        [Q, D], in the dtype of the residual stream: the hidden state before each response token, sequence by sequence.
    """
    used_C, prompt_N = torch.unique(prompt_N, return_inverse=True)
    num_prompts, num_virtual, _ = prompts_KLD[used_C].shape
    prompts = Packed(((num_prompts, num_virtual),))
    stream_VD = prompts_KLD[used_C].flatten(0, 1)
    # The last token of a sequence predicts nothing, and no other token attends to it.
    is_read_NT = mask_NT.flip(-1).cumsum(-1).flip(-1).mul(mask_NT) > 1
    text, predicting = _runs(is_read_NT.sum(-1), mask_NT[:, mask_NT.shape[1] - num_response :].sum(-1))
    stream_PD = text_NTD[is_read_NT]
    run = _checkpointed if checkpointing and torch.is_grad_enabled() else _Layer.apply

    def angles(rows: Packed, start: int) -> list[Tensor]:
        position_P = torch.cat([torch.arange(start, start + length).repeat(n) for n, length in rows.runs])
        return [angle_1Pd[0] for angle_1Pd in model.model.rotary_emb(stream_PD, position_P.unsqueeze(0))]

    prompt_angles, text_angles = angles(prompts, 0), angles(text, num_virtual)
    of_head = model.config.num_key_value_heads, model.model.layers[0].self_attn.head_dim
    nothing = stream_VD.new_empty(num_prompts, 0, *of_head)
    with torch.autocast("cpu", enabled=False):
        for layer, exact_layer in zip(model.model.layers, exact.model.layers, strict=True):
            last = layer is model.model.layers[-1]
            asked = (prompts.last([0]), predicting) if last else (prompts, text)
            stream_VD, *own = run(stream_VD, nothing, nothing, *prompt_angles, exact_layer, prompts, asked[0])
            early = [prompts.split(each)[0][prompt_N] for each in own]
            stream_PD, _, _ = run(stream_PD, *early, *text_angles, layer, text, asked[1])
        last_QD: Tensor = model.model.norm(stream_PD)
    return last_QD


def _runs(length_N: Tensor, num_last_N: Tensor) -> tuple[Packed, Packed]:
    """The layout of sequences of these lengths, and that of the last columns of each."""
    runs = [(len(list(rows)), *of_row) for of_row, rows in groupby(torch.stack([length_N, num_last_N], -1).tolist())]
    rows = Packed(tuple((num_rows, length) for num_rows, length, _ in runs))
    return rows, rows.last([num_last for *_, num_last in runs])


def _checkpointed(*inputs: Any) -> Any:
    return checkpoint(_Layer.apply, *inputs, use_reentrant=False)


class _Layer(torch.autograd.Function):
    """One decoder layer of packed sequences, [P, D], each behind the keys and values [N, L, G, d] of its prompt.

    Returns the residual stream of the requested columns, [Q, D], and the rotated keys and the values of the sequences,
    [P, G, d].
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        stream_PD, early_key, early_value, cos_Pd, sin_Pd, layer, rows, asked = inputs
        dtype = layer.mlp.up_proj.weight.dtype
        attention, mlp, head = layer.self_attn, layer.mlp, layer.self_attn.head_dim

        normed_PD, scale_P1 = _normalise(stream_PD, layer.input_layernorm, dtype)
        key_PGd = _rotate(_split(_linear(normed_PD, attention.k_proj), head), cos_Pd, sin_Pd)
        value_PGd = _split(_linear(normed_PD, attention.v_proj), head)
        query_QHd = _split(_linear(asked.of(normed_PD), attention.q_proj), head)
        query_QHd = _rotate(query_QHd, asked.of(cos_Pd), asked.of(sin_Pd)).mul_(attention.scaling)
        del normed_PD
        num_rows = [count for count, _ in rows.runs]
        attended, kept = [], []
        for query, *behind in zip(
            asked.split(query_QHd),
            early_key.split(num_rows),
            rows.split(key_PGd),
            early_value.split(num_rows),
            rows.split(value_PGd),
            strict=True,
        ):
            heads = _heads_first(dtype, query), _heads_first(dtype, *behind[:2]), _heads_first(dtype, *behind[2:])
            attended_NTD, weights = attend(*heads)
            attended.append(attended_NTD.flatten(0, 1))
            kept.append((*heads, *weights))
        attended_QD = _linear(torch.cat(attended), attention.o_proj)
        middle_QD = attended_QD.to(stream_PD.dtype).add_(asked.of(stream_PD))

        normed_QD, middle_scale_Q1 = _normalise(middle_QD, layer.post_attention_layernorm, dtype)
        gate, up = _linear(normed_QD, mlp.gate_proj), _linear(normed_QD, mlp.up_proj)
        gated_QD = _linear(F.silu(gate).mul_(up), mlp.down_proj)
        out_QD = gated_QD.to(stream_PD.dtype).add_(middle_QD)

        of_layer = (stream_PD, scale_P1, cos_Pd, sin_Pd, middle_QD, middle_scale_Q1, gate, up)
        ctx.save_for_backward(*of_layer, *chain.from_iterable(kept))
        ctx.layer, ctx.asked, ctx.num_early = layer, asked, early_key.shape[1]
        ctx.num_kept = [len(of_run) for of_run in kept]
        ctx.set_materialize_grads(False)
        return out_QD, key_PGd, value_PGd

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        to_out, to_own_key, to_own_value = gradients
        stream, scale, cos, sin, middle, middle_scale, gate, up, *kept = ctx.saved_tensors
        layer, asked, num_early, dtype = ctx.layer, ctx.asked, ctx.num_early, gate.dtype
        attention, mlp = layer.self_attn, layer.mlp
        if to_out is None:
            to_out = torch.zeros_like(middle)

        to_gated = _linear_back(to_out.to(dtype), mlp.down_proj)
        to_up = to_gated * F.silu(gate)
        to_gate = torch.ops.aten.silu_backward(to_gated.mul_(up), gate)
        to_normed = _linear_back(to_up, mlp.up_proj, besides=_linear_back(to_gate, mlp.gate_proj))
        to_middle = _normalise_back(to_normed, middle, middle_scale, layer.post_attention_layernorm, carried=to_out)

        to_attended = asked.split(_linear_back(to_middle.to(dtype), attention.o_proj))
        of_kept, to_heads = iter(kept), []
        for to_run, num_kept in zip(to_attended, ctx.num_kept, strict=True):
            query, keys, values, *weights = islice(of_kept, num_kept)
            to_heads.append([_tokens_first(each) for each in attend_back(to_run, query, keys, values, weights)])
        to_queries, to_keys, to_values = zip(*to_heads, strict=True)
        early = [torch.cat([each[:, :num_early] for each in of_runs]) for of_runs in (to_keys, to_values)]
        if not ctx.needs_input_grad[0] and to_own_key is None and to_own_value is None:
            return (None, *early, None, None, None, None, None)

        to_query_QHd = torch.cat([each.flatten(0, 1) for each in to_queries])
        to_key_PGd, to_value_PGd = (
            torch.cat([each[:, num_early:].flatten(0, 1) for each in of_runs]) for of_runs in (to_keys, to_values)
        )
        if to_own_key is not None:
            to_key_PGd = to_key_PGd + to_own_key
        if to_own_value is not None:
            to_value_PGd = to_value_PGd + to_own_value
        to_query_QHd = _rotate(to_query_QHd, asked.of(cos), -asked.of(sin)).mul_(attention.scaling)
        to_key_PGd = _rotate(to_key_PGd, cos, -sin)
        to_normed = asked.spread(_linear_back(to_query_QHd.flatten(1).to(dtype), attention.q_proj), len(stream))
        _linear_back(to_key_PGd.flatten(1).to(dtype), attention.k_proj, besides=to_normed)
        _linear_back(to_value_PGd.flatten(1), attention.v_proj, besides=to_normed)
        carried = asked.spread(to_middle, len(stream))
        to_stream = _normalise_back(to_normed, stream, scale, layer.input_layernorm, carried=carried)
        return (to_stream, *early, None, None, None, None, None)


def _linears(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _linear(input_PD: Tensor, module: nn.Linear) -> Tensor:
    return _product(input_PD, module.weight)


def _linear_back(to_output_PE: Tensor, module: nn.Linear, *, besides: Tensor | None = None) -> Tensor:
    """Gradient of the input of a linear layer; if `besides` is given, added to it in place."""
    if besides is None:
        return _product(to_output_PE, module.weight.T)
    if besides.dtype == torch.bfloat16:
        return besides.addmm_(to_output_PE, module.weight)
    return besides.add_(_product(to_output_PE, module.weight.T))


def _product(input_PD: Tensor, weight_ED: Tensor) -> Tensor:
    """x W^T, in float32 by oneDNN too: MKL was half as fast on an AMD CPU with AVX-512 (docs/performance.md)."""
    if input_PD.dtype == torch.float32 and _HAS_ONEDNN:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(input_PD, weight_ED, None, "none", [], "")
        return found
    return F.linear(input_PD, weight_ED)


def _normalise(stream_PD: Tensor, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The RMS-normalised stream in a dtype, and the scale of each column, [P, 1]."""
    width = stream_PD.shape[-1]
    square_P1 = torch.linalg.vector_norm(stream_PD, dim=-1, keepdim=True).square_()
    scale_P1 = square_P1.div_(width).add_(norm.variance_epsilon).rsqrt_()
    return (stream_PD * scale_P1).mul_(norm.weight.to(stream_PD.dtype)).to(dtype), scale_P1


def _normalise_back(to_normed_PD: Tensor, stream_PD: Tensor, scale_P1: Tensor, norm: Any, *, carried: Tensor) -> Tensor:
    """Gradient of the stream: that through the normalisation, plus `carried`, that of the residual connection."""
    to_unit_PD = to_normed_PD.to(stream_PD.dtype).mul_(norm.weight.to(stream_PD.dtype))
    along_P1 = torch.linalg.vecdot(to_unit_PD, stream_PD).unsqueeze(-1)
    along_P1.mul_(scale_P1**3).div_(stream_PD.shape[-1])
    return torch.addcmul(carried, to_unit_PD, scale_P1).addcmul_(stream_PD, along_P1, value=-1)


def _split(flat_PE: Tensor, head: int) -> Tensor:
    return flat_PE.view(len(flat_PE), flat_PE.shape[-1] // head, head)


def _heads_first(dtype: torch.dtype, *in_turn_NTHd: Tensor) -> Tensor:
    """The tensors concatenated along T, as [N, H, T, d] in a dtype."""
    num_rows, _, num_heads, width = in_turn_NTHd[0].shape
    lengths = [each.shape[1] for each in in_turn_NTHd]
    whole = in_turn_NTHd[0].new_empty(num_rows, num_heads, sum(lengths), width, dtype=dtype)
    for to, each in zip(torch.split(whole, lengths, dim=2), in_turn_NTHd, strict=True):
        to.copy_(each.transpose(1, 2))
    return whole


def _tokens_first(by_head_NHTd: Tensor) -> Tensor:
    return by_head_NHTd.transpose(1, 2)


def _rotate(heads_PHd: Tensor, cos_Pd: Tensor, sin_Pd: Tensor) -> Tensor:
    """Rotary position embedding, in the dtype of the angles."""
    half = heads_PHd.shape[-1] // 2
    cos, sin = cos_Pd.unsqueeze(1), sin_Pd.unsqueeze(1)
    heads_PHd = heads_PHd.to(cos.dtype)
    rotated = heads_PHd * cos
    rotated[..., :half].addcmul_(heads_PHd[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(heads_PHd[..., :half], sin[..., half:])
    return rotated
