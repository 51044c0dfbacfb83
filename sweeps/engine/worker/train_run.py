"""A Ray Train run that does one trial after the other: its processes start once, and not once a trial.

It lives as long as the supervisor that started it, or until a trial breaks it: the next trial then starts another.
"""

import asyncio
import itertools
import threading
from typing import Any, ClassVar

import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.config import LoggingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.engine.worker.job import Job, Message, Say

_LISTEN_SECONDS = 0.5
Said = Message | dict[str, Any]
"""What a worker says: a message, or, last, the outcome of its trial."""


class _Mailbox:
    """Between a supervisor and its workers, as an actor: jobs one way, rows and outcomes the other.

    Jobs are numbered: each worker asks for one after the other, and what is said is said of a number.
    """

    def __init__(self) -> None:
        self._posted = 0
        self._jobs: dict[int, Job] = {}
        self._changed = asyncio.Condition()
        # No more than one waits to be heard, so that no worker runs ahead of whoever may stop its trial.
        self._said: asyncio.Queue[tuple[int, Said]] = asyncio.Queue(maxsize=1)

    async def post(self, job: Job) -> int:
        """Hand a job to all workers; its number."""
        async with self._changed:
            number = self._posted
            self._posted += 1
            self._jobs[number] = job
            self._jobs.pop(number - 2, None)  # the job before may still be asked for, by a worker that is behind
            self._changed.notify_all()
            return number

    async def job(self, number: int) -> Job:
        """A job, once there is one of that number."""
        async with self._changed:
            await self._changed.wait_for(lambda: number < self._posted)
            return self._jobs[number]

    async def say(self, number: int, message: Said) -> None:
        """A worker says something of a job, and waits until what was said before has been heard."""
        await self._said.put((number, message))

    async def hear(self, seconds: float) -> tuple[int, Said] | None:
        """What was said next, if anything was in so many seconds."""
        try:
            return await asyncio.wait_for(self._said.get(), seconds)
        except TimeoutError:
            return None


class TrainRun:
    """Train workers that wait for jobs.

    Args:
        layout: a job, of whose kind all are: the number of workers, and what each has.
    """

    _latest: ClassVar["TrainRun | None"] = None

    @classmethod
    def of_this_process(cls, layout: Job) -> "TrainRun":
        """The one that this process has, or a new one if it has none or has lost it."""
        if cls._latest is None or not cls._latest.is_alive:
            cls._latest = cls(layout)
        return cls._latest

    def __init__(self, layout: Job) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=here).remote()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, args=(layout,), name="train-run", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it may take another job."""
        return self._thread.is_alive()

    def attempt(self, job: Job, *, say: Say) -> dict[str, Any]:
        """One attempt at a trial.

        Args:
            job: of the layout that it was made for.
            say: takes each message.

        Returns:
            As `attempt.attempt`.

        Raises:
            Exception: a worker was lost, or ran out of memory; the run has ended with it.
        """
        try:
            return self._attempt(job, say)
        except (RayActorError, OutOfMemoryError):  # Ray's memory monitor kills with the latter
            self._thread.join()  # without its mailbox each worker fails with what it says next, and the run with it
            raise

    def _attempt(self, job: Job, say: Say) -> dict[str, Any]:
        number = ray.get(self._mailbox.post.remote(job))
        while True:
            heard: tuple[int, Said] | None = ray.get(self._mailbox.hear.remote(_LISTEN_SECONDS))
            if heard is None and not self.is_alive:
                raise self._error or RuntimeError("the Train run ended before its trial did")
            of, said = heard or (None, {})
            if of != number:
                continue
            if isinstance(said, dict):
                return said
            say(said)

    def _fit(self, layout: Job) -> None:
        try:
            _trainer(layout, {"mailbox": self._mailbox}).fit()
        except BaseException as error:  # raised where the trial is waited for
            self._error = error


def _trainer(job: Job, values: dict[str, Any]) -> Any:
    resources = {"CPU": float(job.cpus_per_worker)}
    if job.gpus_per_worker:
        resources["GPU"] = job.gpus_per_worker
    arguments: dict[str, Any] = {
        "train_loop_config": values,
        "scaling_config": ScalingConfig(
            num_workers=job.workers,
            use_gpu=bool(job.gpus_per_worker),
            resources_per_worker=resources,
            placement_strategy="SPREAD" if job.spread else "PACK",
        ),
        "run_config": RunConfig(
            name="train",
            storage_path=job.train_runs,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
            logging_config=LoggingConfig(log_level="INFO" if job.verbose else "ERROR"),
        ),
    }
    if job.workers == 1:
        # No process group to set up: the plain trainer starts two seconds sooner than the one for torch.
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        return DataParallelTrainer(serve, **arguments)
    from ray.train.torch import TorchConfig, TorchTrainer
    from torch.distributed import is_nccl_available

    # GPUs that are only counted, as in tests, come with a torch that has no NCCL.
    backend = "nccl" if job.gpus_per_worker and is_nccl_available() else "gloo"
    return TorchTrainer(serve, torch_config=TorchConfig(backend=backend), **arguments)


def serve(values: dict[str, Any]) -> None:
    """The Train worker: one trial after the other, for as long as it lives.

    Args:
        values: the actor that jobs come from, as `mailbox`.
    """
    from sweeps.engine.worker.attempt import attempt, is_first  # it imports torch, which only the workers need

    mailbox = values["mailbox"]
    for number in itertools.count():
        job: Job = ray.get(mailbox.job.remote(number))

        def say(said: Said, number: int = number) -> None:
            ray.get(mailbox.say.remote(number, said))

        outcome = attempt(job, say=say)
        if is_first():
            say(dict(outcome))
