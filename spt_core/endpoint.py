"""In-context replies from an OpenAI-compatible server instead of the backbone. The server returns text, so no NLL."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from spt_core import weights
from spt_core.baselines import shown_examples
from spt_core.batching import Example
from spt_core.config import TrialConfig
from spt_core.evaluation import Evaluation, Prediction, summarise
from spt_core.splits import load_splits

CONCURRENT = 8
"""Number of concurrent requests."""
RETRIES = 5
"""Retries of a request that fails for a temporary reason."""
KEYLESS = "none"
"""Placeholder key if the environment has none, for servers that need no key."""


def evaluate(config: TrialConfig, *, on_progress: Callable[[float], None] | None = None) -> Evaluation:
    """Let a server reply to the test contexts, and score its replies.

    Args:
        config: an in-context trial with an endpoint. The tokenizer of its backbone is used to cut long contexts.
        on_progress: called with the share that is done, 0 to 1.

    Raises:
        ValueError: the server does not reply; the message has the reason.
    """
    import openai

    tokenizer = weights.load_tokenizer(weights.resolve(config.backbone))
    splits = load_splits(config.data, tokenizer)
    examples = splits.scored(config.evaluation.split)
    shown = shown_examples(splits.train, num_examples=config.in_context.num_examples, seed=config.seed)
    client = openai.OpenAI(
        base_url=config.in_context.endpoint,
        api_key=os.environ.get("OPENAI_API_KEY", KEYLESS),
        max_retries=RETRIES,
    )

    def ask(example: Example) -> str:
        reply = client.chat.completions.create(
            model=config.in_context.endpoint_model or "",
            messages=_messages(example, shown, config=config, tokenizer=tokenizer),
            max_tokens=config.evaluation.max_new_tokens,
            temperature=0.0,
        )
        return (reply.choices[0].message.content or "").strip()

    predictions: list[Prediction] = []
    try:
        with ThreadPoolExecutor(CONCURRENT) as pool:
            for example, raw in zip(examples, pool.map(ask, examples), strict=True):
                predictions.append(
                    Prediction.of(
                        example,
                        raw,
                        cut=config.evaluation.cut,
                        prompt=0,
                        similarity=[],
                        nll=None,
                        nll_by_prompt=[],
                    )
                )
                if on_progress is not None:
                    on_progress(len(predictions) / len(examples))
    except openai.OpenAIError as error:
        raise ValueError(
            f"in_context.endpoint = {config.in_context.endpoint!r}: {type(error).__name__}: {error}; is the server up, "
            f"does it serve {config.in_context.endpoint_model!r}, and is OPENAI_API_KEY set if it asks for one?"
        ) from error
    if not predictions:
        return Evaluation({}, [])
    return Evaluation(summarise(predictions, bert_encoder=config.evaluation.bert_encoder), predictions)


def _messages(example: Example, shown: list[Example], *, config: TrialConfig, tokenizer: Any) -> list[Any]:
    turns = [{"role": "system", "content": config.in_context.instruction}]
    for solved in shown:
        turns += [
            {"role": "user", "content": tokenizer.decode(solved.context_ids, skip_special_tokens=True)},
            {"role": "assistant", "content": solved.reference},
        ]
    return [*turns, {"role": "user", "content": tokenizer.decode(example.context_ids, skip_special_tokens=True)}]
