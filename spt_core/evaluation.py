"""Evaluation of a trained adapter: NLL under the selected prompt, generated replies, and the metrics of both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spt_core import metrics as text_metrics
from spt_core import parallel
from spt_core.batching import Batch, Example, by_length, collate, to_decode
from spt_core.diagnostics import agreement, usage
from spt_core.fields import EvaluationConfig
from spt_core.losses import response_nll
from spt_core.model import SelectivePromptModel
from spt_core.routing import fit_turn_rule, routes

ROUTED_METRICS = ("f1", "bleu", "rouge_l", "dist_avg")
"""Metrics of the replies of each routing control, if its replies were decoded."""


@torch.no_grad()
def selected_nll(model: SelectivePromptModel, examples: list[Example], *, batch_size: int) -> float:
    """Mean NLL per response token, in nats, under the prompt that the retriever selects for each context."""
    sums: list[tuple[float, int]] = []
    for indices in by_length(examples, batch_size=batch_size):
        whole = collate([examples[index] for index in indices])
        batch = _own_rows(whole, model)
        if len(batch):
            chosen_B1 = model.select(_own_rows(to_decode(whole), model)).unsqueeze(1)
            tokens_B = batch.response_mask_BR.sum(-1)
            nll_B = response_nll(model.token_logp(batch, chosen_B1), batch.response_mask_BR)[:, 0].double() * tokens_B
            sums.append((float(nll_B.sum()), int(tokens_B.sum())))
    everyone = parallel.gather_lists(sums)
    return sum(nll for nll, _ in everyone) / sum(tokens for _, tokens in everyone)


@torch.no_grad()
def selected_prompts(model: SelectivePromptModel, examples: list[Example], *, batch_size: int) -> list[int]:
    """The prompt that the retriever selects for each context, without a pass through the backbone."""
    chosen: dict[int, int] = {}
    for indices in by_length(examples, batch_size=batch_size):
        batch = to_decode(collate([examples[index] for index in indices])).to(model.backbone.device)
        chosen |= dict(zip(indices, model.select(batch).tolist(), strict=True))
    return [chosen[index] for index in range(len(examples))]


@torch.no_grad()
def dev_metric(
    model: SelectivePromptModel, tokenizer: Any, examples: list[Example], *, config: EvaluationConfig
) -> float:
    """The metric of decoded replies that `config.select_by` names."""
    own: list[tuple[str, str]] = []
    for indices in by_length(examples, batch_size=config.batch_size):
        whole = collate([examples[index] for index in indices])
        batch = _own_rows(to_decode(whole), model)
        if len(batch):
            raw = _decode(model, tokenizer, batch, model.select(batch), config=config)
            own += [
                (_cut(text, config)[0], example.reference) for text, example in zip(raw, batch.examples, strict=True)
            ]
    replies, references = zip(*parallel.gather_lists(own), strict=True)
    encoder = config.bert_encoder if config.select_by.startswith("bert_") else None
    return text_metrics.score(replies, references, bert_encoder=encoder)[config.select_by]


@dataclass(frozen=True)
class Prediction:
    """One test response: the context, the human reply, the generated reply, and the selection of the prompt.

    Attributes:
        turn: index of the reply in its conversation, from 0; `stage` is `opening`, `middle` or `closing`.
        prediction: the reply after the cut rule; `raw_prediction` is the reply before it, `cut_by` the rule that
            applied, if any.
        prompt: index of the selected prompt.
        similarity: activated similarity of the context to each prompt; empty if a server replied.
        nll: NLL of the human reply under the selected prompt, mean per token, in nats; None if a server replied.
        nll_by_prompt: the same under each prompt; empty if a server replied.
        num_tokens: response tokens, EOS included.
        replies: the reply under each prompt, after the cut rule; None if only the selected prompt was decoded.
    """

    dialogue: str
    turn: int
    stage: str
    persona: str
    context: str
    reference: str
    prediction: str
    raw_prediction: str
    cut_by: str | None
    prompt: int
    similarity: list[float]
    nll: float | None
    nll_by_prompt: list[float]
    num_tokens: int
    replies: list[str] | None = None

    @classmethod
    def of(cls, example: Example, raw: str, *, cut: bool, **choice: Any) -> "Prediction":
        """The prediction for an example, from the raw reply and the fields that describe the selection."""
        reply, cut_by = text_metrics.cut(raw) if cut else (raw, None)
        return cls(
            dialogue=example.dialogue,
            turn=example.turn,
            stage=example.stage,
            persona=example.persona,
            context=example.context,
            reference=example.reference,
            prediction=reply,
            raw_prediction=raw,
            cut_by=cut_by,
            num_tokens=len(example.response_ids),
            **choice,
        )


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a set of test responses by name, and the responses in the order of the data set."""

    metrics: dict[str, float]
    predictions: list[Prediction]


