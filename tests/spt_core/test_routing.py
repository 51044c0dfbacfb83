"""Routing controls and diagnostics: values worked by hand, their properties, and a whole evaluation."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spt_core import metrics as text_metrics
from spt_core.batching import collate
from spt_core.build import build
from spt_core.diagnostics import agreement, describe_prompts, usage
from spt_core.evaluation import evaluate, nll_by_prompt, selected_prompts
from spt_core.prompts import SoftPromptGroup
from spt_core.routing import fit_turn_rule, routes
from spt_core.splits import load_splits
from spt_core.training import fit
from tests.conftest import tiny_config

NLL_NK = torch.tensor([[1.0, 2.0], [1.0, 2.0], [5.0, 1.0], [1.0, 1.5]])


def test_the_turn_rule_takes_the_prompt_of_least_nll_for_each_turn() -> None:
    # Turn 1: 3 tokens prefer prompt 0 by 1 nat each, 1 token prefers prompt 1 by 4 nats: prompt 1 has less in all.
    rule = fit_turn_rule([0, 1, 1, 2], NLL_NK, [4, 3, 1, 2])
    assert rule == {0: 0, 1: 1, 2: 0, -1: 0}


def test_each_route_by_hand() -> None:
    similarity_NK = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.7, 0.6]])
    found = routes(similarity_NK, NLL_NK, [0, 1, 1, 9], turn_rule={0: 1, 1: 0, -1: 1}, seed=0)
    assert found["retriever"] == [0, 0, 1, 0]
    assert found["turn"] == [1, 0, 0, 1]
    assert found["fixed_0"] == [0, 0, 0, 0]
    assert found["fixed_1"] == [1, 1, 1, 1]
    assert found["oracle"] == [0, 0, 1, 0]
    assert set(found) == {"retriever", "shuffled", "random", "turn", "fixed_0", "fixed_1", "oracle"}


@given(st.integers(2, 30), st.integers(0, 5))
def test_shuffled_contexts_keep_the_usage_and_have_no_fixed_point(count: int, seed: int) -> None:
    similarity_NK = torch.eye(count)  # each response chooses a prompt of its own
    found = routes(similarity_NK, similarity_NK, [0] * count, turn_rule={-1: 0}, seed=seed)
    assert sorted(found["shuffled"]) == list(range(count))
    assert all(chosen != own for own, chosen in enumerate(found["shuffled"]))


def test_random_prompts_are_even_and_seeded() -> None:
    similarity_NK = torch.zeros(4000, 4)
    chosen, again, other = (
        routes(similarity_NK, similarity_NK, [0] * 4000, turn_rule={-1: 0}, seed=seed)["random"] for seed in (0, 0, 1)
    )
    assert chosen == again != other
    assert all(900 < chosen.count(prompt) < 1100 for prompt in range(4))


def test_usage_by_hand() -> None:
    found = usage([0, 0, 2, 0], num_prompts=4)
    assert [found[f"usage/prompt_{k}"] for k in range(4)] == [75, 0, 25, 0]
    assert (found["prompts_used"], found["dead_prompts"]) == (2, 2)
    assert found["usage_entropy"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert usage([1, 1], num_prompts=2)["usage_entropy"] == 0


def test_agreement_by_hand() -> None:
    nll_NK = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    similarity_NK = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9], [0.1, 0.2, 0.3]])
    found = agreement(similarity_NK, nll_NK)
    assert found["lm_agreement"] == pytest.approx(100 / 3)
    assert found["lm_rank_correlation"] == pytest.approx((1 - 1) / 2)  # the third has equal values, so no ranks
    assert "lm_rank_correlation" not in agreement(torch.zeros(2, 1), torch.ones(2, 1))


def test_prompts_are_described_by_the_averages_that_the_retriever_reads(tiny_llama: Path) -> None:
    model, _ = build(tiny_config(tiny_llama), device="cpu")
    model.prompts = SoftPromptGroup(
        torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]], [[3.0, 3.0], [1.0, 1.0]]])
    )
    found = describe_prompts(model)
    half = math.sqrt(0.5)
    assert found["prompts/cosine_mean"] == pytest.approx((0 + half + half) / 3, rel=1e-5)
    assert found["prompts/cosine_max"] == pytest.approx(half, rel=1e-5)
    assert found["prompts/norm"] == pytest.approx((1 + 1 + 2 + 0 + math.sqrt(18) + math.sqrt(2)) / 6, rel=1e-5)


def test_an_evaluation_with_controls(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, evaluation__controls=True)
    model, tokenizer = build(config, device="cpu")
    splits = load_splits(config.data, tokenizer)
    answer = evaluate(model, tokenizer, splits.test, config=config.evaluation, dev=splits.dev, seed=0)
    plain_config = config.override({"evaluation.controls": False}).evaluation
    plain = evaluate(model, tokenizer, splits.test, config=plain_config, dev=splits.dev, seed=0)
    assert [p.prediction for p in answer.predictions] == [p.prediction for p in plain.predictions]
    for prediction in answer.predictions:
        assert prediction.replies is not None
        assert prediction.replies[prediction.prompt] == prediction.prediction
    assert all(prediction.replies is None for prediction in plain.predictions)
    found = answer.metrics
    assert found["routing/retriever/nll"] == found["test/nll"]
    assert found["routing/oracle/nll"] == found["test/oracle_nll"]
    names = {name.split("/")[1] for name in found if name.startswith("routing/")}
    assert names == {"retriever", "shuffled", "random", "turn", "fixed_0", "fixed_1", "fixed_2", "oracle"}
    assert all(found["routing/oracle/nll"] <= found[f"routing/{name}/nll"] for name in names)
    fixed = text_metrics.score(
        [p.replies[1] for p in answer.predictions if p.replies], [p.reference for p in answer.predictions]
    )
    assert found["routing/fixed_1/f1"] == fixed["f1"]
    assert not any(name.startswith("routing/") and name.endswith("/f1") for name in plain.metrics)
    expected_NK = torch.tensor([prediction.nll_by_prompt for prediction in plain.predictions])
    torch.testing.assert_close(nll_by_prompt(model, splits.test, batch_size=5), expected_NK, rtol=1e-4, atol=1e-4)


def test_a_reply_can_be_left_uncut(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = ["i am fine Q: and you?"] * 100
    monkeypatch.setattr("spt_core.evaluation._decode", lambda *arguments, **_: replies[: len(arguments[2])])
    config = tiny_config(tiny_llama, evaluation__cut=False)
    model, tokenizer = build(config, device="cpu")
    splits = load_splits(config.data, tokenizer)
    answer = evaluate(model, tokenizer, splits.test, config=config.evaluation)
    assert {(p.prediction, p.cut_by) for p in answer.predictions} == {("i am fine Q: and you?", None)}
    assert answer.metrics["test/share_cut"] == 0
    cutting = config.override({"evaluation.cut": True}).evaluation
    cut = evaluate(model, tokenizer, splits.test, config=cutting)
    assert {(p.prediction, p.cut_by) for p in cut.predictions} == {("i am fine", "Q:")}
    assert cut.metrics["test/share_cut"] == cut.metrics["test/share_cut/query"] == 100
    assert cut.metrics["test/share_cut/colon"] == 0


def test_the_use_of_the_prompts_on_dev_is_reported_with_each_evaluation(tiny_llama: Path) -> None:
    rows: list[dict[str, float]] = []
    fitted = fit(tiny_config(tiny_llama), report=lambda metrics, _: rows.append(metrics), device="cpu")
    scored = [row for row in rows if "dev/nll" in row]
    for row in scored:
        assert sum(row[f"dev/usage/prompt_{k}"] for k in range(3)) == pytest.approx(100)
        assert row["dev/prompts_used"] + row["dev/dead_prompts"] == 3
    chosen = selected_prompts(fitted.model, fitted.splits.dev, batch_size=5)
    again = [int(fitted.model.select(collate([example]))) for example in fitted.splits.dev]
    assert chosen == again
