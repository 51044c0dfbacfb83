"""The dense retriever: how similar each context is to each soft prompt (Eq. 1)."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spt_core.seeding import generator


class DenseRetriever(nn.Module):
    """Two linear layers, lin_C and lin_sp, averaged over length and compared by cosine.

    A linear layer commutes with an average, so both inputs are averaged first: B + K rows go through the layers
    instead of B * M + K * L.

    Args:
        width: D, the width of the backbone's embeddings and of both layers.
        seed: the trial's seed.
    """

    def __init__(self, *, width: int, seed: int) -> None:
        super().__init__()
        self.context_projection = _seeded_linear(width, generator(seed, "retriever", "context"))
        self.prompt_projection = _seeded_linear(width, generator(seed, "retriever", "prompt"))

    def forward(self, context_BMD: Tensor, context_mask_BM: Tensor, prompts_KLD: Tensor) -> Tensor:
        """Cosine between each context and each prompt, before the activation.

        Args:
            context_BMD: the backbone's input embeddings of the context.
            context_mask_BM: 1 where a context token is, 0 where padding is.
            prompts_KLD: the soft prompts.

        Returns:
            [B, K], in [-1, 1]. A row depends on its own context only, not on padding nor on its batch.
        """
        # The mean is taken in float64: it then rounds to the same float32 whatever padding stands beside the tokens,
        # so that the argmax over prompts cannot turn on it.
        mask_BM1 = context_mask_BM.unsqueeze(-1).double()
        mean_BD = ((context_BMD.double() * mask_BM1).sum(1) / mask_BM1.sum(1)).float()
        context_BD = F.normalize(self.context_projection(mean_BD), dim=-1)
        prompt_KD = F.normalize(self.prompt_projection(prompts_KLD.mean(1)), dim=-1)
        return context_BD @ prompt_KD.T


def _seeded_linear(width: int, source: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, width)
    bound = width**-0.5  # torch's own initialisation of a linear layer, from our own stream
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=source)
        layer.bias.uniform_(-bound, bound, generator=source)
    return layer
