"""Responses a second: each row with its own prompt in one batch, compared with one pass of the batch for each prompt.

The reference decodes the whole batch under each distinct prompt that is selected, and keeps the rows that selected it,
as code with a loop over prompts does. The benchmark checks that both give the same replies.

    python -m benchmarks.decode --train dialogues.txt --json
"""

import statistics
import time
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks import options
from spt_core import recipes
from spt_core.batching import Batch, by_length, collate
from spt_core.build import build
from spt_core.model import SelectivePromptModel
from spt_core.splits import load_splits
from spt_core.weights import BUNDLED_SMOLLM2


def once_per_prompt(
    model: SelectivePromptModel, batch: Batch, prompt_B: Tensor, *, max_new_tokens: int, eos_id: int
) -> list[list[int]]:
    """Replies by the reference: one pass of the whole batch for each distinct prompt."""
    replies: list[list[int]] = [[] for _ in range(len(batch))]
    for prompt in sorted(set(prompt_B.tolist())):
        everyone = torch.full_like(prompt_B, prompt)
        tokens_BR = model.generate(batch, everyone, max_new_tokens=max_new_tokens, eos_id=eos_id)
        for row in (prompt_B == prompt).nonzero().flatten().tolist():
            replies[row] = tokens_BR[row].tolist()
    return replies


def measure(settings: dict[str, Any], *, num_responses: int, repeats: int) -> dict[str, Any]:
    """Time both ways in turn on the same responses.

    Args:
        settings: config fields that replace those of the recipe.
        num_responses: number of responses decoded each time, in batches of `evaluation.batch_size`.
        repeats: number of timed pairs.

    Returns:
        Seconds of each, their medians, responses a second, the ratio, and the share of replies that agree.
    """
    config = recipes.smollm2_135m().override(settings)
    model, tokenizer = build(config, device="cpu")
    examples = load_splits(config.data, tokenizer).dev[:num_responses]
    batches = [
        collate([examples[i] for i in ids]) for ids in by_length(examples, batch_size=config.evaluation.batch_size)
    ]
    # Prompts in turn, like the choices of a retriever that uses all of them.
    chosen = [torch.arange(len(batch)) % model.num_prompts for batch in batches]
    generation = {"max_new_tokens": config.evaluation.max_new_tokens, "eos_id": tokenizer.eos_token_id}
    seconds: dict[str, list[float]] = {"once a prompt": [], "ours": []}
    agree = []
    for _ in range(repeats):
        started = time.perf_counter()
        theirs = [once_per_prompt(model, *pair, **generation) for pair in zip(batches, chosen, strict=True)]
        between = time.perf_counter()
        ours = [model.generate(*pair, **generation).tolist() for pair in zip(batches, chosen, strict=True)]
        seconds["once a prompt"].append(between - started)
        seconds["ours"].append(time.perf_counter() - between)
        agree += [
            _text(one, generation["eos_id"]) == _text(other, generation["eos_id"])
            for batch, reference in zip(ours, theirs, strict=True)
            for one, other in zip(batch, reference, strict=True)
        ]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "num_prompts": model.num_prompts,
        "num_responses": len(examples),
        "precision": model.backbone.precision,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "median_seconds": medians,
        "responses_a_second": {name: len(examples) / value for name, value in medians.items()},
        "ratio": medians["once a prompt"] / medians["ours"],
        "replies_that_agree_percent": 100 * statistics.mean(agree),
    }


def _text(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens


def main(
    *,
    train: options.Train = options.SAMPLE,
    model: options.Model = BUNDLED_SMOLLM2,
    num_prompts: options.NumPrompts = 4,
    num_responses: Annotated[int, typer.Option(help="Responses decoded each time.")] = 32,
    repeats: Annotated[int, typer.Option(help="Counted pairs.")] = 3,
    as_json: options.AsJson = False,
) -> None:
    """Time decoding, each row under its own prompt."""
    settings = {"backbone.name": model, "data.train": train, "prompts.num_prompts": num_prompts}
    found = measure(settings, num_responses=num_responses, repeats=repeats)
    if as_json:
        options.print_json(found)
        return
    rates = found["responses_a_second"]
    typer.echo(
        f"once a prompt {rates['once a prompt']:.2f}, ours {rates['ours']:.2f} responses a second (medians of "
        f"{repeats}): {found['ratio']:.1f} times; {found['replies_that_agree_percent']:.0f}% of the replies agree; "
        f"{found['precision']}, {found['threads']} threads, K = {num_prompts}"
    )


if __name__ == "__main__":
    typer.run(main)
