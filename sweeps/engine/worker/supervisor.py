"""The Tune function: holds a trial's claim in the ledger, runs its attempts, and records how it ended.

The worker of a trial is this very process, or the Train workers that it starts (train_run.py). An attempt that broke
off is tried again here and nowhere else, as retry_policy.py says. Nothing here imports torch before an attempt begins:
its import is slow.
"""

import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from spt_core import config
from sweeps.engine.store import shared_storage, trial_folder
from sweeps.engine.store.ledger import Claim, Ledger
from sweeps.engine.worker import retry_policy
from sweeps.engine.worker.failures import ran_out_of_memory
from sweeps.engine.worker.job import Ended, Job, Message, Retrying, RunsElsewhere, SharedJob, as_report

_POLL_SECONDS = 2.0


def supervise(request: dict[str, Any], *, shared: SharedJob) -> None:
    """Claim the trial, run it, record how it ended.

    A trial that another driver is running is waited for; one that has finished is answered from the ledger.

    Args:
        request: what Tune was handed for the trial.
        shared: by all trials of the run.
    """
    job = shared.job(request)
    ledger = Ledger(job.ledger)
    is_waiting = False
    while not ledger.claim(job.key, owner=job.owner):
        entry = ledger.entries([job.key]).get(job.key)
        if entry is not None and entry.state == "finished":
            _say(Ended())
            return
        if not is_waiting:
            _say(RunsElsewhere())
            is_waiting = True
        time.sleep(_POLL_SECONDS)
    with Claim(ledger, job.key, owner=job.owner):
        outcome = _attempt_until_it_ends(job)
    if "error" in outcome:
        ledger.fail(job.key, owner=job.owner, error=outcome["error"])
    else:
        if job.handed_over:
            shared_storage.fetch(job.handed_over, Path(job.folder))
        ledger.finish(job.key, owner=job.owner, metrics=outcome["metrics"])
        shared_storage.remove(shared_storage.join(job.checkpoints, job.key))
    # A failure is not raised: what Tune tries again is a process that was lost, and this one has said how it ended.
    _say(Ended())


def _say(message: Message) -> None:
    from ray import tune

    tune.report(as_report(message))


def _attempt_until_it_ends(job: Job) -> Mapping[str, Any]:
    """Run a trial as often as retry_policy.py allows: `{"metrics": ...}` or `{"error": ...}`."""
    folder, losses = Path(job.folder), 0
    so_far = trial_folder.read_retries(folder)
    while True:
        now = replace(job, compute={**job.config["compute"], **so_far.layout})
        try:
            if job.workers == 0:
                from sweeps.engine.worker.attempt import attempt

                return attempt(now, say=_say)
            from sweeps.engine.worker.train_run import TrainRun

            return TrainRun.of_this_process(now).attempt(now, say=_say)
        except Exception as error:
            try:
                so_far = retry_policy.next_attempt(
                    so_far, error, config=config.parse(job.config), workers=job.workers, losses=losses
                )
            except retry_policy.GaveUpError as final:
                return {"error": str(final)}
            losses += not ran_out_of_memory(error)
        _free_memory()  # out here, where no traceback holds the tensors of the attempt
        trial_folder.write_retries(folder, so_far)
        _say(Retrying())


def _free_memory() -> None:
    """Give back what an attempt in this very process has left."""
    from spt_core.cpu import memory

    gc.collect()
    memory.give_back()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()
