"""Each loss and its gradient against an oracle in float64 that works on whole logits and shares no code."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spt_core.fields import LossesConfig
from spt_core.losses import (
    Scores,
    contrastive_loss,
    fusion_loss,
    objective,
    response_nll,
    selection_loss,
    soft_prompt_loss,
)

B, R, V = 4, 5, 11


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(num_prompts: int, seed: int = 0) -> Tensor:
    return torch.randn(B, num_prompts, R, V, generator=seeded(seed), dtype=torch.float64, requires_grad=True)


TARGET_BR = torch.randint(V, (B, R), generator=seeded(1))
LENGTHS = [5, 3, 1, 4]
MASK_BR = torch.tensor([[1.0] * n + [0.0] * (R - n) for n in LENGTHS], dtype=torch.float64)


def token_logp(logits_BKRV: Tensor) -> Tensor:
    target_BKR1 = TARGET_BR[:, None, :, None].expand(-1, logits_BKRV.shape[1], -1, 1)
    return logits_BKRV.log_softmax(-1).gather(-1, target_BKR1).squeeze(-1)


def assert_equal_with_gradient(ours: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    ours_gradients = torch.autograd.grad(ours, inputs, retain_graph=True, allow_unused=True)
    expected_gradients = torch.autograd.grad(expected, inputs, retain_graph=True, allow_unused=True)
    for mine, theirs, tensor in zip(ours_gradients, expected_gradients, inputs, strict=True):
        zero = torch.zeros_like(tensor)
        torch.testing.assert_close(
            zero if mine is None else mine, zero if theirs is None else theirs, rtol=1e-7, atol=1e-10
        )


@pytest.mark.parametrize("num_prompts", [1, 2, 4])
@pytest.mark.parametrize("reduction", ["sum_over_prompts", "mean"])
def test_soft_prompt_loss_is_the_cross_entropy_of_each_prompt(num_prompts: int, reduction: str) -> None:
    logits_BKRV = logits(num_prompts)
    each = [
        sum(F.cross_entropy(logits_BKRV[b, k, :n], TARGET_BR[b, :n], reduction="sum") for b, n in enumerate(LENGTHS))
        / sum(LENGTHS)
        for k in range(num_prompts)
    ]
    expected = sum(each) if reduction == "sum_over_prompts" else sum(each) / num_prompts
    assert_equal_with_gradient(
        soft_prompt_loss(token_logp(logits_BKRV), MASK_BR, reduction=reduction), expected, logits_BKRV
    )


def test_soft_prompt_loss_refuses_an_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="reduction = 'max'"):
        soft_prompt_loss(torch.zeros(1, 1, 1), torch.ones(1, 1), reduction="max")


@pytest.mark.parametrize("num_prompts", [1, 2, 4])
def test_fusion_is_the_nll_of_the_averaged_distribution(num_prompts: int) -> None:
    logits_BKRV = logits(num_prompts)
    averaged_BRV = logits_BKRV.softmax(-1).mean(1)
    kept = MASK_BR.bool()
    expected = F.nll_loss(averaged_BRV[kept].log(), TARGET_BR[kept])
    assert_equal_with_gradient(fusion_loss(token_logp(logits_BKRV), MASK_BR), expected, logits_BKRV)


def test_at_one_prompt_fusion_is_the_soft_prompt_loss() -> None:
    logp = token_logp(logits(1))
    torch.testing.assert_close(fusion_loss(logp, MASK_BR), soft_prompt_loss(logp, MASK_BR), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("tau_g", "tau_s"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.1), (5.0, 2.0)])
@pytest.mark.parametrize("num_prompts", [1, 2, 4])
def test_selection_is_the_divergence_from_the_preferences_of_the_language_model(
    num_prompts: int, tau_g: float, tau_s: float
) -> None:
    similarity_BK = torch.rand(B, num_prompts, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    nll_BK = torch.rand(B, num_prompts, generator=seeded(3), dtype=torch.float64, requires_grad=True)
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        weights = [math.exp(-float(nll_BK[b, k].detach()) / tau_g) for k in range(num_prompts)]
        target = [weight / sum(weights) for weight in weights]
        partition = sum(torch.exp(similarity_BK[b, k] / tau_s) for k in range(num_prompts))
        for k in range(num_prompts):
            chosen = torch.exp(similarity_BK[b, k] / tau_s) / partition
            expected = expected + target[k] * (math.log(target[k]) - torch.log(chosen)) / B
    ours = selection_loss(similarity_BK, nll_BK, tau_g=tau_g, tau_s=tau_s)
    assert_equal_with_gradient(ours, expected, similarity_BK)
    assert torch.autograd.grad(ours, nll_BK, allow_unused=True)[0] is None  # no gradient through the target


def test_selection_is_zero_at_one_prompt() -> None:
    similarity_B1 = torch.rand(B, 1, dtype=torch.float64, requires_grad=True)
    loss = selection_loss(similarity_B1, torch.rand(B, 1, dtype=torch.float64), tau_g=1.0)
    loss.backward()
    assert loss == 0
    assert similarity_B1.grad is not None
    assert torch.all(similarity_B1.grad == 0)


@pytest.mark.parametrize("num_prompts", [1, 2, 4])
@pytest.mark.parametrize("threshold", [0.0, 20.0, 100.0])
def test_contrastive_is_the_mean_over_pairs(num_prompts: int, threshold: float) -> None:
    scores_BK = torch.randn(B, num_prompts, generator=seeded(4), dtype=torch.float64, requires_grad=True)
    similarity_BB = 100 * torch.rand(B, B, generator=seeded(5), dtype=torch.float64)
    similarity_BB[0, 1] = 20.0  # on the threshold: not above it
    pairs = []
    for i in range(B):
        for j in range(i + 1, B):
            cosine = (scores_BK[i] @ scores_BK[j]) / (scores_BK[i].norm() * scores_BK[j].norm())
            above = float(similarity_BB[i, j]) > threshold
            pairs.append(1 - cosine if above else torch.relu(cosine))
    expected = sum(pairs) / len(pairs)
    assert len(pairs) == 6
    assert_equal_with_gradient(contrastive_loss(scores_BK, similarity_BB, threshold=threshold), expected, scores_BK)


def test_contrastive_reads_the_upper_triangle_alone() -> None:
    scores_BK = torch.randn(B, 3, generator=seeded(4))
    similarity_BB = torch.zeros(B, B)
    before = contrastive_loss(scores_BK, similarity_BB, threshold=20.0)
    similarity_BB[3, 0] = 100.0
    assert contrastive_loss(scores_BK, similarity_BB, threshold=20.0) == before
    similarity_BB[0, 3] = 100.0
    assert contrastive_loss(scores_BK, similarity_BB, threshold=20.0) != before


def test_contrastive_of_a_single_context_is_zero_and_differentiable() -> None:
    scores_1K = torch.randn(1, 3, requires_grad=True)
    loss = contrastive_loss(scores_1K, torch.zeros(1, 1), threshold=20.0)
    loss.backward()
    assert loss == 0
    assert scores_1K.grad is not None
    assert torch.all(scores_1K.grad == 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_padding_of_any_value_does_not_count(seed: int, filler: float) -> None:
    logp_BKR = -torch.rand(B, 3, R, generator=seeded(seed), dtype=torch.float64)
    other_BKR = torch.where(MASK_BR.unsqueeze(1) > 0, logp_BKR, filler)
    for loss in (soft_prompt_loss, fusion_loss):
        assert loss(logp_BKR, MASK_BR) == loss(other_BKR, MASK_BR)
    assert torch.equal(response_nll(logp_BKR, MASK_BR), response_nll(other_BKR, MASK_BR))


def test_padding_of_infinite_value_gives_no_nan_gradient() -> None:
    logp_BKR = token_logp(logits(2)).detach()
    logp_BKR[MASK_BR.unsqueeze(1).expand_as(logp_BKR) == 0] = -math.inf
    logp_BKR.requires_grad_()
    (soft_prompt_loss(logp_BKR, MASK_BR) + fusion_loss(logp_BKR, MASK_BR)).backward()
    assert logp_BKR.grad is not None
    assert torch.isfinite(logp_BKR.grad).all()


def test_the_objective_is_the_weighted_sum_of_its_terms() -> None:
    losses = LossesConfig.model_validate(
        {
            "soft_prompt": {"weight": 0.5},
            "contrastive": {"weight": 2.0, "threshold": 50.0},
            "selection": {"weight": 3.0, "tau_g": 0.5},
            "fusion": {"weight": 0.25},
        }
    )
    logp_BKR = token_logp(logits(3)).detach()
    similarity_BK = torch.rand(B, 3, generator=seeded(6), dtype=torch.float64)
    text_BB = 100 * torch.rand(B, B, generator=seeded(7), dtype=torch.float64)
    terms = objective(Scores(similarity_BK, similarity_BK, logp_BKR), MASK_BR, text_BB, losses=losses)
    nll_BK = response_nll(logp_BKR, MASK_BR)
    expected = {
        "soft_prompt": soft_prompt_loss(logp_BKR, MASK_BR),
        "contrastive": contrastive_loss(similarity_BK, text_BB, threshold=50.0),
        "selection": selection_loss(similarity_BK, nll_BK, tau_g=0.5),
        "fusion": fusion_loss(logp_BKR, MASK_BR),
    }
    assert {name: float(value) for name, value in terms.items() if name != "total"} == pytest.approx(
        {name: float(value) for name, value in expected.items()}
    )
    assert float(terms["total"]) == pytest.approx(
        float(
            0.5 * expected["soft_prompt"]
            + 2.0 * expected["contrastive"]
            + 3.0 * expected["selection"]
            + 0.25 * expected["fusion"]
        )
    )


def test_response_nll_is_a_mean_over_tokens_of_each_row() -> None:
    logp_BKR = torch.full((1, 1, 3), -2.0)
    logp_BKR[0, 0, 1] = -5.0
    assert response_nll(logp_BKR, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(3.5)


def test_the_target_with_noise_is_still_a_distribution() -> None:
    similarity_BK = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    nll_BK = torch.rand(5, 4, dtype=torch.float64)
    noise_BK = 10 * torch.randn(5, 4, dtype=torch.float64)
    loss = selection_loss(similarity_BK, nll_BK, tau_g=1.0, noise_BK=noise_BK)
    target_BK = torch.softmax(noise_BK - nll_BK, -1)
    expected = (target_BK * (target_BK.log() - similarity_BK.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(loss, expected)
    assert loss >= 0


def test_both_directions_of_the_divergence() -> None:
    similarity_BK, nll_BK = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    p, q = torch.softmax(-nll_BK / 0.5, -1), torch.softmax(similarity_BK / 2, -1)
    forward = selection_loss(similarity_BK, nll_BK, tau_g=0.5, tau_s=2.0)
    back = selection_loss(similarity_BK, nll_BK, tau_g=0.5, tau_s=2.0, direction="scores_to_target")
    torch.testing.assert_close(forward, (p * (p / q).log()).sum(-1).mean())
    torch.testing.assert_close(back, (q * (q / p).log()).sum(-1).mean())
    with pytest.raises(ValueError, match="direction = 'sideways'"):
        selection_loss(similarity_BK, nll_BK, tau_g=1.0, direction="sideways")
