"""The attention for training on a CPU equals torch's, value and gradient, and is used in bfloat16 training alone."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from spt_core.batching import collate
from spt_core.build import build
from spt_core.cpu import attention
from spt_core.cpu.attention import _CausalAttention
from spt_core.gradient import backward
from spt_core.splits import load_splits
from tests.conftest import tiny_config

N, H, D = 3, 6, 8
GROUPS = 3
"""Query heads that share keys."""


def inputs(num_tokens: int, padding: list[int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    source = torch.Generator().manual_seed(num_tokens)
    shapes = [(N, heads, num_tokens, D) for heads in (H, H // GROUPS, H // GROUPS)]
    scales = (0.3, 1.0, 1.0)  # queries are scaled by the caller
    tensors = [
        (scale * torch.randn(shape, generator=source)).to(dtype).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    mask = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril().repeat(N, 1, 1, 1)
    for row, count in enumerate(padding):  # after a first token that all queries see, like a soft prompt
        mask[row, :, :, 1 : 1 + count] = False
    return tensors, mask, torch.randn(N, num_tokens, H * D, generator=source).to(dtype)


@pytest.mark.parametrize("num_tokens", [1, 5, 128, 129, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_value_and_gradient_are_those_of_torch(num_tokens: int, dtype: torch.dtype) -> None:
    tensors, mask, to_attended = inputs(num_tokens, [0, min(3, num_tokens - 1), num_tokens // 2], dtype)
    ours = _CausalAttention.apply(*tensors, attention.bias(mask[:, 0], dtype))
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    by_head = F.scaled_dot_product_attention(*exact, attn_mask=mask, scale=1.0, enable_gqa=True)
    expected = by_head.transpose(1, 2).flatten(2)
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(ours.double(), expected, **tolerance)
    gradients = torch.autograd.grad(ours, tensors, to_attended)
    for gradient, of_torch in zip(gradients, torch.autograd.grad(expected, exact, to_attended.double()), strict=True):
        torch.testing.assert_close(gradient.double(), of_torch, **tolerance)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (0, 5), (20, 150), (150, 150), (130, 300), (128, 136)])
def test_without_a_bias_the_last_positions_see_what_precedes_them(num_queries: int, num_keys: int) -> None:
    tensors, _, to_attended = inputs(num_keys, [], torch.float64)
    query, keys, values = tensors
    query, to_attended = query[:, :, num_keys - num_queries :], to_attended[:, num_keys - num_queries :]
    with torch.no_grad():
        attended, weights = attention.attend(query, keys, values)
        gradients = attention.attend_back(to_attended, query, keys, values, weights)
    seen = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=1.0, enable_gqa=True)
    expected = expected.transpose(1, 2).flatten(2)
    torch.testing.assert_close(attended, expected, rtol=1e-9, atol=1e-12)
    of_torch = torch.autograd.grad(expected, (query, keys, values), to_attended)
    for gradient, by_torch in zip(gradients, of_torch, strict=True):
        torch.testing.assert_close(gradient, by_torch, rtol=1e-9, atol=1e-12)


def test_padding_that_sees_no_key_is_finite_and_has_no_gradient() -> None:
    tensors, mask, _ = inputs(10, [0, 0, 0], torch.float64)
    mask[1, :, :, :4] = False  # left padding with no prompt in front
    attended = _CausalAttention.apply(*tensors, attention.bias(mask[:, 0], torch.float64))
    assert attended.isfinite().all()
    gradients = torch.autograd.grad(attended[:, 4:].sum(), tensors)
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert not gradient[1, :, :4].any()


def test_it_is_used_for_training_in_bfloat16_alone(tiny_opt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = _CausalAttention.apply
    monkeypatch.setattr(_CausalAttention, "apply", lambda *given: calls.append(1) or whole(*given))
    for precision, expected in (("float32", 0), ("bfloat16", 2)):
        config = tiny_config(tiny_opt, backbone__precision=precision)
        model, tokenizer = build(config, device="cpu")
        batch = collate(load_splits(config.data, tokenizer).train[:4])
        calls.clear()
        backward(model, batch, config=config)
        assert len(calls) == expected  # once a layer
        calls.clear()
        with torch.no_grad():
            model(batch)
            model.generate(batch, torch.zeros(4, dtype=torch.long), max_new_tokens=3, eos_id=1)
        assert not calls


def test_gradients_in_bfloat16_agree_with_those_of_torch_s_kernel(
    tiny_opt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_opt, backbone__precision="bfloat16")
    found = []
    for precision in (attention._precision, lambda _: torch.float32):  # with the second, torch's kernel runs
        monkeypatch.setattr(attention, "_precision", precision)
        model, tokenizer = build(config, device="cpu")
        batch = collate(load_splits(config.data, tokenizer).train[:4])
        terms = backward(model, batch, config=config)
        assert model.prompts.embedding_KLD.grad is not None
        found.append((terms["total"], model.prompts.embedding_KLD.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=5e-3)
    torch.testing.assert_close(found[0][1].norm(), found[1][1].norm(), rtol=0.05, atol=0)
    assert F.cosine_similarity(found[0][1].flatten(), found[1][1].flatten(), dim=0) > 0.995
