"""From dialogues to batches: the text template, tokens, length buckets and padding.

The order, the examples and the padding of a batch depend on the data and a seed alone, not on K, the losses or the
number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spt_core.dialogues import Conversations
from spt_core.seeding import generator

BUCKET_BATCHES = 32
"""Batches sorted together by length: more of them mean less padding, fewer mean more random batches."""


@dataclass(frozen=True, slots=True)
class Example:
    """One reply of the persona's owner, with all turns before it.

    Attributes:
        dialogue: id of its conversation.
        turn: index of the reply in it, from 0.
        persona: the persona sentences, joined by spaces.
        context: persona and history as plain text, without the template; M compares it.
        reference: the human reply.
        context_ids: tokens of the template up to and including `R:`.
        response_ids: tokens of the reply and the end of sequence.
        decoding_ids: tokens that decoding continues: equal to `context_ids`, unless `data.boundary` is `released`.
        num_turns: replies of the persona's owner in the whole conversation.
    """

    dialogue: str
    turn: int
    persona: str
    context: str
    reference: str
    context_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    decoding_ids: tuple[int, ...]
    num_turns: int

    @property
    def stage(self) -> str:
        """Position of the reply in its conversation: `opening`, `middle` or `closing`."""
        if self.turn == 0:
            return "opening"
        return "closing" if self.turn == self.num_turns - 1 else "middle"

    @property
    def num_tokens(self) -> int:
        """Number of tokens of context and response."""
        return len(self.context_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Batch:
    """B examples: left-padded contexts (M columns), then right-padded responses (R columns).

    Attributes:
        token_ids_BT: T = M + R columns; padding holds token 0.
        mask_BT: 1 where a token is.
        num_context: M.
        examples: the B examples themselves.
    """

    token_ids_BT: Tensor
    mask_BT: Tensor
    num_context: int
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def context_mask_BM(self) -> Tensor:
        """1 where a context token is."""
        return self.mask_BT[:, : self.num_context]

    @property
    def response_mask_BR(self) -> Tensor:
        """1 where a response token counts."""
        return self.mask_BT[:, self.num_context :]

    @property
    def response_ids_BR(self) -> Tensor:
        """Tokens of the responses; 0 where padding is."""
        return self.token_ids_BT[:, self.num_context :]

    def rows(self, rows: slice) -> "Batch":
        """A batch of some of the rows, with the padding of the whole batch."""
        return Batch(self.token_ids_BT[rows], self.mask_BT[rows], self.num_context, self.examples[rows])

    def repeat(self, times: int) -> "Batch":
        """A batch with each row repeated a number of times; the copies are neighbours."""
        return Batch(
            self.token_ids_BT.repeat_interleave(times, dim=0),
            self.mask_BT.repeat_interleave(times, dim=0),
            self.num_context,
            tuple(example for example in self.examples for _ in range(times)),
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.token_ids_BT.to(device), self.mask_BT.to(device), self.num_context, self.examples)


def template(persona: Sequence[str], history: Sequence[tuple[str, str]], query: str) -> str:
    """The text before a reply, in the template of the released code without its special tokens.

    Args:
        persona: the sentences.
        history: earlier (partner's utterance, reply) pairs.
        query: the partner's utterance to answer; empty if the persona's owner speaks first.
    """
    turns = [part for q, r in history for part in (f"Q: {q}" if q else "", f"R: {r}")]
    turns += [f"Q: {query}" if query else "", "R:"]
    return f"given persona: {' '.join(persona)}; context: {' '.join(filter(None, turns))}"


def tokenise(
    conversations: Conversations,
    tokenizer: Any,
    *,
    max_tokens: int,
    boundary: str = "joint",
    train_eos: bool = True,
) -> list[Example]:
    """Tokenise every reply of the conversations as one example, in order.

    Context and response are tokenised as one text, so that training and decoding have the same boundary between them:
    the response starts at the first token that extends past `R:`.

    Args:
        conversations: the dialogues.
        tokenizer: a fast tokenizer. BOS, if it has one, is the first token, and EOS the last.
        max_tokens: most tokens of context and response. The context is cut from the left and keeps BOS. A response
            that is too long by itself is cut from the right.
        boundary: `joint`, or `released`, where decoding continues the text up to `R: ` with its space.
        train_eos: whether EOS is a token of the response.
    """
    drafts: list[tuple[str, int, int, str, str, str, str]] = []
    for conversation in conversations:
        history: list[tuple[str, str]] = []
        persona = " ".join(conversation.persona)
        for index, turn in enumerate(conversation.turns):
            said = " ".join(filter(None, [persona, *(part for pair in history for part in pair), turn.query]))
            text = template(conversation.persona, history, turn.query)
            drafts.append((conversation.id, index, len(conversation.turns), persona, said, turn.response, text))
            history.append((turn.query, turn.response))
    if not drafts:
        return []
    encoded = tokenizer(
        [f"{text} {reference}" for *_, reference, text in drafts],
        add_special_tokens=False,
        return_offsets_mapping=True,
    )
    bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    eos = (tokenizer.eos_token_id,) if train_eos else ()
    released = [None] * len(drafts)
    if boundary == "released":
        released = tokenizer([f"{text} " for *_, text in drafts], add_special_tokens=False)["input_ids"]
    examples = []
    for draft, ids, offsets, decoding in zip(
        drafts, encoded["input_ids"], encoded["offset_mapping"], released, strict=True
    ):
        dialogue, turn_index, num_turns, persona, said, reference, text = draft
        start = next(i for i, (_, end) in enumerate(offsets) if end > len(text))
        response_ids = (*ids[start:], *eos)[: max_tokens - len(bos) - 1]
        room = max_tokens - len(bos) - len(response_ids)
        context_ids = (*bos, *ids[max(0, start - room) : start])
        decoding_ids = context_ids if decoding is None else (*bos, *decoding[max(0, len(decoding) - room) :])
        examples.append(
            Example(
                dialogue=dialogue,
                turn=turn_index,
                persona=persona,
                context=said,
                reference=reference,
                context_ids=context_ids,
                response_ids=response_ids,
                decoding_ids=decoding_ids,
                num_turns=num_turns,
            )
        )
    return examples


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples into one batch, on the CPU."""
    num_context = max(len(example.context_ids) for example in examples)
    num_response = max(len(example.response_ids) for example in examples)
    token_ids_BT = torch.zeros(len(examples), num_context + num_response, dtype=torch.long)
    mask_BT = torch.zeros_like(token_ids_BT)
    for row, example in enumerate(examples):
        start, end = num_context - len(example.context_ids), num_context + len(example.response_ids)
        token_ids_BT[row, start:end] = torch.tensor(example.context_ids + example.response_ids)
        mask_BT[row, start:end] = 1
    return Batch(token_ids_BT, mask_BT, num_context, tuple(examples))


def to_decode(batch: Batch) -> Batch:
    """The batch with `decoding_ids` as contexts; the same batch unless `data.boundary` is `released`."""
    if all(example.decoding_ids == example.context_ids for example in batch.examples):
        return batch
    asked = [replace(example, context_ids=example.decoding_ids) for example in batch.examples]
    return replace(collate(asked), examples=batch.examples).to(batch.mask_BT.device)


def epoch_batches(examples: Sequence[Example], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as indices: random pools of examples, each sorted by length, in random order.

    Args:
        examples: the training examples.
        batch_size: B; the last batch may be smaller.
        seed: the trial's seed.
        epoch: from 0; each epoch has a different order.
    """
    source = generator(seed, "order", epoch)
    order = torch.randperm(len(examples), generator=source).tolist()
    pool_size = batch_size * BUCKET_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lambda index: examples[index].num_tokens)
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=source).tolist()]


def by_length(examples: Sequence[Example], *, batch_size: int) -> Iterator[list[int]]:
    """Indices of all examples in batches of similar length, longest first, so that a lack of memory shows at once."""
    order = sorted(range(len(examples)), key=lambda index: -examples[index].num_tokens)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def some_dialogues(examples: Sequence[Example], *, most: int | None, seed: int) -> list[Example]:
    """At most `most` examples, those of dialogues drawn by a seed; all examples if `most` is None.

    Of the last dialogue drawn only the first examples may be taken. The order of the data set is kept.
    """
    if most is None or most >= len(examples):
        return list(examples)
    dialogues = list(dict.fromkeys(example.dialogue for example in examples))
    drawn = torch.randperm(len(dialogues), generator=generator(seed, "responses")).tolist()
    rank = {dialogues[index]: position for position, index in enumerate(drawn)}
    chosen = sorted(examples, key=lambda example: (rank[example.dialogue], example.turn))[:most]
    keep = {(example.dialogue, example.turn) for example in chosen}
    return [example for example in examples if (example.dialogue, example.turn) in keep]
