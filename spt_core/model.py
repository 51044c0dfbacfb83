"""The model: a frozen backbone behind a group of soft prompts, and the retriever that selects one (Figure 1)."""

from typing import Any

import torch
from torch import Tensor, nn

from spt_core.backbone import Backbone, in_front
from spt_core.batching import Batch
from spt_core.fields import RetrieverConfig
from spt_core.losses import Scores
from spt_core.prompts import SoftPromptGroup
from spt_core.retriever import DenseRetriever, activate, average, average_with_padding


class SelectivePromptModel(nn.Module):
    """Soft prompts and retriever over a frozen backbone.

    Args:
        backbone: the frozen language model.
        start_KLD: initial values of the prompts; with L = 0 the model has no prompts.
        retriever: variant of the retriever; None if there is one prompt and nothing to select.
        padding_id: the tokenizer's padding token, whose embedding a retriever without a mask averages too.
        max_tokens: number of columns that such a retriever averages over in training.
        seed: seed of the retriever's initialisation.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        start_KLD: Tensor,
        retriever: RetrieverConfig | None,
        padding_id: int,
        max_tokens: int,
        seed: int,
    ) -> None:
        super().__init__()
        # In a tuple, so that it is no submodule: trials share the backbone, and it is not part of the adapter's state.
        self._backbone = (backbone,)
        self.prompts = SoftPromptGroup(start_KLD)
        self.reading = retriever or RetrieverConfig()
        self.retriever: DenseRetriever | None = None
        if retriever is not None:
            self.retriever = DenseRetriever(width=backbone.width, seed=seed, shared=retriever.projections == "shared")
        self._padding_id, self._max_tokens = padding_id, max_tokens
        self.to(device=backbone.device, dtype=backbone.dtype)

    @property
    def backbone(self) -> Backbone:
        """The frozen language model."""
        return self._backbone[0]

    @property
    def num_prompts(self) -> int:
        """K."""
        return self.prompts.embedding_KLD.shape[0]

    def forward(self, batch: Batch) -> Scores:
        """The scores of every row under every prompt, computed as in training."""
        cosine_BK = self.cosine(batch, training=True)
        logp_BKR = self.token_logp(batch, self._prompts_of(batch, slice(None)))
        return Scores(cosine_BK, self.activate(cosine_BK), logp_BKR)

    def cosine(self, batch: Batch, *, training: bool = False) -> Tensor:
        """Cosine of each context and each prompt, [B, K].

        Args:
            batch: B rows.
            training: read the text that the variant reads in training; at inference the retriever reads the context.
        """
        if self.retriever is None:
            return torch.zeros(len(batch), self.num_prompts, dtype=self.backbone.dtype, device=batch.mask_BT.device)
        columns = slice(None) if training and self.reading.reads == "sequence" else slice(batch.num_context)
        text_BTD, mask_BT = self.backbone.embed(batch.token_ids_BT[:, columns]), batch.mask_BT[:, columns]
        if self.reading.masked:
            mean_BD = average(text_BTD, mask_BT)
        else:
            padding_D = self.backbone.embed(batch.token_ids_BT.new_tensor([self._padding_id]))[0]
            num_columns = self._max_tokens if training else mask_BT.shape[1]
            mean_BD = average_with_padding(text_BTD, mask_BT, padding_D, num_columns=num_columns)
        cosine_BK: Tensor = self.retriever(mean_BD, self.prompts())
        return cosine_BK

    def activate(self, cosine_BK: Tensor) -> Tensor:
        """Similarity from cosine, by the variant's activation."""
        return activate(cosine_BK, self.reading.activation)

    def select(self, batch: Batch) -> Tensor:
        """The prompt of the highest similarity for each row, [B] (Eq. 7)."""
        return self.activate(self.cosine(batch)).argmax(-1)

    def token_logp(self, batch: Batch, prompt_BC: Tensor) -> Tensor:
        """Log-probability of each response token of each row under chosen prompts.

        Args:
            batch: B rows.
            prompt_BC: indices of the C prompts for each row.

        Returns:
            [B, C, R], in nats.
        """
        num_rows, num_chosen = prompt_BC.shape
        response_NR = batch.response_ids_BR.repeat_interleave(num_chosen, dim=0)
        logp_NR = self.backbone.prompted_logp(*self._texts(batch.token_ids_BT, batch.mask_BT, prompt_BC), response_NR)
        return logp_NR.view(num_rows, num_chosen, -1)

    def logp_of(self, batch: Batch, prompts: slice, *, mixed: bool) -> tuple[Tensor, ...]:
        """The log-probabilities that the losses need, for some of the prompts.

        Args:
            batch: B rows.
            prompts: which of the K prompts.
            mixed: also compute those of the sum of all K prompts' logits weighted by similarity, which trains the
                retriever.

        Returns:
            `token_logp_BKR` and, if mixed, `fused_logp_BR` of `Scores`.
        """
        prompt_BK = self._prompts_of(batch, prompts)
        if not mixed:
            return (self.token_logp(batch, prompt_BK),)
        inputs_NTD, mask_NT = self._inputs(batch.token_ids_BT, batch.mask_BT, prompt_BK)
        weights_BK = self.activate(self.cosine(batch, training=True))
        return self.backbone.mixed_logp(inputs_NTD, mask_NT, batch.response_ids_BR, weights_BK)

    def generate(self, batch: Batch, prompt_B: Tensor, *, max_new_tokens: int, eos_id: int, **options: Any) -> Tensor:
        """Generate replies, each row with its own prompt in one batch; token ids, [B, at most max_new_tokens].

        Args:
            batch: contexts to continue.
            prompt_B: the prompt of each row.
            max_new_tokens: most tokens of a reply.
            eos_id: the token that ends a reply.
            options: options of transformers' `generate`; without any, decoding is greedy.
        """
        inputs_BTD, mask_BT = self._inputs(
            batch.token_ids_BT[:, : batch.num_context], batch.context_mask_BM, prompt_B.unsqueeze(1)
        )
        tokens_BR: Tensor = self.backbone.generate(
            inputs_BTD, mask_BT, max_new_tokens=max_new_tokens, eos_id=eos_id, **options
        )
        return tokens_BR

    def _inputs(self, token_ids_BT: Tensor, mask_BT: Tensor, prompt_BC: Tensor) -> tuple[Tensor, Tensor]:
        return in_front(*self._texts(token_ids_BT, mask_BT, prompt_BC))

    def _texts(self, token_ids_BT: Tensor, mask_BT: Tensor, prompt_BC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All prompts, then for each row and chosen prompt: the prompt's index, the text and the mask."""
        text_NTD = self.backbone.embed(token_ids_BT).repeat_interleave(prompt_BC.shape[1], dim=0)
        return self.prompts(), prompt_BC.flatten(), text_NTD, mask_BT.repeat_interleave(prompt_BC.shape[1], dim=0)

    def _prompts_of(self, batch: Batch, prompts: slice) -> Tensor:
        return torch.arange(self.num_prompts, device=batch.mask_BT.device)[prompts].expand(len(batch), -1)
