"""What a trained adapter is worth: NLL under the retriever's choice, replies, and the metrics of both."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spt_core import metrics as text_metrics
from spt_core import parallel
from spt_core.batching import Batch, Example, by_length, collate
from spt_core.config import EvaluationConfig
from spt_core.losses import response_nll
from spt_core.model import SelectivePromptModel, activate


@torch.no_grad()
def selected_nll(model: SelectivePromptModel, examples: list[Example], *, batch_size: int) -> float:
    """Mean NLL per response token, in nats, under the prompt that the retriever selects for each context."""
    sums: list[tuple[float, int]] = []
    for indices in by_length(examples, batch_size=batch_size):
        batch = _own_rows(collate([examples[index] for index in indices]), model)
        if len(batch):
            logp_BCR = model.token_logp(batch, model.select(batch).unsqueeze(1))
            tokens_B = batch.response_mask_BR.sum(-1)
            nll_B = response_nll(logp_BCR, batch.response_mask_BR)[:, 0].double() * tokens_B
            sums.append((float(nll_B.sum()), int(tokens_B.sum())))
    everyone = parallel.gather_lists(sums)
    return sum(nll for nll, _ in everyone) / sum(tokens for _, tokens in everyone)


@dataclass(frozen=True)
class Prediction:
    """One test response: what was asked, what the human said, what the model said, and how it chose.

    Attributes:
        prediction: the reply after the cut rule; `raw_prediction` is before it, `cut_by` the rule that cut, if any.
        prompt: index of the selected prompt.
        similarity: of the context to each prompt, activated.
        nll: of the human reply under the selected prompt, mean per token, in nats; `nll_by_prompt` under each.
        num_tokens: response tokens, EOS included.
    """

    dialogue: str
    turn: int
    persona: str
    context: str
    reference: str
    prediction: str
    raw_prediction: str
    cut_by: str | None
    prompt: int
    similarity: list[float]
    nll: float
    nll_by_prompt: list[float]
    num_tokens: int


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a set of test responses, flat by name, and the responses in the order of the data set."""

    metrics: dict[str, float]
    predictions: list[Prediction]


@torch.no_grad()
def evaluate(
    model: SelectivePromptModel,
    tokenizer: Any,
    examples: list[Example],
    *,
    config: EvaluationConfig,
    on_progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Score and decode every example under the prompt that its context selects.

    Args:
        model: trained.
        tokenizer: of its backbone.
        examples: of the test split.
        config: decoding and scoring.
        on_progress: called on every worker alike with the share done, 0 to 1.
    """
    own: list[tuple[int, Prediction]] = []
    done = 0
    for indices in by_length(examples, batch_size=config.batch_size):
        mine = [indices[i] for i in range(len(indices))[parallel.own_rows(len(indices))]]
        batch = _own_rows(collate([examples[index] for index in indices]), model)
        if len(batch):
            predictions = _predict(model, tokenizer, batch, max_new_tokens=config.max_new_tokens)
            own += list(zip(mine, predictions, strict=True))
        done += len(indices)
        if on_progress is not None:
            on_progress(done / len(examples))
    predictions = [prediction for _, prediction in sorted(parallel.gather_lists(own), key=lambda pair: pair[0])]
    return Evaluation(summarise(predictions, bert_encoder=config.bert_encoder), predictions)


def summarise(predictions: list[Prediction], *, bert_encoder: str | None) -> dict[str, float]:
    """The metrics of a set of predictions.

    Returns:
        `test/...` on cut replies, `raw/...` on uncut ones, `human/...` on the references at the same n; shares are
        in percent, NLLs in nats per response token.
    """
    replies = [prediction.prediction for prediction in predictions]
    raw = [prediction.raw_prediction for prediction in predictions]
    references = [prediction.reference for prediction in predictions]
    human = text_metrics.score(references, references)
    tokens = torch.tensor([prediction.num_tokens for prediction in predictions], dtype=torch.float64)
    nll_NK = torch.tensor([prediction.nll_by_prompt for prediction in predictions], dtype=torch.float64)
    chosen_N = torch.tensor([prediction.prompt for prediction in predictions])
    selected_N = nll_NK.gather(1, chosen_N.unsqueeze(1)).squeeze(1)
    usage = torch.tensor(list(Counter(chosen_N.tolist()).values()), dtype=torch.float64) / len(predictions)
    return {
        **{f"test/{name}": v for name, v in text_metrics.score(replies, references, bert_encoder=bert_encoder).items()},
        **{f"raw/{name}": v for name, v in text_metrics.score(raw, references).items()},
        **{f"human/{name}": human[name] for name in ("dist_1", "dist_2", "dist_avg")},
        "human/mean_length": text_metrics.mean_length(references),
        "human/emoji_rate": text_metrics.emoji_rate(references),
        "test/nll": _weighted_mean(selected_N, tokens),
        "test/oracle_nll": _weighted_mean(nll_NK.min(1).values, tokens),
        "test/mean_length": text_metrics.mean_length(replies),
        "raw/mean_length": text_metrics.mean_length(raw),
        "test/emoji_rate": text_metrics.emoji_rate(replies),
        "test/num_responses": float(len(predictions)),
        "test/share_cut": 100 * sum(p.cut_by is not None for p in predictions) / len(predictions),
        "test/prompts_used": float(len(usage)),
        "test/usage_entropy": float(-(usage * usage.log()).sum()),
        "test/lm_agreement": 100 * float((chosen_N == nll_NK.argmin(1)).double().mean()),
    }


def _weighted_mean(values: Tensor, weights: Tensor) -> float:
    return float((values * weights).sum() / weights.sum())


def _own_rows(batch: Batch, model: SelectivePromptModel) -> Batch:
    return batch.rows(parallel.own_rows(len(batch))).to(model.backbone.device)


def _predict(model: SelectivePromptModel, tokenizer: Any, batch: Batch, *, max_new_tokens: int) -> list[Prediction]:
    similarity_BK = activate(model.cosine(batch))
    chosen_B = similarity_BK.argmax(-1)
    # One prompt at a time: the same arithmetic as all K at once, and memory that does not grow with K.
    each_prompt = [
        response_nll(model.token_logp(batch, torch.full_like(chosen_B, k).unsqueeze(1)), batch.response_mask_BR)
        for k in range(model.num_prompts)
    ]
    nll_BK = torch.cat(each_prompt, dim=1)
    eos_id = tokenizer.eos_token_id
    tokens_BR = model.generate(batch, chosen_B, max_new_tokens=max_new_tokens, eos_id=eos_id)
    predictions = []
    for row, example in enumerate(batch.examples):
        raw = tokenizer.decode(tokens_BR[row], skip_special_tokens=True).strip()
        reply, cut_by = text_metrics.cut(raw)
        prompt = int(chosen_B[row])
        predictions.append(
            Prediction(
                dialogue=example.dialogue,
                turn=example.turn,
                persona=example.persona,
                context=example.context,
                reference=example.reference,
                prediction=reply,
                raw_prediction=raw,
                cut_by=cut_by,
                prompt=prompt,
                similarity=similarity_BK[row].tolist(),
                nll=float(nll_BK[row, prompt]),
                nll_by_prompt=nll_BK[row].tolist(),
                num_tokens=len(example.response_ids),
            )
        )
    return predictions