@torch.no_grad()
def evaluate(
    model: SelectivePromptModel,
    tokenizer: Any,
    examples: list[Example],
    *,
    config: EvaluationConfig,
    dev: list[Example] | None = None,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Score and decode every example under the prompt that its context selects, and under the routing controls.

    Args:
        model: the trained model.
        tokenizer: of its backbone.
        examples: examples of the test split.
        config: settings of decoding and scoring.
        dev: the examples on which the rule by turn is fitted; without them, and at K = 1, there are no controls.
        seed: seed of the controls' random choices.
        on_progress: called on every worker with the share that is done, 0 to 1.
    """
    if not examples:
        return Evaluation({}, [])
    own: list[tuple[int, Prediction]] = []
    done = 0
    for indices in by_length(examples, batch_size=config.batch_size):
        mine = [indices[i] for i in range(len(indices))[parallel.own_rows(len(indices))]]
        whole = collate([examples[index] for index in indices])
        if mine:
            batch, to_ask = _own_rows(whole, model), to_decode(whole)
            asked = batch if to_ask is whole else _own_rows(to_ask, model)
            predictions = _predict(model, tokenizer, batch, asked, config=config)
            own += list(zip(mine, predictions, strict=True))
        done += len(indices)
        if on_progress is not None:
            on_progress(done / len(examples))
    predictions = [prediction for _, prediction in sorted(parallel.gather_lists(own), key=lambda pair: pair[0])]
    found = summarise(predictions, bert_encoder=config.bert_encoder)
    if dev and model.num_prompts > 1:
        rule = fit_turn_rule(
            [example.turn for example in dev],
            nll_by_prompt(model, dev, batch_size=config.batch_size),
            [len(example.response_ids) for example in dev],
        )
        found |= summarise_routes(predictions, turn_rule=rule, seed=seed)
    return Evaluation(found, predictions)


@torch.no_grad()
def nll_by_prompt(model: SelectivePromptModel, examples: list[Example], *, batch_size: int) -> Tensor:
    """Mean NLL per response token of each example under each prompt, [N, K], in nats, on the CPU."""
    own: list[tuple[int, list[float]]] = []
    for indices in by_length(examples, batch_size=batch_size):
        mine = [indices[i] for i in range(len(indices))[parallel.own_rows(len(indices))]]
        if mine:
            batch = _own_rows(collate([examples[index] for index in indices]), model)
            own += list(zip(mine, _nll_by_prompt(model, batch).tolist(), strict=True))
    return torch.tensor([nll_K for _, nll_K in sorted(parallel.gather_lists(own))])


def summarise(predictions: list[Prediction], *, bert_encoder: str | None) -> dict[str, float]:
    """The metrics of a set of predictions.

    Returns:
        `test/...` of the replies after the cut rule, `raw/...` of those before it, `human/...` of the same number of
        references. Shares are in percent, NLLs in nats per response token. `persona_...` is the overlap of a reply with
        its persona (Table 5), `dist_gap` the distance of DIST_AVG from that of the references.
    """
    replies = [prediction.prediction for prediction in predictions]
    raw = [prediction.raw_prediction for prediction in predictions]
    references = [prediction.reference for prediction in predictions]
    personas = [prediction.persona for prediction in predictions]
    scores = text_metrics.score(replies, references, bert_encoder=bert_encoder)
    human = text_metrics.score(references, references)
    cuts = {name: sum(p.cut_by == name for p in predictions) for name in text_metrics.CUT_NAMES}
    return {
        **{f"test/{name}": value for name, value in scores.items()},
        **{f"raw/{name}": v for name, v in text_metrics.score(raw, references).items()},
        **{f"test/{name}": v for name, v in text_metrics.persona_overlap(replies, personas).items()},
        **{f"human/{name}": human[name] for name in ("dist_1", "dist_2", "dist_avg")},
        **{f"human/{name}": v for name, v in text_metrics.persona_overlap(references, personas).items()},
        "human/mean_length": text_metrics.mean_length(references),
        "human/emoji_rate": text_metrics.emoji_rate(references),
        "test/dist_gap": abs(scores["dist_avg"] - human["dist_avg"]),
        "test/mean_length": text_metrics.mean_length(replies),
        "raw/mean_length": text_metrics.mean_length(raw),
        "test/emoji_rate": text_metrics.emoji_rate(replies),
        "test/num_responses": float(len(predictions)),
        "test/share_cut": 100 * sum(cuts.values()) / len(predictions),
        **{f"test/share_cut/{text_metrics.CUT_NAMES[rule]}": 100 * n / len(predictions) for rule, n in cuts.items()},
        **_summarise_choice(predictions),
    }


def _summarise_choice(predictions: list[Prediction]) -> dict[str, float]:
    """NLLs, usage of the prompts, and agreement with the language model; nothing if a server replied."""
    if predictions[0].nll is None:
        return {}
    nll_NK, similarity_NK = _columns(predictions)
    tokens = [prediction.num_tokens for prediction in predictions]
    chosen = [prediction.prompt for prediction in predictions]
    return {
        "test/nll": _mean_nll(nll_NK, chosen, tokens),
        "test/oracle_nll": _mean_nll(nll_NK, nll_NK.argmin(1).tolist(), tokens),
        **{f"test/{name}": v for name, v in usage(chosen, num_prompts=nll_NK.shape[1]).items()},
        **{f"test/{name}": v for name, v in agreement(similarity_NK, nll_NK).items()},
    }


def summarise_routes(predictions: list[Prediction], *, turn_rule: dict[int, int], seed: int) -> dict[str, float]:
    """`routing/NAME/nll` of each control, and the metrics of its replies if all prompts were decoded."""
    nll_NK, similarity_NK = _columns(predictions)
    tokens = [prediction.num_tokens for prediction in predictions]
    references = [prediction.reference for prediction in predictions]
    turns = [prediction.turn for prediction in predictions]
    found: dict[str, float] = {}
    for name, chosen in routes(similarity_NK, nll_NK, turns, turn_rule=turn_rule, seed=seed).items():
        found[f"routing/{name}/nll"] = _mean_nll(nll_NK, chosen, tokens)
        replies = [p.replies[k] for p, k in zip(predictions, chosen, strict=True) if p.replies is not None]
        if replies:
            scores = text_metrics.score(replies, references)
            found |= {f"routing/{name}/{metric}": scores[metric] for metric in ROUTED_METRICS}
    return found


def _columns(predictions: list[Prediction]) -> tuple[Tensor, Tensor]:
    nll_NK = torch.tensor([prediction.nll_by_prompt for prediction in predictions], dtype=torch.float64)
    return nll_NK, torch.tensor([prediction.similarity for prediction in predictions], dtype=torch.float64)


def _mean_nll(nll_NK: Tensor, chosen: list[int], num_tokens: list[int]) -> float:
    weight_N = torch.tensor(num_tokens, dtype=torch.float64)
    nll_N = nll_NK.gather(1, torch.tensor(chosen).unsqueeze(1)).squeeze(1)
    return float((nll_N * weight_N).sum() / weight_N.sum())


def _own_rows(batch: Batch, model: SelectivePromptModel) -> Batch:
    return batch.rows(parallel.own_rows(len(batch))).to(model.backbone.device)


def _nll_by_prompt(model: SelectivePromptModel, batch: Batch) -> Tensor:
    # One prompt at a time, so that memory does not grow with K; the arithmetic is the same.
    each_prompt = [
        response_nll(
            model.token_logp(batch, torch.full((len(batch), 1), k, device=batch.mask_BT.device)), batch.response_mask_BR
        )
        for k in range(model.num_prompts)
    ]
    return torch.cat(each_prompt, dim=1)


def _decode(
    model: SelectivePromptModel, tokenizer: Any, batch: Batch, prompt_B: Tensor, *, config: EvaluationConfig
) -> list[str]:
    tokens_BR = model.generate(
        batch,
        prompt_B,
        max_new_tokens=config.max_new_tokens,
        eos_id=tokenizer.eos_token_id,
        **config.generation,
    )
    return [text.strip() for text in tokenizer.batch_decode(tokens_BR, skip_special_tokens=True)]


def _cut(raw: str, config: EvaluationConfig) -> tuple[str, str | None]:
    return text_metrics.cut(raw) if config.cut else (raw, None)


def _predict(
    model: SelectivePromptModel, tokenizer: Any, batch: Batch, asked: Batch, *, config: EvaluationConfig
) -> list[Prediction]:
    """Predictions of some rows; `asked` has the contexts for decoding and for the retriever."""
    similarity_BK = model.activate(model.cosine(asked))
    chosen_B = similarity_BK.argmax(-1)
    nll_BK = _nll_by_prompt(model, batch)
    if config.controls and model.num_prompts > 1:
        every_N = torch.arange(model.num_prompts, device=chosen_B.device).repeat(len(batch))
        texts = _decode(model, tokenizer, asked.repeat(model.num_prompts), every_N, config=config)
        by_prompt = [texts[row * model.num_prompts :][: model.num_prompts] for row in range(len(batch))]
        raw_replies = [texts_K[k] for texts_K, k in zip(by_prompt, chosen_B.tolist(), strict=True)]
        replies: list[list[str] | None] = [[_cut(text, config)[0] for text in texts_K] for texts_K in by_prompt]
    else:
        raw_replies = _decode(model, tokenizer, asked, chosen_B, config=config)
        replies = [None] * len(batch)
    predictions = []
    for row, example in enumerate(batch.examples):
        prompt = int(chosen_B[row])
        predictions.append(
            Prediction.of(
                example,
                raw_replies[row],
                cut=config.cut,
                prompt=prompt,
                similarity=similarity_BK[row].tolist(),
                nll=float(nll_BK[row, prompt]),
                nll_by_prompt=nll_BK[row].tolist(),
                replies=replies[row],
            )
        )
    return predictions
