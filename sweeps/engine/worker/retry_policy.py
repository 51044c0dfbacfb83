"""When a trial that broke off goes on from its checkpoint, with what layout, and when it fails for good.

Out of memory halves the micro batch: the objective stays what it is, so the trial stays the same trial. A lost worker
or node is replaced. What a trial does to itself (a NaN, a bad value) is returned by its worker and never comes here.
"""

from collections.abc import Mapping
from dataclasses import replace

from spt_core.config import TrialConfig
from sweeps.engine.store.trial_folder import Retries
from sweeps.engine.worker import failures

MOST_LOSSES = 3
"""How often a lost worker is replaced before its trial fails."""
_CURE = (
    "and there is no smaller layout; set compute.gradient_checkpointing=true, lower --concurrency, or run on a machine "
    "with more memory: the same command then goes on from the checkpoint"
)
ADVICE = (
    "a process that is killed again and again often lacks memory: lower --concurrency, or set compute.micro_batch_size"
)
"""For people whose trial lost its process too often."""


class GaveUpError(Exception):
    """A trial has failed for good; the message says why, and what would help."""


def next_attempt(so_far: Retries, error: Exception, *, config: TrialConfig, workers: int, losses: int) -> Retries:
    """The next attempt, after one that broke off.

    Args:
        so_far: the retries before.
        error: what ended the attempt.
        config: of the trial, as it was asked for.
        workers: that share a batch; 0 is one.
        losses: of workers before this one, in this run of the sweep.

    Raises:
        GaveUpError: there is none.
    """
    what = failures.one_line(error)
    if failures.found_disk_full(error):
        raise GaveUpError(f"{what}: free some space; the same command then goes on from the checkpoint")
    if not failures.ran_out_of_memory(error):
        if losses >= MOST_LOSSES:
            advice = f"; {ADVICE}" if failures.lost_its_process(error) else ""
            raise GaveUpError(f"{what} (after {losses} retries){advice}")
        return replace(so_far, reasons=(*so_far.reasons, what))
    smaller = halved(config.override(_paths(so_far.layout)), workers=workers)
    if smaller is None:
        raise GaveUpError(f"out of memory ({what}) {_CURE}")
    return Retries({**so_far.layout, **smaller}, (*so_far.reasons, what))


def halved(config: TrialConfig, *, workers: int) -> dict[str, int] | None:
    """The next smaller layout: half the contexts at once, then one prompt at once; None where there is none.

    Args:
        config: in its present layout.
        workers: that share a batch; 0 is one.
    """
    largest = -(-config.optim.batch_size // max(1, workers))
    if config.method == "in_context":  # which is only evaluated
        largest = config.evaluation.batch_size
    contexts = min(config.compute.micro_batch_size or largest, largest)
    smaller: dict[str, int]
    if contexts > 1:
        smaller = {"micro_batch_size": contexts // 2}
    elif config.num_choices > 1 and config.compute.prompts_per_pass != 1:
        smaller = {"prompts_per_pass": 1}
    else:
        return None
    try:
        config.override(_paths(smaller))
    except ValueError:  # dropout is drawn for the whole batch; weighted logits want all prompts
        return None
    return smaller


def describe(retries: Retries) -> str:
    """Why the last one was, and the layout that it goes on with."""
    why = retries.reasons[-1] if retries.reasons else "its process was lost"
    return "; ".join([why, *(f"compute.{name}={value}" for name, value in retries.layout.items())])


def _paths(layout: Mapping[str, int]) -> dict[str, int]:
    return {f"compute.{name}": value for name, value in layout.items()}
