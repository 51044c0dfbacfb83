"""What a trial is: one frozen, validated value, its canonical form and its hash.

Everything that can change a result is a field here. What cannot (the number of workers, chunking that recomputes the
same gradient) is in `ComputeConfig`, which the canonical form leaves out.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class _Part(BaseModel):
    """A frozen part of a config: unknown fields are refused, numbers must be finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class BackboneConfig(_Part):
    """The frozen language model."""

    name: str = Field("bundled:smollm2-135m", min_length=1)
    """A Hub id, a folder, or `bundled:smollm2-135m`."""
    revision: str | None = None
    """Hub revision; the commit that it resolves to is part of the trial's identity."""
    precision: Precision = "auto"
    """Arithmetic of the frozen model; soft prompts, retriever and losses are always float32."""


class DataConfig(_Part):
    """Where the dialogues come from and how many responses of each split are used."""

    train: str = Field("sample:train", min_length=1)
    """Source of the training and dev dialogues (see `conversations.load`)."""
    test: str = Field("sample:valid", min_length=1)
    """Source of the test dialogues, read once by a trial, at its end."""
    dev_dialogues: int = Field(100, ge=1)
    """Dialogues carved from the training source for dev, with personas disjoint from the rest."""
    split_seed: int = Field(0, ge=0)
    """Seed of that carving and of the choice of responses below; the same in every trial of a sweep."""
    max_dev_responses: int | None = Field(None, ge=1)
    """Dev responses scored at each evaluation; all when None."""
    max_test_responses: int | None = Field(None, ge=1)
    """Test responses decoded and scored; all when None."""
    max_tokens: int = Field(512, ge=16)
    """Most tokens of context plus response; the context is cut from the left (BOS stays)."""


class PromptsConfig(_Part):
    """The soft prompt group."""

    num_prompts: int = Field(4, ge=1)
    """K, the number of soft prompts."""
    prompt_length: int = Field(8, ge=1)
    """L, the number of virtual tokens of each."""


class SoftPromptTerm(_Part):
    """Eq. 2, weighted by lambda_4."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)


class ContrastiveTerm(_Part):
    """Eq. 4, weighted by lambda_1."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)
    threshold: float = Field(20.0, ge=0, le=100)
    """Gamma: contexts whose similarity M is above it form a positive pair (0 to 100)."""


class SelectionTerm(_Part):
    """Eq. 3, weighted by lambda_2."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)
    tau_g: float = Field(1.0, gt=0)
    """Temperature of the target softmax(-NLL / tau_g)."""
    tau_s: float = Field(1.0, gt=0)
    """Temperature of the retriever's softmax(S / tau_s)."""


class FusionTerm(_Part):
    """Eq. 5, weighted by lambda_3."""

    enabled: bool = True
    weight: float = Field(1.0, ge=0)


class LossesConfig(_Part):
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


