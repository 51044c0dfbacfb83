"""The soft prompt group, the SP of the paper: K prompts of L virtual tokens each, and their initial values."""

from typing import Any

import torch
from torch import Tensor, nn

from spt_core.fields import PromptsConfig
from spt_core.seeding import generator


class SoftPromptGroup(nn.Module):
    """K soft prompts.

    Args:
        start_KLD: their values before the first step (see `initial_embedding`).
    """

    def __init__(self, start_KLD: Tensor) -> None:
        super().__init__()
        self.embedding_KLD = nn.Parameter(start_KLD.float())

    def forward(self) -> Tensor:
        """The embeddings of all prompts, [K, L, D]."""
        return self.embedding_KLD


def initial_embedding(config: PromptsConfig, *, vocabulary_VD: Tensor, tokenizer: Any, seed: int) -> Tensor:
    """The initial values of the prompts: standard Gaussian (section 3 of the paper), random tokens, or a text.

    Each prompt has its own random stream, or its own part of the text. So prompt k has the same initial values for
    every K, and cells of a K sweep with the same seed are paired.

    Args:
        config: K, L and the kind of initialisation.
        vocabulary_VD: the backbone's input embeddings.
        tokenizer: of the backbone; used for a text alone.
        seed: the trial's seed.

    Returns:
        [K, L, D], float32.

    Raises:
        ValueError: the text gives two prompts the same initial values, and they would stay equal.
    """
    streams = [generator(seed, "prompt", k) for k in range(config.num_prompts)]
    num_tokens, width = vocabulary_VD.shape
    if config.init == "gaussian":
        return torch.stack([torch.randn(config.prompt_length, width, generator=stream) for stream in streams])
    if config.init == "vocabulary":
        rows = [torch.randint(num_tokens, (config.prompt_length,), generator=stream) for stream in streams]
    else:
        text = tokenizer(config.init_text, add_special_tokens=False)["input_ids"]
        length = config.prompt_length
        rows = [
            torch.tensor([text[(k * length + i) % len(text)] for i in range(length)]) for k in range(config.num_prompts)
        ]
        if len({tuple(row.tolist()) for row in rows}) < config.num_prompts:
            raise ValueError(
                f"prompts.init_text = {config.init_text!r}: its {len(text)} tokens give two of the "
                f"{config.num_prompts} prompts of {length} the same start; use a longer text"
            )
    return vocabulary_VD[torch.stack(rows).to(vocabulary_VD.device)].float()
