"""One logged trial, run again: whether what is here is what it ran on, and the run itself."""

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spt_core import NUMERICS_VERSION, backbone, config, conversations, weights
from spt_core.config import TrialConfig
from sweeps.engine.store import provenance
from sweeps.engine.tracking.logged_trial import LoggedTrial
from sweeps.engine.worker.job import Job, Say


@dataclass(frozen=True)
class Prepared:
    """A trial that may be run again here.

    Attributes:
        config: with data and model where they are now, in the precision that was resolved then.
        threads: of torch.
        on_gpu: it runs on a GPU.
        obstacles: why its bits may differ, none if they must be the same.
        notes: other differences between then and now, in words.
    """

    config: TrialConfig
    threads: int
    on_gpu: bool
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]


def prepare(
    trial: LoggedTrial, *, train: str | None = None, test: str | None = None, model: str | None = None
) -> Prepared:
    """Hold what is here against what the trial ran on.

    Args:
        trial: as it was logged.
        train: where its training dialogues are now, if not where they were.
        test: likewise.
        model: likewise.

    Raises:
        ValueError: data, model or arithmetic are not those of the trial, or cannot be had; says which, and what to do.
    """
    identity = trial.identity
    code = _code_of(trial)
    if identity["numerics"] != NUMERICS_VERSION:
        raise ValueError(
            f"numerics version: logged {identity['numerics']}, here {NUMERICS_VERSION}: the arithmetic was changed "
            f"since, on purpose. Verify it with the code of then: {code}"
        )
    try:
        logged = config.parse(trial.config)
    except ValueError as error:
        raise ValueError(
            f"its config is none of this code's ({error}). Verify it with the code of then: {code}"
        ) from None
    moved = {"data.train": train, "data.test": test, "backbone.name": model}
    here = logged.override({path: value for path, value in moved.items() if value is not None})
    _require_same(here, identity)
    on_gpu, obstacles = _device(here, identity)
    here = here.override({"backbone.precision": identity["precision"]})
    threads, further = _execution(trial, on_gpu=on_gpu)
    if logged.method == "in_context" and logged.in_context.endpoint is not None:
        further.append("a server replied, whose replies may change")
    return Prepared(
        config=here,
        threads=threads,
        on_gpu=on_gpu,
        obstacles=tuple(dict.fromkeys([*obstacles, *_versions(identity), *further])),
        notes=tuple(_notes(logged, trial)),
    )


def run_again(trial: LoggedTrial, prepared: Prepared, *, folder: Path, say: Say) -> dict[str, float]:
    """The trial's final metrics, found anew in this process.

    Args:
        trial: as it was logged.
        prepared: from `prepare`.
        folder: an empty one for the trial's files.
        say: takes each message on the way.

    Raises:
        RuntimeError: it failed this time.
    """
    from sweeps.engine.worker.attempt import run  # it imports torch

    job = Job(
        key=trial.environment["key"],
        config=prepared.config.override({"compute.threads": prepared.threads}).model_dump(),
        environment={"key": trial.environment["key"], "verifies": trial.run_id},
        folder=str(folder / "trial"),
        checkpoints="",
        train_runs="",
        ledger="",
        owner="verify",
        workers=0,
        cpus_per_worker=prepared.threads,
        gpus_per_worker=1.0 if prepared.on_gpu else 0.0,
    )
    outcome = run(job, say=say)
    if "error" in outcome:
        raise RuntimeError(outcome["error"])
    metrics: dict[str, float] = outcome["metrics"]
    return metrics


def _code_of(trial: LoggedTrial) -> str:
    """How to have the code that the trial ran on."""
    commit: str = trial.environment["facts"]["git_commit"]
    if commit.startswith("no git"):
        return "it ran from no git checkout, so its version is not known"
    return f"git checkout {commit.partition(' ')[0]}" + (", then apply the run's code.diff" if " " in commit else "")


def _require_same(here: TrialConfig, identity: Mapping[str, Any]) -> None:
    """Refuse data and a model that are not the trial's."""
    for split, source in (("train", here.data.train), ("test", here.data.test)):
        logged = identity["data"][split]
        cure = f"put the file of then back, or say where it is: --{split} FILE"
        try:
            present = conversations.load(source).fingerprint
        except (ValueError, OSError) as error:
            raise ValueError(f"data.{split}: {error}. The logged fingerprint is {logged}: {cure}") from None
        if present != logged:
            raise ValueError(
                f"data.{split} = {source}: these are not the dialogues of the run: logged fingerprint {logged}, "
                f"present fingerprint {present}; {cure}"
            )
    try:
        source = weights.resolve(here.backbone).fingerprint
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error}. The logged fingerprint is {identity['backbone']}: --model says where it is"
        ) from None
    if source != identity["backbone"]:
        raise ValueError(
            f"backbone.name = {here.backbone.name}: this is not the model of the run: logged fingerprint "
            f"{identity['backbone']}, present fingerprint {source}; bring the model of then back (for one of the Hub: "
            "its revision), or say where it is: --model FOLDER"
        )


def _device(here: TrialConfig, identity: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether it runs on a GPU, and why its bits may differ for it.

    Raises:
        ValueError: the precision of then cannot be had here.
    """
    import torch

    on_gpu = identity["device_type"] == "cuda" and torch.cuda.is_available()
    try:
        backbone.resolve_precision(identity["precision"], "cuda" if on_gpu else "cpu")
    except ValueError as error:
        raise ValueError(f"{error}; the trial ran in it on a GPU: verify it on a machine with a GPU") from None
    if on_gpu:
        return True, ["sums on a GPU are taken in no fixed order"]
    return False, ["it ran on a GPU and runs on a CPU now"] if identity["device_type"] == "cuda" else []


def _versions(identity: Mapping[str, Any]) -> list[str]:
    here = {name: importlib.metadata.version(name) for name in identity["versions"]}
    return [f"{name} was {then}, is {here[name]}" for name, then in identity["versions"].items() if here[name] != then]


def _execution(trial: LoggedTrial, *, on_gpu: bool) -> tuple[int, list[str]]:
    """The threads to use, and what differs in how the trial is executed."""
    then = trial.environment.get("execution")
    if then is None:
        return os.cpu_count() or 1, ["how many threads it ran with was not logged"]
    now = provenance.execution("cuda" if on_gpu else "cpu")
    differing = [
        f"the {name} was {then[name]}, is {now[name]}" for name in ("processor", "torch") if then[name] != now[name]
    ]
    if then["workers"] != 1:
        differing.append(f"it ran on {then['workers']} workers, and runs on one now")
    return int(then["threads"]), [one.replace("the torch", "the build of torch") for one in differing]


def _notes(logged: TrialConfig, trial: LoggedTrial) -> list[str]:
    """What differs between then and now and is no reason to refuse."""
    then, now = trial.environment["facts"], provenance.facts()
    notes = []
    if then["git_commit"] != now["git_commit"]:
        notes.append(f"code: logged {then['git_commit']}, here {now['git_commit']}")
    elif "uncommitted" in now["git_commit"]:
        notes.append(
            "code: of the same commit, with uncommitted changes then and now (code.diff of the run has its own)"
        )
    for name in ("python", *provenance.PACKAGES):
        if name in then and then[name] != now[name]:
            notes.append(f"{name}: logged {then[name]}, here {now[name]}")
    key = logged.key(**trial.identity)
    if key != trial.environment["key"]:
        notes.append(
            f"key: logged {trial.environment['key']}, and under this code its config has {key}: what a trial is has "
            "changed since, or the logged config was"
        )
    return notes
