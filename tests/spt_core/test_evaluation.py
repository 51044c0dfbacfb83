"""Evaluation: NLLs against their definition, predictions in order, and metrics of the right strings."""

import math
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from spt_core import metrics as text_metrics
from spt_core.batching import collate
from spt_core.build import build
from spt_core.evaluation import Prediction, evaluate, selected_nll, summarise
from spt_core.splits import load_splits
from tests.conftest import tiny_config
from tests.conftest import tokenizer as made_tokenizer


def prediction(*, prompt: int, nll_by_prompt: list[float], num_tokens: int, reply: str, raw: str) -> Prediction:
    return Prediction(
        dialogue="0",
        turn=0,
        stage="opening",
        persona="",
        context="",
        reference="i like tea",
        prediction=reply,
        raw_prediction=raw,
        cut_by=None if reply == raw else "colon",
        prompt=prompt,
        similarity=[float(k == prompt) for k in range(len(nll_by_prompt))],
        nll=nll_by_prompt[prompt],
        nll_by_prompt=nll_by_prompt,
        num_tokens=num_tokens,
    )


def test_evaluation_of_a_tiny_model(tiny_model: Path) -> None:
    config = tiny_config(tiny_model)
    model, tokenizer = build(config, device="cpu")
    examples = load_splits(config.data, tokenizer).test
    shares: list[float] = []
    answer = evaluate(model, tokenizer, examples, config=config.evaluation, on_progress=shares.append)
    assert shares == [0.5, 1.0]
    assert [(p.dialogue, p.turn, p.reference) for p in answer.predictions] == [
        (e.dialogue, e.turn, e.reference) for e in examples
    ]
    total, tokens = 0.0, 0
    with torch.no_grad():
        for example, found in zip(examples, answer.predictions, strict=True):
            scores = model(collate([example]))
            assert found.prompt == int(scores.similarity_BK[0].argmax())
            nll_K = -scores.token_logp_BKR[0].mean(-1)
            assert found.nll_by_prompt == pytest.approx(nll_K.tolist(), rel=1e-4)
            total += float(nll_K[found.prompt]) * len(example.response_ids)
            tokens += len(example.response_ids)
    assert answer.metrics["test/nll"] == pytest.approx(total / tokens, rel=1e-4)
    assert selected_nll(model, examples, batch_size=5) == pytest.approx(total / tokens, rel=1e-4)
    assert answer.metrics["test/oracle_nll"] <= answer.metrics["test/nll"]
    again = text_metrics.score([p.prediction for p in answer.predictions], [e.reference for e in examples])
    assert {name: answer.metrics[f"test/{name}"] for name in again} == again


def test_the_summary_by_hand() -> None:
    found = summarise(
        [
            prediction(prompt=0, nll_by_prompt=[2.0, 1.0, 9.0], num_tokens=1, reply="i like tea", raw="i like tea"),
            prediction(prompt=0, nll_by_prompt=[3.0, 4.0, 9.0], num_tokens=3, reply="tea", raw="tea: with milk"),
            prediction(prompt=2, nll_by_prompt=[5.0, 5.0, 1.0], num_tokens=4, reply="", raw=": 🙂"),
        ],
        bert_encoder=None,
    )
    assert found["test/nll"] == pytest.approx((2.0 * 1 + 3.0 * 3 + 1.0 * 4) / 8)
    assert found["test/oracle_nll"] == pytest.approx((1.0 * 1 + 3.0 * 3 + 1.0 * 4) / 8)
    assert found["test/lm_agreement"] == pytest.approx(100 * 2 / 3)
    assert found["test/prompts_used"] == 2
    assert found["test/usage_entropy"] == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert found["test/share_cut"] == pytest.approx(100 * 2 / 3)
    assert found["test/mean_length"] == pytest.approx((3 + 1 + 0) / 3)
    assert found["raw/mean_length"] == pytest.approx((3 + 3 + 2) / 3)
    assert found["test/emoji_rate"] == 0
    assert found["human/mean_length"] == 3
    # F1 of "tea" with "i like tea": precision 1, recall 1/3, so 1/2; identical text 1; no common token 0.
    assert found["test/f1"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)


def test_a_backbone_with_a_sliding_window_is_evaluated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    window = MistralConfig(
        vocab_size=400, sliding_window=8, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, **sizes
    )
    MistralForCausalLM(window).save_pretrained(tmp_path)
    made_tokenizer().save_pretrained(tmp_path)
    config = tiny_config(tmp_path)
    model, tokenizer = build(config, device="cpu")
    examples = load_splits(config.data, tokenizer).test[:3]
    answer = evaluate(model, tokenizer, examples, config=config.evaluation)
    assert all(math.isfinite(nll) for prediction in answer.predictions for nll in prediction.nll_by_prompt)
