"""The schedule of a training run: how many steps it takes, which batch each step reads, and when dev is scored."""

import math
from collections.abc import Iterator

from spt_core.batching import Example, epoch_batches
from spt_core.config import TrialConfig


def num_steps(config: TrialConfig, num_examples: int) -> int:
    """Optimisation steps of a config on a number of training examples."""
    if config.method == "in_context":
        return 0
    steps = config.optim.epochs * math.ceil(num_examples / config.optim.batch_size)
    return min(steps, config.optim.max_steps or steps)


def num_evaluations(config: TrialConfig, num_examples: int) -> int:
    """How often a config scores dev on a number of training examples, if it does not stop early."""
    stop, an_epoch = num_steps(config, num_examples), math.ceil(num_examples / config.optim.batch_size)
    every = config.evaluation.every_steps or an_epoch
    before_the_end = stop // every + stop // an_epoch - stop // math.lcm(every, an_epoch)
    at_the_end = stop > 0 and stop % every > 0 and stop % an_epoch > 0
    return 1 + before_the_end + at_the_end


def evaluates_at(step: int, config: TrialConfig, *, num_examples: int, stop: int) -> bool:
    """Whether dev is scored after a step: every `evaluation.every_steps`, after each epoch, and after the last step."""
    steps_an_epoch = math.ceil(num_examples / config.optim.batch_size)
    every = config.evaluation.every_steps or steps_an_epoch
    return step % every == 0 or step % steps_an_epoch == 0 or step == stop


def batches(config: TrialConfig, examples: list[Example], *, start: int, stop: int) -> Iterator[list[int]]:
    """The batches of the steps from `start` up to `stop`, as indices; each depends on the seed and its step alone."""
    step = 0
    for epoch in range(config.optim.epochs):
        order = epoch if config.optim.order == "each_epoch" else 0
        for batch in epoch_batches(examples, batch_size=config.optim.batch_size, seed=config.seed, epoch=order):
            if step >= stop:
                return
            if step >= start:
                yield batch
            step += 1
