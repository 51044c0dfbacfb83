"""Chat with a trained adapter under one persona; each reply comes with the prompt that was selected for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spt_core import metrics
from spt_core.baselines import shown_examples, with_preamble
from spt_core.batching import Example, collate, to_decode, tokenise
from spt_core.build import build
from spt_core.checkpoint import load_adapter
from spt_core.dialogues import Conversation, Conversations, Turn
from spt_core.splits import load_splits


@dataclass(frozen=True)
class Reply:
    """A reply of the model, and the prompt that the retriever selected.

    Attributes:
        text: the reply, after the cut rule if `evaluation.cut` is on.
        raw: the reply before the cut rule.
        prompt: index of the selected prompt.
        similarity: activated similarity of the context to each prompt.
    """

    text: str
    raw: str
    prompt: int
    similarity: tuple[float, ...]


class Chat:
    """A dialogue with a trained adapter.

    Args:
        folder: folder of the adapter.
        persona: sentences that describe the model's side.
        device: where the model runs.

    Raises:
        ValueError: the folder has no adapter, or its backbone cannot be found.
    """

    def __init__(self, folder: Path, *, persona: Sequence[str] = (), device: str = "cpu") -> None:
        self.config, tensors = load_adapter(folder)
        self.model, self._tokenizer = build(self.config, device=device)
        self.model.load_state_dict(tensors)
        self._shown: list[Example] = []
        if self.config.method == "in_context" and self.config.in_context.num_examples:
            train = load_splits(self.config.data, self._tokenizer).train
            self._shown = shown_examples(train, num_examples=self.config.in_context.num_examples, seed=self.config.seed)
        self.persona = tuple(persona)
        self.turns: list[Turn] = []

    def clear(self) -> None:
        """Start a new dialogue with the same persona."""
        self.turns.clear()

    @torch.no_grad()
    def say(self, text: str) -> Reply:
        """Add an utterance of the partner to the dialogue, and return the reply, which is added too.

        Args:
            text: the utterance; empty if the model should speak first.
        """
        evaluation = self.config.evaluation
        batch = to_decode(collate([self._example(text)])).to(self.model.backbone.device)
        similarity_1K = self.model.activate(self.model.cosine(batch))
        chosen_1 = similarity_1K.argmax(-1)
        tokens_1R = self.model.generate(
            batch,
            chosen_1,
            max_new_tokens=evaluation.max_new_tokens,
            eos_id=self._tokenizer.eos_token_id,
            **evaluation.generation,
        )
        raw = self._tokenizer.decode(tokens_1R[0], skip_special_tokens=True).strip()
        reply = metrics.cut(raw)[0] if evaluation.cut else raw
        self.turns.append(Turn(text, reply))
        return Reply(reply, raw, int(chosen_1), tuple(similarity_1K[0].tolist()))

    def _example(self, text: str) -> Example:
        """The example of the next reply: the dialogue so far and the utterance to answer."""
        data = self.config.data
        # Tokenisation needs a reply, here a placeholder: decoding reads the context alone.
        waiting = Conversation("chat", self.persona, (*self.turns, Turn(text, "hi")))
        example = tokenise(
            Conversations((waiting,), "chat"),
            self._tokenizer,
            max_tokens=data.max_tokens,
            boundary=data.boundary,
            train_eos=data.train_eos,
        )[-1]
        if self.config.method != "in_context":
            return example
        (example,) = with_preamble([example], self._shown, config=self.config.in_context, tokenizer=self._tokenizer)
        return example
