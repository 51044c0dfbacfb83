"""Controls of the retriever: other ways to choose a prompt, without training, that show whether selection matters."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spt_core.seeding import generator

RETRIEVER, ORACLE = "retriever", "oracle"


def fit_turn_rule(turns: Sequence[int], nll_NK: Tensor, num_tokens: Sequence[int]) -> dict[int, int]:
    """The prompt of least NLL for each turn index, over the responses of dev.

    Args:
        turns: turn index of each response.
        nll_NK: mean NLL per token of each response under each prompt, in nats.
        num_tokens: tokens of each response.

    Returns:
        Turn index to prompt; -1 is for turns that are not in dev, and has the best prompt over all turns.
    """
    total_NK = nll_NK.double() * torch.tensor(num_tokens, dtype=torch.float64).unsqueeze(1)
    of_turn = torch.tensor(turns)
    rule = {turn: int(total_NK[of_turn == turn].sum(0).argmin()) for turn in sorted(set(turns))}
    return {**rule, -1: int(total_NK.sum(0).argmin())}


def routes(
    similarity_NK: Tensor, nll_NK: Tensor, turns: Sequence[int], *, turn_rule: Mapping[int, int], seed: int
) -> dict[str, list[int]]:
    """The prompt of each response under the retriever and under each control.

    Args:
        similarity_NK: of each context to each prompt.
        nll_NK: mean NLL per token of each response under each prompt.
        turns: turn index of each response.
        turn_rule: from `fit_turn_rule`.
        seed: seed of the random choices.

    Returns:
        By name: `retriever`; `shuffled`, the retriever on the context of another response; `random`; `turn`, the rule;
        `fixed_0`, `fixed_1`, ...; `oracle`, the prompt of least NLL, which is a bound because it uses the reply.
    """
    num_responses, num_prompts = similarity_NK.shape
    chosen_N = similarity_NK.argmax(1)
    random_N = torch.randint(num_prompts, (num_responses,), generator=generator(seed, "random prompt"))
    return {
        RETRIEVER: chosen_N.tolist(),
        "shuffled": chosen_N[_elsewhere(num_responses, seed)].tolist(),
        "random": random_N.tolist(),
        "turn": [turn_rule.get(turn, turn_rule[-1]) for turn in turns],
        **{f"fixed_{prompt}": [prompt] * num_responses for prompt in range(num_prompts)},
        ORACLE: nll_NK.argmin(1).tolist(),
    }


def _elsewhere(count: int, seed: int) -> Tensor:
    """A permutation of `count` indices without a fixed point, drawn by a seed."""
    order = torch.randperm(count, generator=generator(seed, "shuffled contexts"))
    target = torch.empty(count, dtype=torch.long)
    target[order] = order.roll(1)
    return target
