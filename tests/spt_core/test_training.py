"""Training: what a step changes (invariants 2 and 5), which checkpoint is chosen, and the golden loss curve."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spt_core import checkpoint
from spt_core.build import build
from spt_core.model import SelectivePromptModel
from spt_core.training import NonFiniteLossError, fit
from tests.conftest import tiny_config

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


def test_one_step_changes_prompts_and_retriever_and_nothing_else(tiny_model: Path) -> None:
    config = tiny_config(tiny_model, optim__max_steps=1)
    before, _ = build(config, device="cpu")
    frozen = {name: p.clone() for name, p in before.backbone.named_parameters()}
    start = {name: value.clone() for name, value in before.state_dict().items()}
    rows: list[dict[str, float]] = []
    states: list[dict[str, torch.Tensor]] = []

    def report(metrics: dict[str, float], folder: Path | None) -> None:
        rows.append(metrics)
        assert folder is not None
        fresh, _ = build(config, device="cpu")
        optimizer = torch.optim.Adam(fresh.parameters())
        checkpoint.load_progress(folder, model=fresh, optimizer=optimizer, scaler=NO_SCALER, config=config)
        states.append({name: value.clone() for name, value in fresh.state_dict().items()})

    fitted = fit(config, report=report, device="cpu")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(torch.equal(states[0][name], start[name]) for name in start)
    assert all(not torch.equal(states[1][name], start[name]) for name in start)
    assert all(torch.equal(p, frozen[name]) for name, p in fitted.model.backbone.named_parameters())


def test_training_lowers_dev_nll(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=30, optim__learning_rate=0.05, evaluation__every_steps=10)
    metrics = fit(config, device="cpu").metrics
    assert metrics["dev/nll"] < metrics["dev/nll_start"] - 0.02


def test_a_loss_that_is_not_finite_names_the_replies(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SelectivePromptModel.token_logp

    def broken(model: SelectivePromptModel, *arguments: Any) -> torch.Tensor:
        return whole(model, *arguments) * (float("nan") if torch.is_grad_enabled() else 1.0)

    monkeypatch.setattr(SelectivePromptModel, "token_logp", broken)
    with pytest.raises(NonFiniteLossError, match=r"step 1: soft_prompt = nan, .*fusion = nan on replies .*\d+:\d+"):
        fit(tiny_config(tiny_llama), device="cpu")


def test_only_parameters_with_a_gradient_count_as_trained(tiny_llama: Path) -> None:
    prompts, retriever = 4 * 32, 2 * (32 * 32 + 32)
    expected = {1: prompts, 3: 3 * prompts + retriever}
    for num_prompts, count in expected.items():
        config = tiny_config(tiny_llama, prompts__num_prompts=num_prompts, optim__max_steps=1)
        assert fit(config, device="cpu").metrics["trainable_parameters"] == count


def test_the_golden_loss_curve_is_reproduced(tiny_llama: Path) -> None:
    """If a refactoring changes this curve, it changed the mathematics: raise NUMERICS_VERSION and say why."""
    rows: list[dict[str, float]] = []
    fit(tiny_config(tiny_llama), report=lambda metrics, _: rows.append(metrics), device="cpu")
    curve = [{name: value for name, value in row.items() if name.startswith(("train/", "dev/nll"))} for row in rows]
    for row, expected in zip(curve, json.loads(GOLDEN.read_text()), strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_training_stops_early(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlls = iter([5.0, 4.0, 4.5, 4.4, 3.0, 3.0])
    monkeypatch.setattr("spt_core.training.selected_nll", lambda *_, **__: next(nlls))
    config = tiny_config(tiny_llama, optim__max_steps=5, optim__patience=2, evaluation__every_steps=1)
    metrics = fit(config, device="cpu").metrics
    assert (metrics["train/steps"], metrics["dev/best_step"], metrics["dev/nll"]) == (3, 1, 4.0)


@pytest.mark.parametrize("select_by", ["objective", "f1", "dist_avg"])
def test_the_checkpoint_is_chosen_by_select_by(tiny_llama: Path, select_by: str) -> None:
    rows: list[dict[str, float]] = []
    config = tiny_config(tiny_llama, optim__max_steps=4, optim__learning_rate=0.2, evaluation__every_steps=1)
    config = config.override({"evaluation.select_by": select_by})
    fitted = fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    by_step = {row["step"]: row[f"dev/{select_by}"] for row in rows}
    best = (min if select_by == "objective" else max)(by_step.values())
    assert by_step[fitted.metrics["dev/best_step"]] == best
    assert len(set(by_step.values())) > 1
    assert fitted.metrics["dev/nll"] == next(r["dev/nll"] for r in rows if r["step"] == fitted.metrics["dev/best_step"])


def test_gamma_as_a_quantile_is_over_pairs_of_training_examples(tiny_llama: Path) -> None:
    rows: list[dict[str, float]] = []
    config = tiny_config(tiny_llama, losses__contrastive__threshold="quantile:0.6", optim__batch_size=8)
    fitted = fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    assert 0 < fitted.metrics["train/gamma"] < 100
    shares = [row["train/positive_pairs"] for row in rows if "train/positive_pairs" in row]
    assert 20 < sum(shares) / len(shares) < 60  # 40 is expected
    fixed = config.override({"losses.contrastive.threshold": fitted.metrics["train/gamma"]})
    assert fit(fixed, device="cpu").metrics["dev/nll"] == fitted.metrics["dev/nll"]


@pytest.mark.parametrize("similarity", ["rouge_l", "embedding"])
def test_every_measure_of_text_similarity_trains(tiny_llama: Path, similarity: str) -> None:
    config = tiny_config(tiny_llama, losses__contrastive__similarity=similarity, optim__max_steps=2)
    assert fit(config, device="cpu").metrics["train/steps"] == 2
