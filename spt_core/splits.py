"""The train, dev and test examples of a trial: reads the sources, carves out the dev set, and tokenises."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

from spt_core import conversations
from spt_core.baselines import shown_examples, with_preamble
from spt_core.batching import Example, some_dialogues, tokenise
from spt_core.config import TrialConfig
from spt_core.dialogues import Conversations
from spt_core.fields import DataConfig


@dataclass(frozen=True)
class Splits:
    """The examples of a trial: `train` for the steps, `dev` for the choice of the checkpoint, `test` for the result."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]

    def scored(self, split: Literal["test", "dev", "none"]) -> list[Example]:
        """The examples that `evaluation.split` names."""
        return {"test": self.test, "dev": self.dev, "none": []}[split]


def load_splits(data: DataConfig, tokenizer: Any) -> Splits:
    """Read the data of a trial, carve out the dev set, and tokenise all three splits.

    Raises:
        ValueError: a source cannot be read, or the dev split leaves no training examples.
    """
    every = conversations.load(data.train)
    train, dev = conversations.split_dev(every, num_dialogues=data.dev_dialogues, seed=data.split_seed)
    of_train, of_dev, of_test = (
        _tokenised(part, tokenizer, data.max_tokens, data.boundary, data.train_eos)
        for part in (train, dev, conversations.load(data.test))
    )
    return Splits(
        train=list(of_train),
        dev=some_dialogues(of_dev, most=data.max_dev_responses, seed=data.split_seed),
        test=some_dialogues(of_test, most=data.max_test_responses, seed=data.split_seed),
    )


@functools.lru_cache(maxsize=6)
def _tokenised(
    dialogues: Conversations, tokenizer: Any, max_tokens: int, boundary: str, train_eos: bool
) -> list[Example]:
    """Tokenised examples, cached by the content of their dialogues: the trials of one process share them."""
    return tokenise(dialogues, tokenizer, max_tokens=max_tokens, boundary=boundary, train_eos=train_eos)


def prepare(config: TrialConfig, tokenizer: Any) -> Splits:
    """The splits for the method of a config: in-context learning prepends an instruction and solved examples."""
    splits = load_splits(config.data, tokenizer)
    if config.method != "in_context":
        return splits
    shown = shown_examples(splits.train, num_examples=config.in_context.num_examples, seed=config.seed)
    dev, test = (
        with_preamble(examples, shown, config=config.in_context, tokenizer=tokenizer)
        for examples in (splits.dev, splits.test)
    )
    return Splits(splits.train, dev, test)
