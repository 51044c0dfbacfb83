"""Saves and loads the adapter of a trial and the state from which training resumes, as safetensors and JSON."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spt_core.config import TrialConfig, parse

_FORMAT = 2


def save_adapter(folder: Path, *, tensors: Mapping[str, Tensor], config: TrialConfig) -> None:
    """Write a trained adapter.

    Args:
        folder: created if absent; receives `adapter.safetensors` and `adapter.json`.
        tensors: state of prompts and retriever, by name.
        config: the whole config of the trial, which names the backbone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save_tensors(folder / "adapter.safetensors", tensors)
    _save_json(folder / "adapter.json", {"format": _FORMAT, "config": config.model_dump()})


def load_adapter(folder: Path) -> tuple[TrialConfig, dict[str, Tensor]]:
    """Read an adapter that `save_adapter` wrote.

    Returns:
        Its config and its tensors by name, on the CPU.

    Raises:
        ValueError: the folder has no adapter, or one of another format.
    """
    path = folder / "adapter.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not an adapter: it has no adapter.json")
    info = json.loads(path.read_text())
    if info.get("format") != _FORMAT:
        raise ValueError(f"{path}: format {info.get('format')!r}, and this version reads format {_FORMAT}")
    return parse(info["config"]), load_file(folder / "adapter.safetensors")


@dataclass
class Progress:
    """The progress of a training run; with the tensors, all the state from which it resumes.

    Attributes:
        step: number of optimisation steps done.
        seconds: training time so far, over all attempts.
        dev_nll_start: dev NLL before the first step; None until it is known.
        best_loss: lowest value so far of the criterion that chooses the checkpoint (the negative, for a metric of which
            more is better); None until it is known.
        best_dev_nll: dev NLL at that evaluation.
        best_step: step of that evaluation.
        without_better: number of evaluations since then.
    """

    step: int = 0
    seconds: float = 0.0
    dev_nll_start: float | None = None
    best_loss: float | None = None
    best_dev_nll: float | None = None
    best_step: int = 0
    without_better: int = 0


def save_progress(
    folder: Path,
    progress: Progress,
    *,
    model: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: TrialConfig,
) -> None:
    """Write the whole state of a training run, so that it resumes to the same bits.

    Random streams are not saved: each depends on the seed and a name alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    moments = {
        f"optimizer.{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    tensors = {
        **{f"model.{name}": value for name, value in model.items()},
        **{f"best.{name}": value for name, value in best.items()},
        **moments,
    }
    _save_tensors(folder / "progress.safetensors", tensors)
    _save_json(
        folder / "progress.json",
        {"format": _FORMAT, "config_key": config.key(), "scaler": scaler.state_dict(), **asdict(progress)},
    )


def load_progress(
    folder: Path,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: TrialConfig,
) -> tuple[Progress, dict[str, Tensor]]:
    """Restore model, optimizer and gradient scaler to the state that `save_progress` wrote.

    Returns:
        The progress, and the state of the best model so far.

    Raises:
        ValueError: the checkpoint is of another config.
    """
    info: dict[str, Any] = json.loads((folder / "progress.json").read_text())
    if info.pop("format") != _FORMAT or info.pop("config_key") != config.key():
        raise ValueError(f"{folder}: this checkpoint belongs to another config or format; start without it")
    scaler.load_state_dict(info.pop("scaler"))
    tensors = load_file(folder / "progress.safetensors")
    model.load_state_dict(_below(tensors, "model."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimizer.").items():
        index, field = name.split(".")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**info), _below(tensors, "best.")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    partial = path.with_suffix(".partial")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)


def _save_json(path: Path, value: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial-json")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True))
    os.replace(partial, path)
