"""The four losses of Selective Prompt Tuning as pure functions, and the objective that sums them (Eq. 2 to 6).

Notation: B contexts, K prompts, R response tokens. `token_logp_BKR` is the log-probability, in nats, of each response
token under each soft prompt; `mask_BR` is 1 where a response token counts and 0 where it is padding.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from spt_core.fields import LossesConfig


def response_nll(token_logp_BKR: Tensor, mask_BR: Tensor) -> Tensor:
    """Mean negative log-likelihood per response token under each prompt, [B, K], in nats.

    Args:
        token_logp_BKR: log-probability of each response token under each prompt, in nats.
        mask_BR: 1 where a response token counts; every row has at least one.
    """
    mask_B1R = mask_BR.unsqueeze(1)
    return -torch.where(mask_B1R > 0, token_logp_BKR, 0).sum(-1) / mask_B1R.sum(-1)


def soft_prompt_loss(token_logp_BKR: Tensor, mask_BR: Tensor, *, reduction: str = "sum_over_prompts") -> Tensor:
    """Negative log-likelihood of the response under each prompt on its own (Eq. 2).

    Args:
        token_logp_BKR: log-probability of each response token under each prompt, in nats.
        mask_BR: 1 where a response token counts.
        reduction: `sum_over_prompts` (the paper's Eq. 6) or `mean`.

    Returns:
        Mean over the tokens of the batch that count, then summed (or averaged) over prompts; a scalar in nats.

    Raises:
        ValueError: a reduction of another name.
    """
    nll_K = -torch.where(mask_BR.unsqueeze(1) > 0, token_logp_BKR, 0).sum((0, 2)) / mask_BR.sum()
    if reduction == "sum_over_prompts":
        return nll_K.sum()
    if reduction == "mean":
        return nll_K.mean()
    raise ValueError(f"reduction = {reduction!r}: it should be 'sum_over_prompts' or 'mean'")


def selection_loss(
    similarity_BK: Tensor,
    nll_BK: Tensor,
    *,
    tau_g: float,
    tau_s: float = 1.0,
    direction: str = "target_to_scores",
    noise_BK: Tensor | None = None,
) -> Tensor:
    """KL divergence of the retriever's choice from what the language model prefers (Eq. 3).

    KL(target || softmax(S / tau_s)) with target = softmax(-NLL / tau_g), through which no gradient flows. The paper
    leaves direction and normalisation open; these are the released code's.

    Args:
        similarity_BK: activated similarity of each context to each prompt.
        nll_BK: negative log-likelihood of the response, in nats; its mean per token unless a variant says otherwise.
        tau_g: temperature of the target, positive.
        tau_s: temperature of the retriever's distribution, positive.
        direction: `target_to_scores`, or `scores_to_target` for KL(softmax(S / tau_s) || target).
        noise_BK: noise that is added to the logits of the target, so that the target stays a distribution.

    Returns:
        Mean over the batch, a scalar in nats; 0 at K = 1.

    Raises:
        ValueError: a direction of another name.
    """
    logits_BK = -nll_BK.detach() / tau_g
    target_BK = F.log_softmax(logits_BK if noise_BK is None else logits_BK + noise_BK, dim=-1)
    chosen_BK = F.log_softmax(similarity_BK / tau_s, dim=-1)
    if direction == "target_to_scores":
        return F.kl_div(chosen_BK, target_BK, reduction="batchmean", log_target=True)
    if direction == "scores_to_target":
        return F.kl_div(target_BK, chosen_BK, reduction="batchmean", log_target=True)
    raise ValueError(f"direction = {direction!r}: it should be 'target_to_scores' or 'scores_to_target'")


def contrastive_loss(
    similarity_BK: Tensor,
    text_similarity_BB: Tensor,
    *,
    threshold: float,
    reduction: str = "mean",
    group_size: int | None = None,
) -> Tensor:
    """Pull the scores of similar contexts together and push those of different ones apart (Eq. 4).

    Args:
        similarity_BK: the score vector of each context over the prompts.
        text_similarity_BB: M(c_i, c_j), 0 to 100; entry [i, j] is read for the pair i < j.
        threshold: Gamma, on the scale of M; a pair above it is positive.
        reduction: `mean` or `sum` over the pairs.
        group_size: pair only contexts of the same group of so many neighbours; None: all contexts of the batch.

    Returns:
        `1 - cos` (positive) or `max(0, cos)` (negative) over the pairs i < j, a scalar; 0 without a pair.

    Raises:
        ValueError: a reduction of another name.
    """
    first_P, second_P = pairs(similarity_BK.shape[0], group_size=group_size, device=similarity_BK.device)
    if first_P.numel() == 0:
        return similarity_BK.sum() * 0
    cosine_P = F.cosine_similarity(similarity_BK[first_P], similarity_BK[second_P], dim=-1)
    positive_P = text_similarity_BB[first_P, second_P] > threshold
    loss_P = torch.where(positive_P, 1 - cosine_P, cosine_P.clamp(min=0))
    if reduction == "mean":
        return loss_P.mean()
    if reduction == "sum":
        return loss_P.sum()
    raise ValueError(f"reduction = {reduction!r}: it should be 'mean' or 'sum'")


def pairs(num_contexts: int, *, group_size: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pairs i < j of a batch, as two index vectors [P]; only those within a group where there are groups."""
    first_P, second_P = torch.triu_indices(num_contexts, num_contexts, offset=1, device=device)
    if group_size is None:
        return first_P, second_P
    together_P = first_P // group_size == second_P // group_size
    return first_P[together_P], second_P[together_P]


def fusion_loss(token_logp_BKR: Tensor, mask_BR: Tensor) -> Tensor:
    """Negative log-likelihood of the response under the average of the K predictions (Eq. 5).

    Args:
        token_logp_BKR: log-probability of each response token under each prompt, in nats.
        mask_BR: 1 where a response token counts.

    Returns:
        Mean over the tokens that count, a scalar in nats.
    """
    num_prompts = token_logp_BKR.shape[1]
    # Masked before the logsumexp, whose gradient at minus infinity (padding may hold it) would be NaN.
    counted_BKR = torch.where(mask_BR.unsqueeze(1) > 0, token_logp_BKR, 0)
    fused_logp_BR = counted_BKR.logsumexp(dim=1) - math.log(num_prompts)
    return -(fused_logp_BR * mask_BR).sum() / mask_BR.sum()


def fused_logits_loss(fused_logp_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Negative log-likelihood under the sum of the logits weighted by similarity: the released code's fusion.

    Args:
        fused_logp_BR: log-probability of each response token under the softmax of that sum, in nats.
        mask_BR: 1 where a response token counts; every row has at least one.

    Returns:
        Mean over the tokens of each response, then over the batch; a scalar in nats.
    """
    return response_nll(fused_logp_BR.unsqueeze(1), mask_BR).mean()


class Scores(NamedTuple):
    """The outputs of backbone and retriever for a batch: all inputs of the losses that depend on parameters."""

    cosine_BK: Tensor
    """Cosine of context and prompt before the activation."""
    similarity_BK: Tensor
    """The activated cosine: s_C,i of Eq. 1."""
    token_logp_BKR: Tensor
    """Log-probability of each response token under each prompt, in nats; ignored where the mask is 0."""
    fused_logp_BR: Tensor | None = None
    """The same under the sum of logits weighted by similarity; None unless the fusion of logits is on."""


def objective(
    scores: Scores,
    mask_BR: Tensor,
    text_similarity_BB: Tensor,
    *,
    losses: LossesConfig,
    target_noise_BK: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms that are on, unweighted, and `total`, their weighted sum (Eq. 6).

    Args:
        scores: of the global batch.
        mask_BR: 1 where a response token counts.
        text_similarity_BB: M(c_i, c_j), 0 to 100.
        losses: which terms are on, their weights and variants; Gamma as a number.
        target_noise_BK: standard Gaussian noise, where the selection target has some.

    Returns:
        Scalars by name: `soft_prompt`, `contrastive`, `selection`, `fusion` where enabled, and `total`.
    """
    terms: dict[str, Tensor] = {}
    if losses.soft_prompt.enabled:
        terms["soft_prompt"] = soft_prompt_loss(scores.token_logp_BKR, mask_BR, reduction=losses.soft_prompt.reduction)
    if losses.contrastive.enabled:
        contrastive = losses.contrastive
        assert not isinstance(contrastive.threshold, str), "a quantile is resolved before the first step"
        terms["contrastive"] = contrastive_loss(
            scores.cosine_BK if contrastive.scores == "raw" else scores.similarity_BK,
            text_similarity_BB,
            threshold=contrastive.threshold,
            reduction=contrastive.reduction,
            group_size=contrastive.group_size,
        )
    if losses.selection.enabled:
        selection = losses.selection
        nll_BK = response_nll(scores.token_logp_BKR, mask_BR)
        terms["selection"] = selection_loss(
            scores.similarity_BK,
            nll_BK if selection.nll == "mean" else nll_BK * mask_BR.sum(-1, keepdim=True),
            tau_g=selection.tau_g,
            tau_s=selection.tau_s,
            direction=selection.direction,
            noise_BK=None if target_noise_BK is None else selection.target_noise * target_noise_BK,
        )
    if losses.fusion.enabled:
        if losses.fusion.of == "weighted_logits":
            assert scores.fused_logp_BR is not None
            terms["fusion"] = fused_logits_loss(scores.fused_logp_BR, mask_BR)
        else:
            terms["fusion"] = fusion_loss(scores.token_logp_BKR, mask_BR)
    weighted = [getattr(losses, name).weight * term for name, term in terms.items()]
    return {**terms, "total": torch.stack(weighted).sum()}
