"""The gradient of one global batch, computed by several workers and in parts of limited memory."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from spt_core import parallel
from spt_core.batching import Batch, Example, by_length, collate
from spt_core.config import TrialConfig
from spt_core.fields import ContrastiveTerm, LossesConfig
from spt_core.losses import Scores, objective, pairs
from spt_core.model import SelectivePromptModel
from spt_core.seeding import generator
from spt_core.text_similarity import similarity_matrix


def backward(
    model: SelectivePromptModel,
    batch: Batch,
    *,
    config: TrialConfig,
    step: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    with_norms: bool = False,
) -> dict[str, float]:
    """Add the gradient of the global batch's objective to the parameters (Eq. 6).

    The objective couples prompts (selection, fusion) and rows (contrastive), and depends on the backbone only through
    its scores. Three stages follow from that: compute the scores of the global batch on all workers, part by part;
    compute the gradient with respect to the scores; propagate it through the backbone, part by part. With one part the
    graph of the first stage is kept. With several, each part is computed again in the third stage, so that memory is
    that of the largest part.

    Args:
        model: prompts, retriever and backbone.
        batch: the global batch, the same on every worker.
        config: losses, with Gamma as a number, and compute layout.
        step: from 1; with the seed it determines the random streams of dropout and noise.
        scaler: gradient scaler of float16.
        with_norms: also compute the norm of each weighted term's gradient, which takes a backward pass for each.

    Returns:
        Each term that is on, unweighted; `total`; `positive_pairs` in percent, if there are pairs; and, with
        `with_norms`, each `gradient_norm/...` that is finite (float16 may overflow).
    """
    if config.backbone.dropout:
        with model.backbone.dropping_out(generator(config.seed, "dropout", step).initial_seed()):
            return _backward(model, batch, config=config, step=step, scaler=scaler, with_norms=with_norms)
    return _backward(model, batch, config=config, step=step, scaler=scaler, with_norms=with_norms)


def _backward(
    model: SelectivePromptModel,
    batch: Batch,
    *,
    config: TrialConfig,
    step: int,
    scaler: torch.amp.GradScaler | None,
    with_norms: bool,
) -> dict[str, float]:
    losses = config.losses
    mixed = _mixes_logits(losses)
    own = parallel.own_rows(len(batch))
    local = batch.rows(own)
    parts = list(_parts(len(local), model.num_prompts, config))
    cosine_bK = model.cosine(local, training=True)
    of_backbone = [cosine_bK.new_zeros(len(local), model.num_prompts, batch.response_mask_BR.shape[1])]
    if mixed:
        of_backbone.append(torch.zeros_like(of_backbone[0][:, 0]))
    kept: tuple[Tensor, ...] = ()
    for rows, prompts in parts:
        with torch.set_grad_enabled(len(parts) == 1):
            kept = model.logp_of(local.rows(rows), prompts, mixed=mixed)
        for whole, part in zip(of_backbone, kept, strict=True):
            whole[_place(whole, rows, prompts)] = part.detach()

    scores = [parallel.gather_rows(tensor, len(batch)).requires_grad_() for tensor in (cosine_bK, *of_backbone)]
    text_similarity_BB = _text_similarity(batch, losses)
    terms = objective(
        Scores(scores[0], model.activate(scores[0]), *scores[1:]),
        batch.response_mask_BR,
        text_similarity_BB,
        losses=losses,
        target_noise_BK=_target_noise(scores[0], config, step),
    )

    def carry_back(loss: Tensor, *, keep_graph: bool) -> None:
        """Add the gradient of a scalar of the scores to the parameters."""
        to_scores = torch.autograd.grad(
            scaler.scale(loss) if scaler else loss, scores, retain_graph=keep_graph, allow_unused=True
        )
        to_cosine, *to_backbone = [None if gradient is None else gradient[own] for gradient in to_scores]
        if to_cosine is not None and cosine_bK.requires_grad and len(local):
            torch.autograd.backward(cosine_bK, to_cosine, retain_graph=keep_graph)
        if all(gradient is None for gradient in to_backbone):
            return
        for rows, prompts in parts:
            of_part = kept if len(parts) == 1 else model.logp_of(local.rows(rows), prompts, mixed=mixed)
            carried = [
                (tensor, gradient[_place(gradient, rows, prompts)])
                for tensor, gradient in zip(of_part, to_backbone, strict=True)
                if gradient is not None
            ]
            tensors, gradients = zip(*carried, strict=True)
            torch.autograd.backward(tensors, gradients, retain_graph=keep_graph)

    found = {name: float(term.detach()) for name, term in terms.items()}
    found |= _share_of_positive_pairs(text_similarity_BB, losses)
    if with_norms:
        for name in terms:
            if name != "total":
                weighted = getattr(losses, name).weight * terms[name]
                norm = _gradient_norm(model, partial(carry_back, weighted, keep_graph=True))
                if math.isfinite(norm):
                    found[f"gradient_norm/{name}"] = norm / (scaler.get_scale() if scaler else 1.0)
    carry_back(terms["total"], keep_graph=False)
    parallel.sum_gradients(model.parameters())
    return found


def dev_objective(model: SelectivePromptModel, examples: list[Example], *, config: TrialConfig) -> float:
    """Mean over batches of the training objective on dev; the released code selects its epoch by it.

    Args:
        model: the model in its present state.
        examples: the dev examples.
        config: losses, with Gamma as a number, and batch size.
    """
    totals = []
    for indices in by_length(examples, batch_size=config.optim.batch_size):
        batch = collate([examples[index] for index in indices]).to(model.backbone.device)
        with torch.no_grad():
            cosine_BK = model.cosine(batch, training=True)
            of_backbone = model.logp_of(batch, slice(None), mixed=_mixes_logits(config.losses))
            terms = objective(
                Scores(cosine_BK, model.activate(cosine_BK), *of_backbone),
                batch.response_mask_BR,
                _text_similarity(batch, config.losses),
                losses=config.losses,
            )
        totals.append(float(terms["total"]))
    return sum(totals) / len(totals)


def text_of(example: Example, contrastive: ContrastiveTerm) -> str:
    """The text of an example that M compares."""
    return example.persona if contrastive.text == "persona" else example.context


def _mixes_logits(losses: LossesConfig) -> bool:
    return losses.fusion.enabled and losses.fusion.of == "weighted_logits"


def _text_similarity(batch: Batch, losses: LossesConfig) -> Tensor:
    """M over the batch; zeros if the contrastive term is off."""
    device = batch.mask_BT.device
    if not losses.contrastive.enabled:
        return torch.zeros(len(batch), len(batch), device=device)
    texts = [text_of(example, losses.contrastive) for example in batch.examples]
    return similarity_matrix(texts, measure=losses.contrastive.similarity).to(device)


def _target_noise(like_BK: Tensor, config: TrialConfig, step: int) -> Tensor | None:
    if not config.losses.selection.enabled or config.losses.selection.target_noise == 0:
        return None
    source = generator(config.seed, "target noise", step)
    return torch.randn(like_BK.shape, generator=source).to(like_BK.device)


def _share_of_positive_pairs(text_similarity_BB: Tensor, losses: LossesConfig) -> dict[str, float]:
    contrastive = losses.contrastive
    first_P, second_P = pairs(
        len(text_similarity_BB), group_size=contrastive.group_size, device=text_similarity_BB.device
    )
    if not contrastive.enabled or not len(first_P):
        return {}
    assert not isinstance(contrastive.threshold, str)
    positive_P = text_similarity_BB[first_P, second_P] > contrastive.threshold
    return {"positive_pairs": 100 * float(positive_P.float().mean())}


def _gradient_norm(model: SelectivePromptModel, carry_back: Callable[[], None]) -> float:
    """Norm of the gradients that a function adds; the gradients themselves are restored."""
    parameters = list(model.parameters())
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    carry_back()
    parallel.sum_gradients(parameters)
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None))
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    return norm


def _place(whole: Tensor, rows: slice, prompts: slice) -> tuple[slice, ...]:
    """Index of a part in the scores of all rows: [B, K, R] has an axis of prompts, [B, R] has none."""
    return (rows, prompts) if whole.dim() == 3 else (rows,)


def _parts(num_rows: int, num_prompts: int, config: TrialConfig) -> Iterator[tuple[slice, slice]]:
    """The parts: rectangles of rows and prompts that go through the backbone in one pass."""
    each_row = config.compute.micro_batch_size or max(1, num_rows)
    each_prompt = config.compute.prompts_per_pass or num_prompts
    for row in range(0, num_rows, each_row):
        for prompt in range(0, num_prompts, each_prompt):
            yield slice(row, row + each_row), slice(prompt, min(prompt + each_prompt, num_prompts))
