"""The gradient of a batch: each term's share of it, and its independence of the compute layout (invariants 3 and 8)."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spt_core.batching import collate
from spt_core.build import build
from spt_core.gradient import backward, dev_objective
from tests.conftest import tiny_config
from tests.spt_core.gradients import first_examples, gradients

TERMS = ("soft_prompt", "contrastive", "selection", "fusion")


def only(term: str) -> dict[str, Any]:
    """Settings with one term on. Two terms need soft_prompt, which then has a negligible weight."""
    settings: dict[str, Any] = {f"losses__{name}__enabled": name == term for name in TERMS}
    if term in {"contrastive", "selection"}:
        settings |= {"losses__soft_prompt__enabled": True, "losses__soft_prompt__weight": 1e-12}
    return settings


@pytest.mark.parametrize("off", TERMS)
def test_a_term_that_is_off_equals_a_term_of_weight_zero(tiny_llama: Path, off: str) -> None:
    disabled = gradients(tiny_config(tiny_llama, **{f"losses__{off}__enabled": False}))
    weightless = gradients(tiny_config(tiny_llama, **{f"losses__{off}__weight": 0.0}))
    with_it = gradients(tiny_config(tiny_llama))
    for name, gradient in disabled.items():
        torch.testing.assert_close(gradient, weightless[name], rtol=1e-6, atol=1e-9)
    assert any(not torch.allclose(with_it[name], disabled[name], rtol=1e-4) for name in disabled)


def test_the_gradient_is_the_sum_of_those_of_the_terms(tiny_llama: Path) -> None:
    whole = gradients(tiny_config(tiny_llama))
    parts = [gradients(tiny_config(tiny_llama, **only(term))) for term in TERMS]
    for name, gradient in whole.items():
        total = sum(part.get(name, torch.zeros_like(gradient)) for part in parts)
        torch.testing.assert_close(gradient, total, rtol=1e-4, atol=1e-7)


def test_without_selection_and_contrastive_the_retriever_has_no_gradient(tiny_llama: Path) -> None:
    off = {"losses__selection__enabled": False, "losses__contrastive__enabled": False}
    assert set(gradients(tiny_config(tiny_llama, **off))) == {"prompts.embedding_KLD"}


def test_at_one_prompt_selection_and_contrastive_have_no_gradient(tiny_llama: Path) -> None:
    """The terms that the canonical form drops at K = 1 have no gradient."""
    whole = gradients(tiny_config(tiny_llama, prompts__num_prompts=1))
    folded = gradients(tiny_config(tiny_llama, prompts__num_prompts=1).canonical())
    # Fusion doubles the soft prompt loss. Adam does not depend on the scale of the gradient.
    torch.testing.assert_close(
        whole["prompts.embedding_KLD"], 2 * folded["prompts.embedding_KLD"], rtol=1e-5, atol=1e-8
    )
    for name, gradient in whole.items():
        if name.startswith("retriever"):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "layout",
    [
        {"prompts_per_pass": 1},
        {"prompts_per_pass": 2},
        {"micro_batch_size": 1},
        {"micro_batch_size": 3},
        {"prompts_per_pass": 2, "micro_batch_size": 2},
    ],
)
def test_the_compute_layout_does_not_change_the_gradient(tiny_model: Path, layout: dict[str, int]) -> None:
    exact = {"backbone__precision": "float64"}
    whole = gradients(tiny_config(tiny_model, **exact))
    chunked = gradients(tiny_config(tiny_model, **exact, **{f"compute__{name}": n for name, n in layout.items()}))
    assert set(whole) == set(chunked)
    for name, gradient in whole.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(chunked[name] / scale, gradient / scale, rtol=0, atol=1e-9)


def test_gradient_norms_are_those_of_the_terms(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, losses__selection__weight=3.0)
    model, _ = build(config, device="cpu")
    batch = collate(first_examples(str(tiny_llama))[:4])
    found = backward(model, batch, config=config, with_norms=True)
    with_norms = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    backward(model, batch, config=config)
    plain = [p.grad for p in model.parameters() if p.grad is not None]
    for first, second in zip(with_norms, plain, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
    alone = gradients(
        config.override(
            {"losses.soft_prompt.weight": 1e-12, "losses.fusion.enabled": False, "losses.contrastive.enabled": False}
        )
    )
    norm = sum(float(gradient.square().sum()) for gradient in alone.values()) ** 0.5
    assert found["gradient_norm/selection"] == pytest.approx(norm, rel=1e-4)


def test_the_objective_of_dev_is_that_of_training(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama)
    model, _ = build(config, device="cpu")
    examples = first_examples(str(tiny_llama))
    batches = [sorted(examples, key=lambda e: -e.num_tokens)[i : i + 4] for i in (0, 4)]
    expected = [backward(model, collate(batch), config=config)["total"] for batch in batches]
    assert dev_objective(model, examples, config=config) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_losses_in_bfloat16_are_within_two_percent(tiny_model: Path) -> None:
    """The weights are random, of scale 0.3."""
    found = {}
    for precision in ("float32", "bfloat16"):
        config = tiny_config(tiny_model, backbone__precision=precision)
        model, _ = build(config, device="cpu")
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        found[precision] = backward(model, collate(first_examples(str(tiny_model))[:4]), config=config)
    for term in ("soft_prompt", "fusion", "total"):
        assert found["bfloat16"][term] == pytest.approx(found["float32"][term], rel=0.02)
        assert found["bfloat16"][term] != found["float32"][term]
