"""The parts of a trial's config: every field, its default and its meaning.

Where the paper and the released code differ, the default is the paper's (docs/notation.md has the table).
"""

import contextlib
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Precision = Literal["auto", "float64", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
Activation = Literal["softplus", "released_softplus", "none"]
SELECT_BY = Literal[
    "nll", "objective", "f1", "bleu", "rouge_1", "rouge_2", "rouge_l", "bert_f1", "dist_1", "dist_2", "dist_avg"
]


class Part(BaseModel):
    """A frozen part of a config: unknown fields are refused, numbers must be finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class BackboneConfig(Part):
    """The frozen language model."""

    name: str = Field("bundled:smollm2-135m", min_length=1)
    """A Hub id, a folder, or `bundled:smollm2-135m`."""
    revision: str | None = None
    """Hub revision; the commit that it resolves to is part of the trial's identity."""
    precision: Precision = "auto"
    """Arithmetic of the frozen model. Soft prompts, retriever and losses are float32, and float64 under float64."""
    dropout: bool = False
    """Keep the model's dropout on in training, as in the released code, with a different mask for each prompt."""


class DataConfig(Part):
    """The sources of the dialogues, and the number of responses of each split."""

    train: str = Field("sample:train", min_length=1)
    """Source of the training and dev dialogues (see `conversations.load`)."""
    test: str = Field("sample:valid", min_length=1)
    """Source of the test dialogues, on which a trial is evaluated once, at its end."""
    dev_dialogues: int = Field(100, ge=1)
    """Dialogues carved from the training source for dev, with personas disjoint from the rest."""
    split_seed: int = Field(0, ge=0)
    """Seed of the dev split and of the choice of responses below; the same in every trial of a sweep."""
    max_dev_responses: int | None = Field(None, ge=1)
    """Dev responses scored at each evaluation; all when None."""
    max_test_responses: int | None = Field(None, ge=1)
    """Test responses decoded and scored; all when None."""
    max_tokens: int = Field(512, ge=16)
    """Most tokens of context plus response; the context is cut from the left (BOS stays)."""
    boundary: Literal["joint", "released"] = "joint"
    """Tokens that decoding continues: those before the response in training, or, as in the released code, those of the
    text that ends in `R: ` with its space, which do not occur in training."""
    train_eos: bool = True
    """Whether the end of sequence is a token of the response."""


class PromptsConfig(Part):
    """The soft prompt group."""

    num_prompts: int = Field(4, ge=1)
    """K, the number of soft prompts."""
    prompt_length: int = Field(8, ge=1)
    """L, the number of virtual tokens of each."""
    init: Literal["gaussian", "vocabulary", "text"] = "gaussian"
    """Standard Gaussian (the paper), the embeddings of random tokens, or those of `init_text`."""
    init_text: str | None = None
    """Prompt k starts at the tokens k * L, k * L + 1, ... of this text, which is repeated as needed."""

    @model_validator(mode="after")
    def _text_where_it_is_read(self) -> "PromptsConfig":
        if self.init == "text" and not (self.init_text or "").strip():
            raise ValueError("init is 'text' and init_text is empty: give it a text, or use init='vocabulary'")
        return self


class RetrieverConfig(Part):
    """How the similarity of a context to each prompt is computed (Eq. 1)."""

    projections: Literal["separate", "shared"] = "separate"
    """lin_C and lin_sp as two layers, or one layer applied to both."""
    reads: Literal["context", "sequence"] = "context"
    """Text that it reads in training; `sequence` includes the response, which is absent at inference."""
    masked: bool = True
    """Average over tokens alone. If false, also over padding: in training up to `data.max_tokens` columns, at inference
    those of the batch, so that the selected prompt depends on the other rows of the batch."""
    activation: Activation = "softplus"
    """From cosine to similarity: softplus, the released softplus (beta 10, threshold 1: not monotone), or none."""


class SoftPromptTerm(Part):
    """Eq. 2, weighted by lambda_4."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)
    reduction: Literal["sum_over_prompts", "mean"] = "sum_over_prompts"
    """Reduction over prompts; over the tokens of the batch it is always the mean."""


class ContrastiveTerm(Part):
    """Eq. 4, weighted by lambda_1."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)
    threshold: float | str = 20.0
    """Gamma: contexts whose similarity M is above it form a positive pair (0 to 100), or `quantile:0.9` for that
    quantile of M over pairs of training contexts."""
    similarity: str = "bleu"
    """M: `bleu`, `rouge_l`, `embedding` (cosine by the bundled encoder), or `embedding:` and the name of an encoder."""
    text: Literal["context", "persona"] = "context"
    """Text that M compares: persona and history, or the persona alone."""
    scores: Literal["activated", "raw"] = "activated"
    """The score vectors that are compared: after the activation, or the cosines before it."""
    reduction: Literal["mean", "sum"] = "mean"
    """Reduction over the pairs."""
    group_size: int | None = Field(None, ge=2)
    """Form pairs only within groups of so many contexts of a batch, as separate GPUs do; None: in the whole batch."""

    @field_validator("threshold")
    @classmethod
    def _on_its_scale(cls, value: float | str) -> float | str:
        if isinstance(value, str):
            kind, _, share = value.partition(":")
            with contextlib.suppress(ValueError):
                if kind == "quantile" and 0 < float(share) < 1:
                    return value
        elif 0 <= value <= 100:
            return value
        raise ValueError(
            "it should be greater than or equal to 0 and less than or equal to 100, or a quantile of the training "
            "pairs such as 'quantile:0.9'"
        )

    @field_validator("similarity")
    @classmethod
    def _is_known(cls, value: str) -> str:
        measure, colon, encoder = value.partition(":")
        if value not in {"bleu", "rouge_l", "embedding"} and not (measure == "embedding" and colon and encoder):
            raise ValueError("it should be bleu, rouge_l, embedding, or embedding: and the name of an encoder")
        return value


class SelectionTerm(Part):
    """Eq. 3, weighted by lambda_2."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)
    tau_g: float = Field(1.0, gt=0)
    """Temperature of the target softmax(-NLL / tau_g)."""
    tau_s: float = Field(1.0, gt=0)
    """Temperature of the retriever's softmax(S / tau_s)."""
    direction: Literal["target_to_scores", "scores_to_target"] = "target_to_scores"
    """KL(target || softmax(S / tau_s)), or KL(softmax(S / tau_s) || target)."""
    nll: Literal["mean", "sum"] = "mean"
    """The NLL in the target: mean per response token, or their sum."""
    target_noise: float = Field(0.0, ge=0)
    """Standard deviation of Gaussian noise that is added to the target's logits."""


class FusionTerm(Part):
    """Eq. 5, weighted by lambda_3."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)
    of: Literal["probabilities", "weighted_logits"] = "probabilities"
    """The mean of the K distributions (the paper), or the sum of the K logits weighted by similarity, which also trains
    the retriever (the released code)."""


class LossesConfig(Part):
    """The four terms of Eq. 6."""

    soft_prompt: SoftPromptTerm = SoftPromptTerm()
    contrastive: ContrastiveTerm = ContrastiveTerm()
    selection: SelectionTerm = SelectionTerm()
    fusion: FusionTerm = FusionTerm()

    @model_validator(mode="after")
    def _some_term_trains_the_prompts(self) -> "LossesConfig":
        if not any(term.enabled and term.weight > 0 for term in (self.soft_prompt, self.fusion)):
            raise ValueError(
                "soft_prompt and fusion are both off (or of weight 0), so nothing would train the prompts: "
                "leave one of losses.soft_prompt and losses.fusion on"
            )
        return self


class OptimConfig(Part):
    """Adam with a constant learning rate, as in Table 6."""

    learning_rate: float = Field(0.01, gt=0)
    batch_size: int = Field(8, ge=1)
    """Contexts in one step, over all workers."""
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)
    """Most optimisation steps, also if the epochs are not complete."""
    order: Literal["each_epoch", "once"] = "each_epoch"
    """Draw a new order of batches for each epoch, or one order for all epochs, as in the released code."""
    patience: int | None = Field(None, ge=1)
    """Stop after this number of successive evaluations without improvement; None: do not stop early."""


class EvaluationConfig(Part):
    """When dev is scored, the criterion that chooses the checkpoint, and how test responses are decoded and scored."""

    split: Literal["test", "dev", "none"] = "test"
    """Split that is decoded and scored at the end. A search uses dev or none, because test must not decide a choice."""
    every_steps: int | None = Field(None, ge=1)
    """Score dev after every so many steps, and always at the start, after each epoch and at the end."""
    select_by: SELECT_BY = "nll"
    """Criterion on dev that chooses the checkpoint: NLL under the selected prompt, the training objective, or a metric
    of the decoded replies (then each evaluation decodes dev)."""
    batch_size: int = Field(16, ge=1)
    max_new_tokens: int = Field(32, ge=1)
    generation: dict[str, bool | int | float] = Field(default_factory=dict)
    """Options of transformers' `generate`, such as `{"num_beams": 4}`; without any, decoding is greedy."""
    cut: bool = True
    """Cut a reply at the first `R:`, `Q:`, `Summary:`, newline or colon, as in the released code."""
    controls: bool = False
    """Decode under every prompt, so that the routing controls (a random prompt, each fixed one, a rule by turn,
    shuffled contexts, the prompt of least NLL) have replies and not only NLLs."""
    bert_encoder: str | None = "bundled:minilm-l6"
    """Encoder of BERTScore (the paper's is `microsoft/deberta-xlarge-mnli`); None omits BERTScore."""

    @model_validator(mode="after")
    def _an_encoder_where_it_chooses(self) -> "EvaluationConfig":
        if self.select_by == "bert_f1" and self.bert_encoder is None:
            raise ValueError("select_by is 'bert_f1' and bert_encoder is None: name an encoder, or choose by another")
        return self


class LoraConfig(Part):
    """Low-rank updates of the backbone's layers (through peft): the baseline of Table 4."""

    rank: int | None = Field(None, ge=1)
    """None: the rank whose number of parameters is nearest to that of SPT with the same `prompts`."""
    scaling: float = Field(2.0, gt=0)
    """alpha / rank."""
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    """Linear layers with an update, by the last part of their names."""


class InContextConfig(Part):
    """An instruction and solved examples before the context, without training: the GPT-3.5 row of Table 4."""

    num_examples: int = Field(0, ge=0)
    """Training replies shown with their contexts; 0 is zero-shot."""
    instruction: str = "Continue the dialogue as the person whose persona is given, with one short reply."
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server that replies instead of the backbone; its key comes from the
    environment (OPENAI_API_KEY). Such a trial has no NLL."""
    endpoint_model: str | None = None
    """Name of the model on the server."""

    @model_validator(mode="after")
    def _a_server_serves_a_model(self) -> "InContextConfig":
        if self.endpoint is not None and self.endpoint_model is None:
            raise ValueError("endpoint is set and endpoint_model is not: name the model that the server should use")
        return self


class ComputeConfig(Part):
    """The layout of the computation. It does not change the mathematics, so it is not part of the identity."""

    micro_batch_size: int | None = Field(None, ge=1)
    """Contexts of one worker that go through the backbone at once; None: all of them."""
    prompts_per_pass: int | None = Field(None, ge=1)
    """Soft prompts that go through the backbone at once; None: all K. Memory does not grow with K beyond it."""
    gradient_checkpointing: bool = False
    """Save only the input of each layer, and compute the rest again in the backward pass."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch in each worker; None: one for each CPU of the worker."""
