"""Time of each part of an optimisation step. The functions are wrapped from outside, so the core has no timing code.

The seconds of a part exclude those of other parts that it calls. They are wall-clock time, which is correct on a CPU.
A GPU would need a synchronisation at the end of each part.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from spt_core import gradient
from spt_core.batching import Example, collate
from spt_core.config import TrialConfig
from spt_core.cpu import llama
from spt_core.model import SelectivePromptModel

PARTS = (
    "data",
    "retriever",
    "embed",
    "backbone forward",
    "head",
    "text similarity M",
    "losses",
    "backward",
    "optimizer",
    "other",
)
"""`data` is padding and collating; `head` the logits and log-probabilities; `losses` the objective and its gradient
with respect to the scores; `backward` the rest of the backward pass, through head, backbone and retriever."""


class Stopwatch:
    """Seconds by part. Parts may be nested; the time of an inner part is not counted in the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time in the context as a part."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @contextmanager
    def calls(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        """Count every call of a function of a module, or of a method of an object, as a part."""
        original, was_its_own = getattr(owner, attribute), attribute in vars(owner)

        def timed(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return original(*args, **options)

        setattr(owner, attribute, timed)
        try:
            yield
        finally:
            setattr(owner, attribute, original) if was_its_own else delattr(owner, attribute)

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def seconds_of_parts(
    model: SelectivePromptModel, batches: list[list[Example]], *, config: TrialConfig
) -> list[dict[str, float]]:
    """Run whole optimisation steps, from examples to updated parameters, and time their parts.

    Args:
        model: trained in place.
        batches: the examples of each step.
        config: losses and learning rate.

    Returns:
        For each step the seconds of each of `PARTS`; their sum is the time of the step.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optim.learning_rate)
    backbone = model.backbone
    timed: list[tuple[Any, str, str]] = [
        (model, "cosine", "retriever"),
        (backbone, "embed", "embed"),
        (backbone, "prompted_logp", "head"),
        (backbone.model, "forward", "backbone forward"),
        (llama, "hidden", "backbone forward"),
        (backbone.model.get_output_embeddings(), "forward", "head"),
        (gradient, "similarity_matrix", "text similarity M"),
        (gradient, "objective", "losses"),
        (torch.autograd, "grad", "losses"),
        (torch.autograd, "backward", "backward"),
    ]

    def step(watch: Stopwatch, examples: list[Example]) -> None:
        with watch.part("data"):
            batch = collate(examples)
        optimizer.zero_grad(set_to_none=True)
        gradient.backward(model, batch, config=config)
        with watch.part("optimizer"):
            optimizer.step()

    return [_timed(step, examples, timed) for examples in batches]


def _timed(
    step: Callable[[Stopwatch, list[Example]], None], examples: list[Example], timed: list[tuple[Any, str, str]]
) -> dict[str, float]:
    watch = Stopwatch()
    with ExitStack() as stack:
        for owner, attribute, name in timed:
            stack.enter_context(watch.calls(owner, attribute, name))
        with watch.part("other"):
            step(watch, examples)
    return watch.seconds
