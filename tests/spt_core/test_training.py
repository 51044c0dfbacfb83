"""Training: what a step moves (invariants 2, 3, 5, 8), that it learns, that it goes on (6), and the golden curve."""

import functools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from spt_core import checkpoint, schedule
from spt_core.batching import Example, collate
from spt_core.build import build
from spt_core.config import TrialConfig
from spt_core.evaluation import evaluate
from spt_core.gradient import backward, dev_objective
from spt_core.model import SelectivePromptModel
from spt_core.splits import load_splits
from spt_core.training import NonFiniteLossError, fit
from tests.conftest import tiny_config

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
TERMS = ("soft_prompt", "contrastive", "selection", "fusion")


@functools.cache
def first_examples(folder: str) -> list[Example]:
    config = tiny_config(Path(folder))
    return load_splits(config.data, build(config, device="cpu")[1]).train[:8]


def gradients(config: TrialConfig, *, rows: int = 4) -> dict[str, torch.Tensor]:
    """The gradient of the first training batch at the initial values, by parameter."""
    model, _ = build(config, device="cpu")
    batch = collate(first_examples(config.backbone.name)[:rows])
    backward(model, batch, config=config)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def only(term: str) -> dict[str, Any]:
    """Settings that leave one term on; soft_prompt stays on with a negligible weight where it must."""
    settings: dict[str, Any] = {f"losses__{name}__enabled": name == term for name in TERMS}
    if term in {"contrastive", "selection"}:
        settings |= {"losses__soft_prompt__enabled": True, "losses__soft_prompt__weight": 1e-12}
    return settings


def test_one_step_moves_prompts_and_retriever_and_nothing_else(tiny_model: Path) -> None:
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


@pytest.mark.parametrize("off", TERMS)
def test_a_term_that_is_off_is_as_if_it_were_not_there(tiny_llama: Path, off: str) -> None:
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


def test_at_one_prompt_selection_and_contrastive_are_inert(tiny_llama: Path) -> None:
    """What the canonical form folds at K = 1 is indeed nothing."""
    whole = gradients(tiny_config(tiny_llama, prompts__num_prompts=1))
    folded = gradients(tiny_config(tiny_llama, prompts__num_prompts=1).canonical())
    # Fusion doubles the soft prompt loss: a scale, which Adam does not see.
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


def _work(rank: int, world: int, folder: str, store: str, target: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    config = TrialConfig.model_validate_json(Path(folder, "trial.json").read_text())
    rows: list[dict[str, float]] = []
    fitted = fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    answer = evaluate(fitted.model, fitted.tokenizer, fitted.splits.test, config=config.evaluation)
    model, tokenizer = build(config, device="cpu")
    batch = collate(load_splits(config.data, tokenizer).train[:5])  # five rows: the shares differ
    backward(model, batch, config=config)
    found = {
        "curve": [row["train/total"] for row in rows if "train/total" in row],
        "dev": [row["dev/nll"] for row in rows if "dev/nll" in row],
        "test": {name: value for name, value in answer.metrics.items() if name in {"test/nll", "test/f1"}},
        "turns": [(p.dialogue, p.turn, p.prompt) for p in answer.predictions],
        "gradient": {name: p.grad.tolist() for name, p in model.named_parameters() if p.grad is not None},
    }
    Path(f"{target}.{rank}").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_are_one(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text(tiny_config(tiny_llama).model_dump_json())
    found = {}
    for world in (1, 2):
        target = str(tmp_path / f"of-{world}")
        arguments = (world, str(tmp_path), str(tmp_path / f"store-{world}"), target)
        multiprocessing.spawn(_work, args=arguments, nprocs=world)
        found[world] = [json.loads(Path(f"{target}.{rank}").read_text()) for rank in range(world)]
    (one,), (first, second) = found[1], found[2]
    assert first == second
    assert first["turns"] == one["turns"]
    for name, gradient in one["gradient"].items():
        expected = torch.tensor(gradient)
        scale = expected.abs().max()
        # float32, other shapes, and in the retriever a difference of near-equal terms; a lost pair would be percents.
        torch.testing.assert_close(torch.tensor(first["gradient"][name]) / scale, expected / scale, rtol=0, atol=5e-4)
    assert first["curve"] == pytest.approx(one["curve"], rel=1e-4)
    assert first["dev"] == pytest.approx(one["dev"], rel=1e-4)
    assert first["test"] == pytest.approx(one["test"], rel=1e-3)


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("stop_at", [0, 3])
def test_an_interrupted_run_goes_on_to_the_same_bits(tiny_llama: Path, tmp_path: Path, stop_at: int) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=7)
    whole: list[dict[str, float]] = []
    uninterrupted = fit(config, report=lambda metrics, _: whole.append(metrics), device="cpu")
    kept = tmp_path / "kept"

    def stop(metrics: dict[str, float], folder: Path | None) -> None:
        if folder is not None and metrics["step"] == stop_at:
            shutil.copytree(folder, kept)
        if metrics["step"] == stop_at + 2:  # two steps that are lost
            raise Stopped

    with pytest.raises(Stopped):
        fit(config, report=stop, device="cpu")
    rest: list[dict[str, float]] = []
    resumed = fit(config, report=lambda metrics, _: rest.append(metrics), resume_from=kept, device="cpu")
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in whole if row["step"] > stop_at]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rest] == timeless
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    assert {k: v for k, v in resumed.metrics.items() if "seconds" not in k} == {
        k: v for k, v in uninterrupted.metrics.items() if "seconds" not in k
    }


