"""The model: a frozen backbone behind a group of soft prompts, and the retriever that picks one (Figure 1)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spt_core import backbone as backbones
from spt_core.backbone import Backbone
from spt_core.batching import Batch
from spt_core.config import TrialConfig
from spt_core.losses import Scores
from spt_core.prompts import SoftPromptGroup
from spt_core.retriever import DenseRetriever


@dataclass(frozen=True)
class Part:
    """A rectangle of a batch's scores: which rows, under which prompts."""

    rows: slice
    prompts: slice


class SelectivePromptModel(nn.Module):
    """Soft prompts and retriever over a frozen backbone.

    Args:
        backbone: the frozen language model.
        num_prompts: K.
        prompt_length: L.
        seed: of the initialisation.
    """

    def __init__(self, backbone: Backbone, *, num_prompts: int, prompt_length: int, seed: int) -> None:
        super().__init__()
        # Kept out of the module tree: the backbone is shared between trials, is never trained, and is no part of
        # the adapter's state.
        self._backbone = (backbone,)
        self.prompts = SoftPromptGroup(
            num_prompts=num_prompts, prompt_length=prompt_length, width=backbone.width, seed=seed
        )
        self.retriever = DenseRetriever(width=backbone.width, seed=seed)
        self.to(backbone.device)

    @property
    def backbone(self) -> Backbone:
        """The frozen language model."""
        return self._backbone[0]

    @property
    def num_prompts(self) -> int:
        """K."""
        return self.prompts.embedding_KLD.shape[0]

    def forward(self, batch: Batch) -> Scores:
        """The scores of every row under every prompt."""
        cosine_BK = self.cosine(batch)
        logp_BKR = self.token_logp(batch, self._every_prompt(batch))
        return Scores(cosine_BK, activate(cosine_BK), logp_BKR)

    def cosine(self, batch: Batch) -> Tensor:
        """Cosine of each context and each prompt, [B, K]."""
        context_BMD = self.backbone.embed(batch.token_ids_BT[:, : batch.num_context])
        cosine_BK: Tensor = self.retriever(context_BMD, batch.context_mask_BM, self.prompts())
        return cosine_BK

    def select(self, batch: Batch) -> Tensor:
        """The prompt of the highest similarity for each row, [B] (Eq. 7)."""
        return activate(self.cosine(batch)).argmax(-1)

    def token_logp(self, batch: Batch, prompt_BC: Tensor) -> Tensor:
        """Log-probability of each response token of each row under chosen prompts.

        Args:
            batch: B rows.
            prompt_BC: indices of the C prompts that each row goes under.

        Returns:
            [B, C, R], float32, in nats.
        """
        num_rows, num_chosen = prompt_BC.shape
        inputs_NTD, mask_NT = self._inputs(batch.token_ids_BT, batch.mask_BT, prompt_BC)
        response_NR = batch.response_ids_BR.repeat_interleave(num_chosen, dim=0)
        return self.backbone.response_logp(inputs_NTD, mask_NT, response_NR).view(num_rows, num_chosen, -1)

    def generate(self, batch: Batch, prompt_B: Tensor, *, max_new_tokens: int, eos_id: int) -> Tensor:
        """Greedy replies, each row under its own prompt in one batch; token ids, [B, at most max_new_tokens]."""
        inputs_BTD, mask_BT = self._inputs(
            batch.token_ids_BT[:, : batch.num_context], batch.context_mask_BM, prompt_B.unsqueeze(1)
        )
        return self.backbone.generate(inputs_BTD, mask_BT, max_new_tokens=max_new_tokens, eos_id=eos_id)

    def _inputs(self, token_ids_BT: Tensor, mask_BT: Tensor, prompt_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Soft prompts before BOS (and before the left padding, which the mask hides)."""
        num_chosen = prompt_BC.shape[1]
        prompt_NLD = self.prompts()[prompt_BC.flatten()]
        text_NTD = self.backbone.embed(token_ids_BT).repeat_interleave(num_chosen, dim=0)
        mask_NT = mask_BT.repeat_interleave(num_chosen, dim=0)
        prompt_mask_NL = mask_NT.new_ones(prompt_NLD.shape[:2])
        return torch.cat([prompt_NLD, text_NTD], dim=1), torch.cat([prompt_mask_NL, mask_NT], dim=1)

    def _every_prompt(self, batch: Batch) -> Tensor:
        return torch.arange(self.num_prompts, device=batch.mask_BT.device).expand(len(batch), -1)


def activate(cosine_BK: Tensor) -> Tensor:
    """Similarity from cosine: softplus (Eq. 1), 0.31 to 1.31."""
    return F.softplus(cosine_BK)


def build(config: TrialConfig, *, device: str) -> tuple[SelectivePromptModel, Any]:
    """The model of a config at its initial values, and the backbone's tokenizer.

    Raises:
        ValueError: the backbone cannot be had, or its precision not on this device.
    """
    source = backbones.resolve(config.backbone)
    precision = backbones.resolve_precision(config.backbone.precision, torch.device(device).type)
    model = SelectivePromptModel(
        backbones.load(source, precision=precision, device=device),
        num_prompts=config.prompts.num_prompts,
        prompt_length=config.prompts.prompt_length,
        seed=config.seed,
    )
    return model, backbones.load_tokenizer(source)