class OptimConfig(_Part):
    """Adam with a constant learning rate, as Table 6."""

    learning_rate: float = Field(0.01, gt=0)
    batch_size: int = Field(8, ge=1)
    """Contexts in one step, over all workers."""
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many optimisation steps, whatever the epochs say."""


class EvaluationConfig(_Part):
    """When dev is scored, and how the test responses are decoded and scored."""

    every_steps: int | None = Field(None, ge=1)
    """Score dev every so many steps, beside the start and the end; None: at the end of each epoch."""
    batch_size: int = Field(16, ge=1)
    max_new_tokens: int = Field(32, ge=1)
    bert_encoder: str | None = "bundled:minilm-l6"
    """Encoder of BERTScore (`microsoft/deberta-xlarge-mnli` is the paper's); None leaves it out."""


class ComputeConfig(_Part):
    """How the arithmetic is laid out; none of it changes the mathematics, so it is not part of the identity."""

    micro_batch_size: int | None = Field(None, ge=1)
    """Contexts of one worker that go through the backbone at once; None: all of them."""
    prompts_per_pass: int | None = Field(None, ge=1)
    """Soft prompts that go through the backbone at once; None: all K. Memory does not grow with K beyond it."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of torch in each worker; None: one per CPU the worker was given."""


class TrialConfig(_Part):
    """One trial, whole: two equal canonical forms on the same data and model are the same trial."""

    backbone: BackboneConfig = BackboneConfig()
    data: DataConfig = DataConfig()
    prompts: PromptsConfig = PromptsConfig()
    losses: LossesConfig = LossesConfig()
    optim: OptimConfig = OptimConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()
    seed: int = Field(0, ge=0)
    """Seed of initialisation and of the order of batches; paired across the cells of a sweep."""

    def override(self, values: Mapping[str, Any]) -> "TrialConfig":
        """This config with the fields at the given dotted paths replaced.

        Args:
            values: for example `{"optim.learning_rate": 0.001, "seed": 3}`.

        Raises:
            ValueError: a path that does not exist, or a value that its field refuses; names field, value and cure.
        """
        tree = self.model_dump()
        for path, value in values.items():
            *parents, leaf = path.split(".")
            branch: Any = tree
            for parent in parents:
                branch = branch.get(parent) if isinstance(branch, dict) else None
            if not isinstance(branch, dict) or leaf not in branch:
                raise ValueError(f"unknown field {path!r}{_nearest(path, self.field_paths())}")
            if isinstance(branch[leaf], dict):
                raise ValueError(f"{path!r} is a group of fields: set one of {', '.join(self.field_paths(path))}")
            branch[leaf] = value
        return parse(tree)

    @classmethod
    def field_paths(cls, under: str = "") -> list[str]:
        """Dotted paths of all fields, in order; only those below `under` if it is given."""
        prefix = f"{under}." if under else ""
        return [path for path in flatten(cls()) if path.startswith(prefix)]

    def canonical(self) -> "TrialConfig":
        """The representative of all configs that compute the same trial.

        Folded: a term of weight 0 is off; the parameters of a term that is off; and at K = 1 selection (its loss is
        0) and the contrastive term (it has no gradient). At K = 1 fusion *is* the soft prompt loss, so the two
        together only scale the objective, which Adam does not see: SPT at K = 1 is plain prompt tuning.
        """
        losses = self.losses
        if self.prompts.num_prompts == 1:
            off = {"enabled": False}
            folded = LossesConfig(
                selection=SelectionTerm(**off), contrastive=ContrastiveTerm(**off), fusion=FusionTerm(**off)
            )
        else:
            folded = LossesConfig(
                soft_prompt=_fold(losses.soft_prompt),
                contrastive=_fold(losses.contrastive),
                selection=_fold(losses.selection),
                fusion=_fold(losses.fusion),
            )
        return self.model_copy(update={"losses": folded, "compute": ComputeConfig()})

    def key(self, **identity: Any) -> str:
        """Hash of the canonical form and of what else decides the numbers.

        The names of data sources and backbone are left out: a file that moved is the same file. What they are
        belongs into the identity.

        Args:
            identity: data fingerprints, model fingerprint, resolved precision, device type, versions: anything
                that JSON can hold.

        Returns:
            16 hexadecimal digits.
        """
        form = {"config": self.canonical().model_dump(exclude=_KNOWN_BY_IDENTITY), **identity}
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]


_Term = TypeVar("_Term", SoftPromptTerm, ContrastiveTerm, SelectionTerm, FusionTerm)


def _fold(term: _Term) -> _Term:
    return term if term.enabled and term.weight > 0 else type(term)(enabled=False)


def flatten(config: BaseModel) -> dict[str, Any]:
    """Every field of a config by its dotted path, in the order of their definition."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            flat |= {f"{name}.{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def parse(tree: Mapping[str, Any]) -> TrialConfig:
    """A config from nested plain values.

    Raises:
        ValueError: in one line a problem: field, value, what would do.
    """
    try:
        return TrialConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown field {path!r}{_nearest(path, TrialConfig.field_paths())}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if isinstance(problem["input"], dict) or not path:
        return f"{path}: {message}" if path else message
    return f"{path} = {problem['input']!r}: {message}"


def _nearest(path: str, known: list[str]) -> str:
    import difflib

    by_leaf = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
    near = by_leaf or difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else f": fields are {', '.join(known)}"


_KNOWN_BY_IDENTITY: Any = {"compute": True, "backbone": True, "data": {"train", "test"}}
PRECISIONS: tuple[str, ...] = get_args(Precision)
