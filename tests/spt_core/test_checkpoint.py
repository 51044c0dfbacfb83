"""A run resumes from a checkpoint to the same bits (invariant 6), and an adapter is read back as it was saved."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from spt_core import checkpoint
from spt_core.batching import collate
from spt_core.build import build
from spt_core.gradient import backward
from spt_core.training import fit
from tests.conftest import tiny_config
from tests.spt_core.gradients import first_examples, gradients

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("stop_at", [0, 3])
def test_an_interrupted_run_resumes_to_the_same_bits(tiny_llama: Path, tmp_path: Path, stop_at: int) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=7)
    whole: list[dict[str, float]] = []
    uninterrupted = fit(config, report=lambda metrics, _: whole.append(metrics), device="cpu")
    kept = tmp_path / "kept"

    def stop(metrics: dict[str, float], folder: Path | None) -> None:
        if folder is not None and metrics["step"] == stop_at:
            shutil.copytree(folder, kept)
        if metrics["step"] == stop_at + 2:  # the two steps since the checkpoint are lost
            raise Stopped

    with pytest.raises(Stopped):
        fit(config, report=stop, device="cpu")
    rest: list[dict[str, float]] = []
    resumed = fit(config, report=lambda metrics, _: rest.append(metrics), resume_from=kept, device="cpu")
    without_seconds = [{k: v for k, v in row.items() if k != "seconds"} for row in whole if row["step"] > stop_at]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rest] == without_seconds
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


def test_the_gradient_scaler_scales_skips_and_is_saved(tiny_llama: Path, tmp_path: Path) -> None:
    """The scaler of float16 training, tested on a CPU in float32."""
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