def test_a_checkpoint_of_another_config_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=1)
    model, _ = build(config, device="cpu")
    optimizer = torch.optim.Adam(model.parameters())
    best = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoint.save_progress(
        tmp_path,
        checkpoint.Progress(),
        model=model.state_dict(),
        best=best,
        optimizer=optimizer,
        scaler=NO_SCALER,
        config=config,
    )
    with pytest.raises(ValueError, match="belongs to another config"):
        fit(config.override({"seed": 1}), resume_from=tmp_path, device="cpu")


def test_no_checkpoint_is_a_pickle(tiny_llama: Path, tmp_path: Path) -> None:
    seen: set[str] = set()

    def report(_: dict[str, float], folder: Path | None) -> None:
        if folder is not None:
            seen.update(path.suffix for path in folder.iterdir())

    fit(tiny_config(tiny_llama, optim__max_steps=1), report=report, device="cpu")
    assert seen == {".safetensors", ".json"}


def test_the_best_adapter_by_dev_nll_is_kept_and_can_be_read_again(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=6)
    until_best = fit(config.override({"optim.max_steps": 3}), device="cpu")
    nlls = iter([5.0, 3.0, 4.0])
    monkeypatch.setattr("spt_core.training.selected_nll", lambda *_, **__: next(nlls))
    fitted = fit(config, device="cpu")
    assert (fitted.metrics["dev/nll_start"], fitted.metrics["dev/nll"], fitted.metrics["dev/best_step"]) == (5, 3, 3)
    for name, value in until_best.model.state_dict().items():
        assert torch.equal(fitted.model.state_dict()[name], value)
    checkpoint.save_adapter(tmp_path / "adapter", tensors=fitted.model.state_dict(), config=config)
    read_config, tensors = checkpoint.load_adapter(tmp_path / "adapter")
    assert read_config == config
    assert all(torch.equal(tensors[name], value) for name, value in fitted.model.state_dict().items())
    with pytest.raises(ValueError, match="is not an adapter"):
        checkpoint.load_adapter(tmp_path)


def test_training_lowers_dev_nll(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=30, optim__learning_rate=0.05, evaluation__every_steps=10)
    metrics = fit(config, device="cpu").metrics
    assert metrics["dev/nll"] < metrics["dev/nll_start"] - 0.02


