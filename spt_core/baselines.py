"""The baselines of Table 4 behind the interface of SPT: LoRA, and in-context learning with the unchanged backbone.

Prompt tuning needs no code here: it is SPT with one prompt (`recipes.prompt_tuning`). The other two have no soft
prompts. They are models with one prompt of length 0, so all other code is shared.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spt_core import backbone as backbones
from spt_core.backbone import Backbone
from spt_core.batching import Example
from spt_core.config import TrialConfig
from spt_core.fields import InContextConfig, LoraConfig, PromptsConfig
from spt_core.model import SelectivePromptModel
from spt_core.seeding import generator
from spt_core.weights import Source


class LoraModel(SelectivePromptModel):
    """A backbone with low-rank updates in some of its layers, and no soft prompt.

    Args:
        backbone: a backbone that is not shared (`backbone.load_own`), because layers are added to it.
        lora: scaling and layers.
        rank: the rank as a number.
        plain: further arguments of `SelectivePromptModel`.
    """

    def __init__(self, backbone: Backbone, *, lora: LoraConfig, rank: int, **plain: Any) -> None:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model

        super().__init__(backbone, start_KLD=torch.zeros(1, 0, backbone.width), retriever=None, **plain)
        with torch.random.fork_rng():
            torch.manual_seed(generator(plain["seed"], "lora").initial_seed())
            inject_adapter_in_model(
                PeftConfig(
                    r=rank,
                    lora_alpha=lora.scaling * rank,  # type: ignore[arg-type]  # peft only divides it by the rank
                    target_modules=list(lora.target_modules),
                ),
                backbone.model,
            )
        self.rank = rank
        layers = {name: layer for name, layer in backbone.model.named_modules() if hasattr(layer, "lora_A")}
        # A module's name may hold no dot.
        self.updates = nn.ModuleDict(
            {
                f"{name}.{half}".replace(".", "/"): getattr(layer, half)["default"].to(backbone.dtype)
                for name, layer in layers.items()
                for half in ("lora_A", "lora_B")
            }
        ).to(backbone.device)


def build(config: TrialConfig, *, source: Source, precision: str, device: str, **plain: Any) -> SelectivePromptModel:
    """The model of a baseline at its initial values.

    Raises:
        ValueError: the backbone has none of the layers that LoRA should update.
    """
    if config.method == "in_context":
        backbone = backbones.load(source, precision=precision, device=device)
        return SelectivePromptModel(backbone, start_KLD=torch.zeros(1, 0, backbone.width), retriever=None, **plain)
    backbone = backbones.load_own(source, precision=precision, device=device)
    shapes = _updated_shapes(backbone, config.lora)
    rank = config.lora.rank or matched_rank(shapes, config.prompts, width=backbone.width)
    return LoraModel(backbone, lora=config.lora, rank=rank, **plain)


def matched_rank(shapes: list[tuple[int, int]], prompts: PromptsConfig, *, width: int) -> int:
    """The rank with a number of trained parameters nearest to that of SPT, prompts and retriever together.

    Args:
        shapes: (outputs, inputs) of each layer with an update.
        prompts: K and L; at K = 1 the retriever is not trained.
        width: D.
    """
    retriever = 2 * (width * width + width) if prompts.num_prompts > 1 else 0
    target = prompts.num_prompts * prompts.prompt_length * width + retriever
    return max(1, round(target / sum(outputs + inputs for outputs, inputs in shapes)))


def _updated_shapes(backbone: Backbone, lora: LoraConfig) -> list[tuple[int, int]]:
    layers = {
        name: layer
        for name, layer in backbone.model.named_modules()
        if isinstance(layer, nn.Linear) and name.rsplit(".", 1)[-1] in lora.target_modules
    }
    if not layers:
        linear = {name.rsplit(".", 1)[-1] for name, m in backbone.model.named_modules() if isinstance(m, nn.Linear)}
        raise ValueError(
            f"lora.target_modules = {list(lora.target_modules)}: the backbone has no such layer; its linear layers are "
            f"{', '.join(sorted(linear))}"
        )
    return [(layer.out_features, layer.in_features) for layer in layers.values()]


def with_preamble(
    examples: list[Example], shown: list[Example], *, config: InContextConfig, tokenizer: Any
) -> list[Example]:
    """The examples with a preamble before each context: an instruction and some solved examples.

    The preamble does not count towards `data.max_tokens`, which limits the dialogue.

    Args:
        examples: the examples to answer.
        shown: the solved examples, in the order of the preamble.
        config: has the instruction.
        tokenizer: of the backbone.
    """
    start = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)

    def plain(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    gap = plain("\n\n")
    preamble = (*start, *plain(config.instruction), *gap)
    for example in shown:
        response = [token for token in example.response_ids if token != tokenizer.eos_token_id]
        preamble += (*example.context_ids[len(start) :], *response, *gap)
    return [
        replace(
            example,
            context_ids=(*preamble, *example.context_ids[len(start) :]),
            decoding_ids=(*preamble, *example.decoding_ids[len(start) :]),
        )
        for example in examples
    ]


def shown_examples(train: list[Example], *, num_examples: int, seed: int) -> list[Example]:
    """Solved examples for a preamble: training examples of different dialogues, drawn by a seed."""
    order = torch.randperm(len(train), generator=generator(seed, "in context")).tolist()
    by_dialogue: dict[str, Example] = {}
    for index in order:
        by_dialogue.setdefault(train[index].dialogue, train[index])
    return list(by_dialogue.values())[:num_examples]
