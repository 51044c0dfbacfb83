"""The config of a trial: one frozen, validated value, with a canonical form and a hash.

Every setting that can change a result is a field. Settings that cannot, such as the number of threads and the parts in
which a gradient is computed, are in `ComputeConfig`, which the canonical form omits.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from spt_core.fields import (
    BackboneConfig,
    ComputeConfig,
    ContrastiveTerm,
    DataConfig,
    EvaluationConfig,
    FusionTerm,
    InContextConfig,
    LoraConfig,
    LossesConfig,
    OptimConfig,
    Part,
    PromptsConfig,
    RetrieverConfig,
    SelectionTerm,
    SoftPromptTerm,
)


class TrialConfig(Part):
    """The whole config of one trial. Equal canonical forms on the same data and model are the same trial."""

    method: Literal["spt", "lora", "in_context"] = "spt"
    """The method that adapts the backbone. Prompt tuning is `spt` with one prompt."""
    backbone: BackboneConfig = BackboneConfig()
    data: DataConfig = DataConfig()
    prompts: PromptsConfig = PromptsConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    losses: LossesConfig = LossesConfig()
    optim: OptimConfig = OptimConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    lora: LoraConfig = LoraConfig()
    in_context: InContextConfig = InContextConfig()
    compute: ComputeConfig = ComputeConfig()
    seed: int = Field(0, ge=0)
    """Seed of initialisation and of the order of batches; paired across the cells of a sweep."""

    @model_validator(mode="after")
    def _layout_leaves_the_mathematics_alone(self) -> "TrialConfig":
        compute, fusion = self.compute, self.losses.fusion
        if self.backbone.dropout and (compute.micro_batch_size or compute.prompts_per_pass):
            raise ValueError(
                "backbone.dropout draws one mask for the whole batch, so it cannot be computed in parts: unset "
                "compute.micro_batch_size and compute.prompts_per_pass (compute.gradient_checkpointing may stay)"
            )
        if fusion.enabled and fusion.of == "weighted_logits" and compute.prompts_per_pass:
            raise ValueError(
                "losses.fusion.of = 'weighted_logits' needs all prompts of a context at once: unset "
                "compute.prompts_per_pass (compute.micro_batch_size may stay)"
            )
        return self

    @property
    def num_choices(self) -> int:
        """Number of prompts that can be selected: K, or 1 if the method has no soft prompts."""
        return self.prompts.num_prompts if self.method == "spt" else 1

    @property
    def scoring(self) -> EvaluationConfig:
        """`evaluation`, with its batch size limited by `compute.micro_batch_size`."""
        most = min(self.evaluation.batch_size, self.compute.micro_batch_size or self.evaluation.batch_size)
        return self.evaluation.model_copy(update={"batch_size": most})

    def override(self, values: Mapping[str, Any]) -> "TrialConfig":
        """This config with the fields at the given dotted paths replaced.

        Args:
            values: for example `{"optim.learning_rate": 0.001, "seed": 3}`.

        Raises:
            ValueError: a path does not exist, or its field refuses a value; the message names field, value and remedy.
        """
        tree = self.model_dump()
        known = _every_path(TrialConfig)
        for path, value in values.items():
            *parents, leaf = path.split(".")
            branch: Any = tree
            for parent in parents:
                branch = branch.get(parent) if isinstance(branch, dict) else None
            if not isinstance(branch, dict) or leaf not in branch:
                raise ValueError(f"unknown field {path!r}{_nearest(path, known)}")
            if path not in known:
                raise ValueError(f"{path!r} is a group of fields: set one of {', '.join(self.field_paths(path))}")
            branch[leaf] = value
        return parse(tree)

    @classmethod
    def field_paths(cls, under: str = "") -> list[str]:
        """Dotted paths of all fields, in order; only those below `under` if it is given."""
        prefix = f"{under}." if under else ""
        return [path for path in _every_path(cls) if path.startswith(prefix)]

    def differences(self, other: "TrialConfig") -> dict[str, Any]:
        """The values, by dotted path, with which `override` turns this config into the other."""
        here, there = flatten(self), flatten(other)
        return {path: value for path, value in there.items() if value != here[path]}

    def canonical(self) -> "TrialConfig":
        """The representative of all configs that compute the same trial.

        It sets to their defaults: a term of weight 0, and the parameters of a term that is off; the contrastive term if
        a batch has no pair; parts of a method that is not used; and at K = 1 the selection term (its loss is 0), the
        contrastive term (it has no gradient) and the retriever. At K = 1 the paper's fusion equals the soft prompt
        loss. Both together scale the objective, on which Adam does not depend, so SPT at K = 1 is plain prompt tuning.
        The released fusion scales the logits by the similarity, so it is kept.
        """
        folded: dict[str, Any] = {"compute": _DEFAULT.compute}
        if self.method != "lora":
            folded["lora"] = _DEFAULT.lora
        if self.method != "in_context":
            folded["in_context"] = _DEFAULT.in_context
        if self.prompts.init != "text":
            folded["prompts"] = self.prompts.model_copy(update={"init_text": None})
        if self.method == "spt":
            folded["losses"] = losses = self._folded_losses()
            if self.prompts.num_prompts == 1 and not losses.fusion.enabled:
                folded["retriever"] = _DEFAULT.retriever
        else:
            folded |= {"losses": _ONE_PREDICTION, "retriever": _DEFAULT.retriever}
            if self.method == "in_context" or self.lora.rank is not None:
                folded["prompts"] = _DEFAULT.prompts
        if self.method == "in_context":
            folded["optim"] = _DEFAULT.optim
            if self.in_context.num_examples == 0:
                folded["seed"] = 0
        return self.model_copy(update=folded)

    def _folded_losses(self) -> LossesConfig:
        losses = self.losses
        contrastive = _fold(losses.contrastive)
        if self.optim.batch_size == 1:
            contrastive = _off(ContrastiveTerm)
        if self.retriever.activation == "none" and contrastive.enabled:
            contrastive = contrastive.model_copy(update={"scores": "activated"})
        if self.prompts.num_prompts > 1:
            return LossesConfig(
                soft_prompt=_fold(losses.soft_prompt),
                contrastive=contrastive,
                selection=_fold(losses.selection),
                fusion=_fold(losses.fusion),
            )
        fusion = _fold(losses.fusion)
        if not fusion.enabled or fusion.of == "probabilities":
            return _ONE_PREDICTION
        soft_prompt = _fold(losses.soft_prompt)
        if soft_prompt.enabled:
            soft_prompt = soft_prompt.model_copy(update={"reduction": "sum_over_prompts"})
        return _ONE_PREDICTION.model_copy(update={"soft_prompt": soft_prompt, "fusion": fusion})

    def key(self, **identity: Any) -> str:
        """Hash of the canonical form and of everything else that determines the numbers.

        The names of data sources and backbone are omitted, because a file that moved is the same file. Their
        fingerprints belong to the identity.

        Args:
            identity: data fingerprints, model fingerprint, resolved precision, device type, versions: values that JSON
                can represent.

        Returns:
            16 hexadecimal digits.
        """
        form = {"config": self.canonical().model_dump(exclude=_KNOWN_BY_IDENTITY), **identity}
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]


_DEFAULT = TrialConfig()
"""The values of a part that is not used, in the canonical form."""

_ONE_PREDICTION = LossesConfig(
    selection=SelectionTerm(enabled=False),
    contrastive=ContrastiveTerm(enabled=False),
    fusion=FusionTerm(enabled=False),
)
"""The losses if there is one prediction for each context: its NLL alone."""

_Term = TypeVar("_Term", SoftPromptTerm, ContrastiveTerm, SelectionTerm, FusionTerm)


@functools.cache
def _off(kind: type[_Term]) -> _Term:
    return kind(enabled=False)


def _fold(term: _Term) -> _Term:
    return term if term.enabled and term.weight > 0 else _off(type(term))


@functools.cache
def _every_path(kind: type[TrialConfig]) -> tuple[str, ...]:
    return tuple(flatten(kind()))


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
        ValueError: the message names field, value and accepted values of each problem.
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


def _nearest(path: str, known: Sequence[str]) -> str:
    import difflib

    by_leaf = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
    near = by_leaf or difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else f": fields are {', '.join(known)}"


_KNOWN_BY_IDENTITY: Any = {
    "compute": True,
    "backbone": {"name", "revision", "precision"},
    "data": {"train", "test"},
}
