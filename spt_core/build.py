"""Builds the model of a config for each method: SPT, LoRA, or in-context learning."""

from typing import Any

import torch

from spt_core import backbone as backbones
from spt_core import baselines, weights
from spt_core.config import TrialConfig
from spt_core.model import SelectivePromptModel
from spt_core.prompts import initial_embedding


def build(config: TrialConfig, *, device: str) -> tuple[SelectivePromptModel, Any]:
    """The model of a config at its initial values, and the backbone's tokenizer.

    Raises:
        ValueError: the backbone cannot be found, this device does not support its precision, or it has none of the
            layers that LoRA should update.
    """
    source = weights.resolve(config.backbone)
    precision = backbones.resolve_precision(config.backbone.precision, torch.device(device).type)
    tokenizer = weights.load_tokenizer(source)
    plain: dict[str, Any] = {
        "padding_id": tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        "max_tokens": config.data.max_tokens,
        "seed": config.seed,
    }
    if config.method == "spt":
        backbone = backbones.load(source, precision=precision, device=device)
        start_KLD = initial_embedding(
            config.prompts, vocabulary_VD=backbone.vocabulary, tokenizer=tokenizer, seed=config.seed
        )
        model = SelectivePromptModel(backbone, start_KLD=start_KLD, retriever=config.retriever, **plain)
    else:
        model = baselines.build(config, source=source, precision=precision, device=device, **plain)
    model.backbone.gradient_checkpointing = config.compute.gradient_checkpointing
    return model, tokenizer
