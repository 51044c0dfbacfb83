"""The Ray that a sweep runs on: one that is there already, a cluster, or one of this machine for the time being."""

import gc
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_REACH_SECONDS = 5.0


@contextmanager
def ray_runtime(*, verbose: bool) -> Iterator[None]:
    """A Ray runtime: the one already connected, the cluster at RAY_ADDRESS, or a local one for the block.

    Args:
        verbose: let Ray say what it does.

    Raises:
        ValueError: none can be had.
    """
    quiet = (
        {}
        if verbose
        else {
            "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TQDM_DISABLE": "1",
        }
    )
    # Polling Train workers ten times as often as the default takes seconds off every trial.
    # A machine that is busy may take more than the default minute to start a worker, which is no reason to fail.
    shared = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
        "TOKENIZERS_PARALLELISM": "false",
        **quiet,
    }
    os.environ.update(
        {
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "RAY_AIR_NEW_OUTPUT": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
            "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # Tune's own state of a sweep, which nobody restores: at the end alone
            "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C then ends Ray and its processes at once
        }
    )
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    cores = os.cpu_count() or 1
    # A CPU beyond the machine's own for the trials' supervisors, which only wait.
    local = {} if address else {"num_cpus": cores + 1, "include_dashboard": True}
    # A Train trial is four processes or more; as many as four a core and Ray would warn of them.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(4 * cores))
    try:
        _reach(address or "local")
        ray.init(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env={"env_vars": shared},
            **local,
        )
    except Exception as error:  # Ray raises errors of many kinds here, a bare Exception among them
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"RAY_ADDRESS={address}: {reason}. Start a cluster there, or unset RAY_ADDRESS to run on this machine"
            if address
            else f"Ray did not start: {reason} Is this machine overloaded? Try again, or look with --verbose"
        ) from error
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        token.chmod(0o600)
    if not verbose:
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that fails is ours to show, in one line
    try:
        yield
    finally:
        end_ray()


def end_ray() -> None:
    """End Ray while no other thread collects garbage.

    Tune leaves references to objects of Ray's in cycles. A thread that collected one in the moment in which Ray's
    core worker goes would end the process, with status 1 and without a traceback.
    """
    import ray

    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


@contextmanager
def connection(*, verbose: bool) -> Iterator[None]:
    """The cluster at RAY_ADDRESS for the block, if there is one; a Ray of this machine starts when it has work."""
    with ExitStack() as stack:
        if os.environ.get("RAY_ADDRESS"):
            stack.enter_context(ray_runtime(verbose=verbose))
        yield


def _reach(address: str) -> None:
    """Raise an OSError where nothing listens at host:port; Ray itself would try for more than ten minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
