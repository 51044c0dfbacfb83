"""The soft prompt group: K prompts of L virtual tokens each, the SP of the paper."""

import torch
from torch import Tensor, nn

from spt_core.seeding import generator


class SoftPromptGroup(nn.Module):
    """K soft prompts, standard Gaussian at the start (section 3 of the paper).

    Each prompt is drawn from its own stream, so prompt k starts at the same values whatever K is, and cells of a K
    sweep with the same seed are paired.

    Args:
        num_prompts: K.
        prompt_length: L, virtual tokens a prompt.
        width: D, the width of the backbone's embeddings.
        seed: the trial's seed.
    """

    def __init__(self, *, num_prompts: int, prompt_length: int, width: int, seed: int) -> None:
        super().__init__()
        rows = [torch.randn(prompt_length, width, generator=generator(seed, "prompt", k)) for k in range(num_prompts)]
        self.embedding_KLD = nn.Parameter(torch.stack(rows))

    def forward(self) -> Tensor:
        """The embeddings of all prompts, [K, L, D]."""
        return self.embedding_KLD
