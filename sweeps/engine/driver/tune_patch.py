"""What Tune makes of a process that Ray's memory monitor kills: a lost one, as any other.

Tune goes on after a `RayActorError` and a `RayTaskError`, and ends the whole run with any other. An actor that Ray's
memory monitor has killed fails with an `OutOfMemoryError`, which is neither.
"""

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.execution import tune_controller


class ActorOutOfMemoryError(OutOfMemoryError, RayActorError):
    """A process of a trial was killed because its node ran out of memory.

    Args:
        message: of Ray.
    """

    def __init__(self, message: str) -> None:
        RayActorError.__init__(self, error_msg=message)
        OutOfMemoryError.__init__(self, message)


class _ActorManager(RayActorManager):
    def _actor_start_failed(self, tracked_actor: object, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, _of_actor(exception))

    def _actor_task_failed(self, tracked_actor_task: object, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, _of_actor(exception))


def _of_actor(exception: Exception) -> Exception:
    known = isinstance(exception, RayActorError | RayTaskError)
    killed = isinstance(exception, OutOfMemoryError) and not known
    return ActorOutOfMemoryError(str(exception)) if killed else exception


def survive_memory_kills() -> None:
    """From now on Tune tries a trial again whose process was killed for memory."""
    assert issubclass(tune_controller.RayActorManager, RayActorManager)
    tune_controller.RayActorManager = _ActorManager
