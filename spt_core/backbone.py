"""The frozen language model: its precision, log-probabilities of responses, and generation.

It alone chooses the layers that run: those of `cpu.llama` if they support model and device, else transformers'.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spt_core import weights
from spt_core.cpu import attention, llama
from spt_core.fields import PRECISIONS
from spt_core.weights import Source

_HALVES = frozenset({"bfloat16", "float16"})
_LOGITS_AT_ONCE = 2**24
"""Most logits in memory at once where they are computed in parts: 64 MiB of float32."""
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "repetition_penalty": None,
}
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_precision(precision: str, device_type: str) -> str:
    """The precision for a device; `auto` is the fastest that it computes natively, without emulation.

    Args:
        precision: `auto` or one of float64, float32, bfloat16, float16.
        device_type: `cpu` or `cuda`.

    Raises:
        ValueError: float16 on a CPU, which has no gradient scaler here and would be slower than float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"backbone.precision = {precision!r}: it should be one of {', '.join(PRECISIONS)}")
    if precision == "float16" and device_type == "cpu":
        raise ValueError("backbone.precision = 'float16' on a CPU: use 'auto', 'bfloat16' or 'float32'")
    if precision != "auto":
        return precision
    if device_type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


class Backbone(nn.Module):
    """A frozen causal language model in eval mode, reached through its input embeddings.

    Args:
        model: any `AutoModelForCausalLM` that takes `inputs_embeds`, `position_ids` and `logits_to_keep`.
        precision: `float64`, `float32`, `bfloat16` or `float16`: the arithmetic of the matrix products. The residual
            stream and the log-probabilities are float32 (float64 under float64).
        exact: the same model in the dtype of the residual stream, if that differs from the dtype of `model`.

    Attributes:
        dtype: dtype of embeddings, log-probabilities and trained parameters.
        gradient_checkpointing: save only the input of each layer, and compute the rest again in the backward pass.
    """

    def __init__(self, model: Any, *, precision: str, exact: Any = None) -> None:
        from transformers.modeling_layers import GradientCheckpointingLayer

        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.precision = precision
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self._exact = (model if exact is None else exact.requires_grad_(False).eval(),)  # no second set of modules
        self.gradient_checkpointing = False
        self._head_is_plain: bool | None = None
        for layer in model.modules():
            if precision == "float64" and hasattr(layer, "variance_epsilon"):
                # transformers normalises in float32 under every precision.
                layer.forward = functools.partial(
                    F.rms_norm, normalized_shape=layer.weight.shape, weight=layer.weight, eps=layer.variance_epsilon
                )
            if isinstance(layer, GradientCheckpointingLayer):
                # transformers checkpoints only in train mode, which would switch dropout on.
                layer.forward = functools.partial(self._run_layer, layer.forward)

    def _run_layer(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return forward(*args, **kwargs)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode: the backbone is never trained."""
        return super().train(False)

    @contextlib.contextmanager
    def dropping_out(self, seed: int) -> Iterator[None]:
        """A context with the model's dropout on, its masks drawn from a seed; it leaves the random state unchanged."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            self.model.train()
            try:
                yield
            finally:
                self.model.eval()

    @property
    def width(self) -> int:
        """D, the width of the input embeddings."""
        return self.vocabulary.shape[1]

    @property
    def vocabulary(self) -> Tensor:
        """Input embeddings of all tokens, [V, D]."""
        embeddings: Tensor = self.model.get_input_embeddings().weight
        return embeddings

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return torch.device(self.model.device)

    def embed(self, token_ids_BT: Tensor) -> Tensor:
        """Input embeddings, [B, T, D], in `dtype`."""
        with torch.no_grad():
            embedding_BTD: Tensor = self.model.get_input_embeddings()(token_ids_BT).to(self.dtype)
        return embedding_BTD

    def response_logp(self, inputs_NTD: Tensor, mask_NT: Tensor, response_NR: Tensor) -> Tensor:
        """Log-probability of each of the last R tokens of a sequence given all tokens before it.

        Logits are computed only for the R positions that predict the response.

        Args:
            inputs_NTD: prompt, context and response embeddings; the last R columns are the response.
            mask_NT: 1 where a column is attended to.
            response_NR: the response's token ids; any valid id where it is padding.

        Returns:
            [N, R], in `dtype`, in nats.
        """
        num_tokens = response_NR.shape[1]
        with self._autocast():
            logits_NRV = self.model(
                inputs_embeds=inputs_NTD,
                attention_mask=mask_NT,
                position_ids=positions(mask_NT),
                logits_to_keep=num_tokens + 1,
                use_cache=False,
            ).logits[:, :-1]
        return _logp(logits_NRV.to(self.dtype), response_NR)

    def prompted_logp(
        self, prompts_KLD: Tensor, prompt_N: Tensor, text_NTD: Tensor, mask_NT: Tensor, response_NR: Tensor
    ) -> Tensor:
        """`response_logp` of texts behind soft prompts; computed by `cpu.llama` if it supports the model.

        Args:
            prompts_KLD: soft prompts; L may be 0.
            prompt_N: the prompt in front of each text.
            text_NTD: context and response embeddings; the last R columns are the response.
            mask_NT: 1 where a token of the text is; the tokens of a row are contiguous.
            response_NR: the response's token ids; any valid id where it is padding.

        Returns:
            [N, R], in `dtype`, in nats. Only values where the mask is 1 have a meaning.
        """
        (exact,) = self._exact
        if not prompts_KLD.shape[1] or exact.dtype != self.dtype or not llama.is_supported(self.model):
            return self.response_logp(*in_front(prompts_KLD, prompt_N, text_NTD, mask_NT), response_NR)
        is_token_NR = mask_NT[:, mask_NT.shape[1] - response_NR.shape[1] :].bool()
        hidden_QD = llama.hidden(
            self.model,
            prompts_KLD,
            prompt_N,
            text_NTD,
            mask_NT,
            exact=exact,
            num_response=response_NR.shape[1],
            checkpointing=self.gradient_checkpointing,
        )
        head = self.model.get_output_embeddings()
        logp_Q = _logp(head(hidden_QD.to(head.weight.dtype)).to(self.dtype), response_NR[is_token_NR])
        return logp_Q.new_zeros(response_NR.shape).masked_scatter(is_token_NR, logp_Q)

    def mixed_logp(
        self, inputs_NTD: Tensor, mask_NT: Tensor, response_BR: Tensor, weights_BK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities under each prompt, and under the weighted sum of the prompts' logits.

        Logits of the vocabulary are in memory for a few tokens at a time, in the backward pass too.

        Args:
            inputs_NTD: embeddings, the K prompts of a context in neighbouring rows; the last R columns are the
                response.
            mask_NT: 1 where a column is attended to.
            response_BR: the response's token ids; any valid id where it is padding.
            weights_BK: weight of each prompt's logits; they need not sum to 1.

        Returns:
            [B, K, R] and [B, R], in `dtype`, in nats.

        Raises:
            ValueError: the logits of this model are not one linear layer of its last hidden state.
        """
        num_rows, num_prompts = weights_BK.shape
        num_tokens = response_BR.shape[1]
        with self._autocast():
            hidden_NTD = self.model.base_model(
                inputs_embeds=inputs_NTD, attention_mask=mask_NT, position_ids=positions(mask_NT), use_cache=False
            )[0]
            self._require_plain_head()
            hidden_BKRD = hidden_NTD[:, -num_tokens - 1 : -1].unflatten(0, (num_rows, num_prompts))
            head = self.model.get_output_embeddings()

            def of_tokens(hidden_BKrD: Tensor, target_Br: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
                logits_BKrV = head(hidden_BKrD).to(self.dtype)
                fused_BrV = torch.einsum("bk,bkrv->brv", weights, logits_BKrV)
                return _logp(logits_BKrV, target_Br.unsqueeze(1).expand(-1, num_prompts, -1)), _logp(
                    fused_BrV, target_Br
                )

            each = max(1, _LOGITS_AT_ONCE // (num_rows * num_prompts * head.weight.shape[0]))
            parts = [
                checkpoint(of_tokens, hidden, target, weights_BK, use_reentrant=False)
                for hidden, target in zip(
                    torch.split(hidden_BKRD, each, 2), torch.split(response_BR, each, 1), strict=True
                )
            ]
        return torch.cat([logp for logp, _ in parts], -1), torch.cat([fused for _, fused in parts], -1)

    @torch.no_grad()
    def _require_plain_head(self) -> None:
        """Check, once a model, that its logits are its head's output, so that they can be computed in parts."""
        if self._head_is_plain is None:
            ids_BT = torch.arange(3, device=self.device).unsqueeze(0)
            hidden = self.model.base_model(ids_BT, use_cache=False)[0]
            logits = self.model(ids_BT, use_cache=False).logits
            self._head_is_plain = torch.allclose(self.model.get_output_embeddings()(hidden), logits, rtol=1e-3)
        if not self._head_is_plain:
            raise ValueError(
                f"losses.fusion.of = 'weighted_logits': {type(self.model).__name__} does more to its last hidden state "
                "than one linear layer, which is not supported; use 'probabilities'"
            )

    @torch.no_grad()
    def generate(self, inputs_NTD: Tensor, mask_NT: Tensor, *, max_new_tokens: int, eos_id: int, **options: Any) -> Any:
        """Continuation of each row, greedy unless the options say otherwise.

        Args:
            inputs_NTD: prompt and left-padded context embeddings.
            mask_NT: 1 where a column is attended to.
            max_new_tokens: most tokens to add.
            eos_id: the token that ends a row; the rest of the row is filled with it.
            options: options of transformers' `generate`.

        Returns:
            Token ids, [N, at most max_new_tokens], unless the options select another kind of result.
        """
        with self._autocast():
            return self.model.generate(
                inputs_embeds=inputs_NTD,
                attention_mask=mask_NT,
                max_new_tokens=max_new_tokens,
                eos_token_id=eos_id,
                pad_token_id=eos_id,
                **{**_GREEDY, **options},
            )

    def _autocast(self) -> Any:
        half = self.precision in _HALVES
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision], enabled=half)