def test_a_loss_that_is_not_finite_stops_and_says_where(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SelectivePromptModel.token_logp

    def broken(model: SelectivePromptModel, *arguments: Any) -> torch.Tensor:
        return whole(model, *arguments) * (float("nan") if torch.is_grad_enabled() else 1.0)

    monkeypatch.setattr(SelectivePromptModel, "token_logp", broken)
    with pytest.raises(NonFiniteLossError, match=r"step 1: soft_prompt = nan, .*fusion = nan on replies .*\d+:\d+"):
        fit(tiny_config(tiny_llama), device="cpu")


def test_only_what_a_term_moves_counts_as_trained(tiny_llama: Path) -> None:
    prompts, retriever = 4 * 32, 2 * (32 * 32 + 32)
    expected = {1: prompts, 3: 3 * prompts + retriever}
    for num_prompts, count in expected.items():
        config = tiny_config(tiny_llama, prompts__num_prompts=num_prompts, optim__max_steps=1)
        assert fit(config, device="cpu").metrics["trainable_parameters"] == count


def test_number_of_steps() -> None:
    config = TrialConfig().override({"optim.batch_size": 8, "optim.epochs": 3})
    assert schedule.num_steps(config, 17) == 9
    assert schedule.num_steps(config.override({"optim.max_steps": 4}), 17) == 4
    assert schedule.num_steps(config.override({"optim.max_steps": 40}), 17) == 9


def test_the_golden_loss_curve_is_reproduced(tiny_llama: Path) -> None:
    """A refactor that moves this curve changed the mathematics: raise NUMERICS_VERSION and say why."""
    rows: list[dict[str, float]] = []
    fit(tiny_config(tiny_llama), report=lambda metrics, _: rows.append(metrics), device="cpu")
    curve = [{name: value for name, value in row.items() if name.startswith(("train/", "dev/nll"))} for row in rows]
    for row, expected in zip(curve, json.loads(GOLDEN.read_text()), strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_training_stops_early_when_told_to(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlls = iter([5.0, 4.0, 4.5, 4.4, 3.0, 3.0])
    monkeypatch.setattr("spt_core.training.selected_nll", lambda *_, **__: next(nlls))
    config = tiny_config(tiny_llama, optim__max_steps=5, optim__patience=2, evaluation__every_steps=1)
    metrics = fit(config, device="cpu").metrics
    assert (metrics["train/steps"], metrics["dev/best_step"], metrics["dev/nll"]) == (3, 1, 4.0)


def test_dev_is_scored_at_the_end_of_each_epoch_too(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=60, optim__epochs=3, optim__batch_size=128)
    config = config.override({"data.dev_dialogues": 430, "evaluation.every_steps": 2})
    rows: list[dict[str, float]] = []
    fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    steps_an_epoch = int(rows[-1]["total_steps"]) // 3
    scored = {int(row["step"]) for row in rows if "dev/nll" in row}
    assert scored == set(range(0, 3 * steps_an_epoch + 1, 2)) | {n * steps_an_epoch for n in (1, 2, 3)}


@pytest.mark.parametrize("select_by", ["objective", "f1", "dist_avg"])
def test_the_checkpoint_is_chosen_by_what_is_asked_for(tiny_llama: Path, select_by: str) -> None:
    rows: list[dict[str, float]] = []
    config = tiny_config(tiny_llama, optim__max_steps=4, optim__learning_rate=0.2, evaluation__every_steps=1)
    config = config.override({"evaluation.select_by": select_by})
    fitted = fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    by_step = {row["step"]: row[f"dev/{select_by}"] for row in rows}
    best = (min if select_by == "objective" else max)(by_step.values())
    assert by_step[fitted.metrics["dev/best_step"]] == best
    assert len(set(by_step.values())) > 1
    assert fitted.metrics["dev/nll"] == next(r["dev/nll"] for r in rows if r["step"] == fitted.metrics["dev/best_step"])


def test_the_objective_of_dev_is_that_of_training(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama)
    model, _ = build(config, device="cpu")
    examples = first_examples(str(tiny_llama))
    batches = [sorted(examples, key=lambda e: -e.num_tokens)[i : i + 4] for i in (0, 4)]
    expected = [backward(model, collate(batch), config=config)["total"] for batch in batches]
    assert dev_objective(model, examples, config=config) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_gamma_as_a_quantile_is_that_of_the_training_pairs(tiny_llama: Path) -> None:
    rows: list[dict[str, float]] = []
    config = tiny_config(tiny_llama, losses__contrastive__threshold="quantile:0.6", optim__batch_size=8)
    fitted = fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    assert 0 < fitted.metrics["train/gamma"] < 100
    shares = [row["train/positive_pairs"] for row in rows if "train/positive_pairs" in row]
    assert 20 < sum(shares) / len(shares) < 60  # 40 in the long run
    fixed = config.override({"losses.contrastive.threshold": fitted.metrics["train/gamma"]})
    assert fit(fixed, device="cpu").metrics["dev/nll"] == fitted.metrics["dev/nll"]


@pytest.mark.parametrize("similarity", ["rouge_l", "embedding"])
def test_every_measure_of_text_similarity_trains(tiny_llama: Path, similarity: str) -> None:
    config = tiny_config(tiny_llama, losses__contrastive__similarity=similarity, optim__max_steps=2)
    assert fit(config, device="cpu").metrics["train/steps"] == 2


def test_the_order_of_batches_can_be_the_same_in_every_epoch(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, optim__epochs=2, optim__batch_size=4)
    examples = first_examples(str(tiny_llama))
    for order, same in (("once", True), ("each_epoch", False)):
        varied = config.override({"optim.order": order})
        batches = [
            tuple(ids)
            for seed in range(5)
            for ids in schedule.batches(varied.override({"seed": seed}), examples, start=0, stop=4)
        ]
        first, second = batches[0::4] + batches[1::4], batches[2::4] + batches[3::4]
        assert (first == second) == same


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


def test_the_gradient_scaler_scales_skips_and_is_kept(tiny_llama: Path, tmp_path: Path) -> None:
    """What float16 needs, on the CPU, where the scaler runs too: only its arithmetic is not float16 here."""
    config = tiny_config(tiny_llama)
    model, _ = build(config, device="cpu")
    batch = collate(first_examples(str(tiny_llama))[:4])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    backward(model, batch, config=config, scaler=scaler)
    scaled = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    plain = gradients(config)
    for gradient, expected in zip(scaled, plain.values(), strict=True):
        torch.testing.assert_close(gradient / 1024, expected, rtol=1e-4, atol=1e-8)
    scaler.step(optimizer)
    scaler.update()
    moved = model.prompts().detach().clone()
    optimizer.zero_grad(set_to_none=True)
    backward(model, batch, config=config, scaler=scaler)
    model.prompts.embedding_KLD.grad[0, 0, 0] = float("inf")  # type: ignore[index]
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.prompts(), moved)  # the step was skipped
    infinite = torch.amp.GradScaler("cpu", init_scale=1e38)
    overflowed = backward(model, batch, config=config, scaler=infinite, with_norms=True)
    assert all(math.isfinite(value) for value in overflowed.values())
    assert scaler.get_scale() == 512
    best = {name: value.clone() for name, value in model.state_dict().items()}
    state = {"model": model.state_dict(), "best": best, "optimizer": optimizer, "config": config}
    checkpoint.save_progress(tmp_path, checkpoint.Progress(step=2), scaler=scaler, **state)
    fresh = torch.amp.GradScaler("cpu")
    checkpoint.load_progress(tmp_path, model=model, optimizer=optimizer, scaler=fresh, config=config)
    assert fresh.state_dict() == scaler.state_dict()
    assert fresh.get_scale() == 512


def test_bfloat16_loses_little(tiny_model: Path) -> None:
    """Tolerance: 2% of each term, at random weights of scale 0.3."""
    found = {}
    for precision in ("float32", "bfloat16"):
        config = tiny_config(tiny_model, backbone__precision=precision)
        model, _ = build(config, device="cpu")
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        found[precision] = backward(model, collate(first_examples(str(tiny_model))[:4]), config=config)
    for term in ("soft_prompt", "fusion", "total"):
        assert found["bfloat16"][term] == pytest.approx(found["float32"][term], rel=0.02)
        assert found["bfloat16"][term] != found["float32"][term]
