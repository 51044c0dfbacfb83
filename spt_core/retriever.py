"""The dense retriever: the similarity of each context to each soft prompt (Eq. 1)."""

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
        shared: use lin_C for the prompts too, as the released code does.
    """

    def __init__(self, *, width: int, seed: int, shared: bool = False) -> None:
        super().__init__()
        self.context_projection = _seeded_linear(width, generator(seed, "retriever", "context"))
        self.prompt_projection = None if shared else _seeded_linear(width, generator(seed, "retriever", "prompt"))

    def forward(self, context_BD: Tensor, prompts_KLD: Tensor) -> Tensor:
        """Cosine between each context and each prompt, before the activation.

        Args:
            context_BD: the average of the backbone's input embeddings over each context (see `average`).
            prompts_KLD: the soft prompts.

        Returns:
            [B, K], in [-1, 1].
        """
        project_prompt = self.prompt_projection or self.context_projection
        context_BD = F.normalize(self.context_projection(context_BD), dim=-1)
        prompt_KD = F.normalize(project_prompt(prompts_KLD.mean(1)), dim=-1)
        return context_BD @ prompt_KD.T


def average(text_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean embedding of each text over its tokens, [B, D].

    It is computed in float64. It then rounds to the same float32 for any amount of padding, so the argmax over prompts
    does not depend on the padding.

    Args:
        text_BTD: the backbone's input embeddings.
        mask_BT: 1 where a token is, 0 where padding is.
    """
    mask_BT1 = mask_BT.unsqueeze(-1).double()
    return ((text_BTD.double() * mask_BT1).sum(1) / mask_BT1.sum(1)).to(text_BTD.dtype)


def average_with_padding(text_BTD: Tensor, mask_BT: Tensor, padding_D: Tensor, *, num_columns: int) -> Tensor:
    """Mean embedding of each text over its tokens and its padding, [B, D], as in the released code, which has no mask.

    Args:
        text_BTD: the backbone's input embeddings.
        mask_BT: 1 where a token is.
        padding_D: the embedding of the padding token.
        num_columns: number of tokens and padding together in each row.
    """
    mask_BT1 = mask_BT.unsqueeze(-1).double()
    padding_B1 = num_columns - mask_BT1.sum(1)
    return (((text_BTD.double() * mask_BT1).sum(1) + padding_B1 * padding_D.double()) / num_columns).to(text_BTD.dtype)


def activate(cosine_BK: Tensor, activation: str = "softplus") -> Tensor:
    """Similarity from cosine, s of Eq. 1.

    Args:
        cosine_BK: in [-1, 1].
        activation: `softplus` (0.31 to 1.31); `released_softplus`, of beta 10 and threshold 1, which is the identity
            above a cosine of 0.1 and falls from 0.131 to 0.100 there; or `none`.

    Raises:
        ValueError: an activation of another name.
    """
    if activation == "softplus":
        return F.softplus(cosine_BK)
    if activation == "released_softplus":
        return F.softplus(cosine_BK, beta=10, threshold=1)
    if activation == "none":
        return cosine_BK
    raise ValueError(f"activation = {activation!r}: it should be 'softplus', 'released_softplus' or 'none'")


def _seeded_linear(width: int, source: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, width)
    bound = width**-0.5  # torch's own initialisation of a linear layer, from our own stream
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=source)
        layer.bias.uniform_(-bound, bound, generator=source)
    return layer