def _logp(logits_V: Tensor, token: Tensor) -> Tensor:
    """Log-probability of tokens: logits with a last axis V to the same shape without it."""
    chosen: Tensor = logits_V.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    return chosen - logits_V.logsumexp(-1)


def in_front(prompts_KLD: Tensor, prompt_N: Tensor, text_NTD: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and mask of texts with their soft prompts before BOS, and before the left padding.

    Args:
        prompts_KLD: soft prompts; L may be 0.
        prompt_N: the prompt of each text.
        text_NTD: embeddings.
        mask_NT: 1 where a column of the text is attended to.

    Returns:
        [N, L + T, D] and [N, L + T].
    """
    prompt_NLD = prompts_KLD[prompt_N]
    prompt_mask_NL = mask_NT.new_ones(prompt_NLD.shape[:2])
    return torch.cat([prompt_NLD, text_NTD], dim=1), torch.cat([prompt_mask_NL, mask_NT], dim=1)


def positions(mask_NT: Tensor) -> Tensor:
    """Position of each attended column, [N, T], from 0; padding has the position of its left neighbour, or 0."""
    return (mask_NT.long().cumsum(-1) - 1).clamp(min=0)


@functools.lru_cache(maxsize=1)
def load(source: Source, *, precision: str, device: str) -> Backbone:
    """Load a backbone that trials share: the last one is cached for the next trial of the process.

    Args:
        source: from `weights.resolve`.
        precision: from `resolve_precision`.
        device: `cpu`, `cuda`, `cuda:1`.
    """
    model = _load(source, _DTYPES[precision]).to(device)
    exact = _load(source, torch.float32) if precision == "bfloat16" and llama.is_supported(model) else None
    return Backbone(model, precision=precision, exact=exact)


def load_own(source: Source, *, precision: str, device: str) -> Backbone:
    """Load a backbone that is not shared, so that layers may be added to it. Arguments as of `load`."""
    return Backbone(_load(source, _DTYPES[precision]).to(device), precision=precision)


def _load(source: Source, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    attention.register()
    with weights.quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(
            weights.folder_in(source, dtype),
            revision=source.revision,
            dtype=dtype,
            attn_implementation=attention.NAME,
        )
