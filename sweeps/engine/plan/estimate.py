"""What a plan will take, before it runs: device hours, memory and cost, each with what it rests on.

It rests on a calibration of the same shape, or else on trials of this output folder that have finished and differ in
nothing that costs time; without either there is no estimate.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from spt_core import config as configs
from spt_core.config import TrialConfig
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.plan import calibration
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import AWAITS_TUNING, Trial
from sweeps.engine.store import trial_folder

_FREE: Any = {
    "compute": {"threads"},
    "seed": True,
    "backbone": {"name", "revision", "precision"},
    "data": {"train", "test", "split_seed"},
    "prompts": {"init", "init_text"},
    "optim": {"learning_rate", "order"},
    "losses": {
        "soft_prompt": {"weight", "reduction"},
        "contrastive": {"weight", "threshold"},
        "selection": {"weight", "tau_g", "tau_s", "direction", "target_noise", "nll"},
        "fusion": {"weight"},
    },
}
"""Fields that change what a trial finds and not what it takes; data and model are known by their fingerprints."""
_AMOUNTS = {
    "optim": ("max_steps", "epochs", "patience"),
    "data": ("max_dev_responses", "max_test_responses", "dev_dialogues"),
    "evaluation": ("split", "every_steps"),
}
"""Fields that say how much of each part there is, which a calibration multiplies by."""
_MOST_FINISHED, MOST_SHAPES = 500, 16


@dataclass(frozen=True)
class Estimate:
    """What the trials of a plan that have to run will take.

    Attributes:
        trials: to run.
        without_basis: how many of them are not in the figures.
        device_hours: of the others; None where nothing is known.
        memory_mib: the dearest of one worker; None where no calibration says.
        bases: what it rests on, in words.
        concurrency: trials at once.
        devices: of each trial.
        price_per_hour: of a device; None where none was given.
        assumes: what the figures take for granted, in words; empty if nothing.
    """

    trials: int
    without_basis: int
    device_hours: float | None
    memory_mib: float | None
    bases: tuple[str, ...]
    concurrency: int
    devices: float
    price_per_hour: float | None
    assumes: str

    @property
    def wall_hours(self) -> float | None:
        """From start to end, if no device idles."""
        return None if self.device_hours is None else self.device_hours / (self.concurrency * self.devices)

    @property
    def cost(self) -> float | None:
        """In the currency of the price."""
        if self.device_hours is None or self.price_per_hour is None:
            return None
        return self.device_hours * self.price_per_hour

    def document(self) -> dict[str, Any]:
        """For programs; null is not known."""
        return {
            "trials": self.trials,
            "without_basis": self.without_basis,
            "device_hours": self.device_hours,
            "wall_hours": self.wall_hours,
            "memory_mib": self.memory_mib,
            "price_per_hour": self.price_per_hour,
            "cost": self.cost,
            "bases": list(self.bases),
            "assumes": self.assumes,
        }

    def describe(self, output: Path) -> list[str]:
        """For people, a few lines.

        Args:
            output: folder that is named where there is nothing to go by.
        """
        if not self.trials:
            return []
        if self.device_hours is None:
            return [
                f"No basis for an estimate: no trial of the same shape has finished in {output}, and nothing was "
                "measured; --calibrate runs a few steps of each shape here."
            ]
        assert self.wall_hours is not None
        known = self.trials - self.without_basis
        parts = [
            f"Estimate: {_hours(self.device_hours)} of devices for {known} trial{'s' * (known != 1)}",
            f"about {_hours(self.wall_hours)} with {self.concurrency} at once",
            f"{self.memory_mib / 1024:.1f} GiB a worker" if self.memory_mib is not None else "",
            f"{self.cost:,.2f} at {self.price_per_hour:g} a device hour" if self.cost is not None else "",
        ]
        lines = [f"{'; '.join(filter(None, parts))}.", f"It rests on {' and '.join(self.bases)}{self.assumes}."]
        if self.without_basis:
            lines.append(
                f"Not in it, for want of a basis: {self.without_basis} of other shapes; --calibrate measures them."
            )
        return lines


def estimate(
    plan: Plan,
    found: Iterable[str],
    *,
    output: Path,
    resources: Resources,
    price_per_hour: float | None = None,
) -> Estimate:
    """What is left of a plan to run, by what is known in an output folder.

    Args:
        plan: the sweep.
        found: keys of the trials that have finished.
        output: folder of calibration and finished trials.
        resources: what each trial gets, and how many run at once.
        price_per_hour: of a device.
    """
    to_run = _to_run(plan, set(found))
    calibrated = calibration.remembered(output)
    finished = _finished(output)
    seconds, memory, bases, without = 0.0, list[float](), defaultdict[str, int](int), 0
    if calibrated or finished:
        of = _by_shape(resources.cpus_per_worker)
        for trial, times in to_run:
            part, whole = of(trial)
            if part in calibrated:
                seconds += times * calibrated[part].seconds(trial.config) * (resources.gpus_per_worker or 1.0)
                memory.append(calibrated[part].memory_mib)
                bases[f"{calibration.STEPS - 1} steps timed here"] += times
            elif whole in finished:
                seconds += times * mean(finished[whole]) * resources.devices
                bases["finished trials of the same shape"] += times
            else:
                without += times
    number = sum(times for _, times in to_run)
    known = bool(bases)
    return Estimate(
        number,
        without if known else number,
        seconds / 3600 if known else None,
        max(memory, default=None),
        tuple(bases),
        resources.concurrency or 1,
        resources.devices,
        price_per_hour,
        _ASSUMED if plan.search is not None else "",
    )


_ASSUMED = ", as if each trial of the search had the base's shape and none were stopped early"


def calibrate(
    plan: Plan, found: Iterable[str], *, output: Path, resources: Resources, say: Callable[[str], None]
) -> None:
    """Measure the shapes of a plan's trials that have to run and were not measured before, the commonest first.

    Raises:
        ValueError: a shape did not run, or the trials are to run on a GPU that is not here.
    """
    import torch

    if resources.gpus_per_worker and not torch.cuda.is_available():
        raise ValueError("--calibrate: it measures on this machine, which has no GPU; run it where the trials will run")
    threads = resources.cpus_per_worker or 1
    known, of = calibration.remembered(output), _by_shape(threads)
    shapes: dict[str, tuple[Trial, int]] = {}
    for trial, times in _to_run(plan, set(found)):
        if _is_served(trial.config):
            continue
        shape = of(trial)[0]
        first, before = shapes.get(shape, (trial, 0))
        shapes[shape] = (first, before + times)
    unknown = sorted((shape for shape in shapes if shape not in known), key=lambda shape: -shapes[shape][1])
    for number, shape in enumerate(unknown[:MOST_SHAPES], start=1):
        trial = shapes[shape][0]
        say(f"calibrating {number} of {min(len(unknown), MOST_SHAPES)}: {trial.label} ...")
        device = "cuda" if resources.gpus_per_worker else "cpu"
        measured = calibration.calibrate(trial.config, device_type=device, threads=threads)
        calibration.remember(output, shape, measured)
        say(f"  {measured.step_seconds:.2f} s a step, {measured.memory_mib / 1024:.1f} GiB")


def _to_run(plan: Plan, found: set[str]) -> list[tuple[Trial, int]]:
    """The trials that have to run, each with how often it counts: those of a search as the base, so many times."""
    trials = {**plan.known, **plan.distinct}
    to_run = [(trial, 1) for key, trial in trials.items() if key not in found]
    if plan.search is not None:
        design = plan.search.design
        to_run.append((plan.search.trial({}), design.num_trials))
        if len(plan.cells) == 1:  # the best are not known yet
            to_run.append((plan.trials[0], design.confirm * len(plan.seeds)))
    return to_run


def _by_shape(threads: int | None) -> Callable[[Trial], tuple[str, str]]:
    """The shape of a trial's parts, and that of the whole, which has how many there are of each; once a cell."""
    made: dict[str, tuple[str, str]] = {}

    def of(trial: Trial) -> tuple[str, str]:
        name = trial.config.model_copy(update={"seed": 0}).model_dump_json()
        if name not in made:
            made[name] = shapes(trial.config, trial.identity, threads=threads)
        return made[name]

    return of


def shapes(config: TrialConfig, identity: Mapping[str, Any], *, threads: int | None) -> tuple[str, str]:
    """What the cost of a trial's parts depends on, and what that of the whole depends on, as hashes.

    Args:
        config: of the trial.
        identity: of the trial: data, model, precision, device.
        threads: of torch.
    """
    tree = config.canonical().model_copy(update={"compute": config.compute}).model_dump(exclude=_FREE)
    about = {name: value for name, value in identity.items() if name != AWAITS_TUNING}
    whole = _hash({"config": tree, **about})
    for group, names in _AMOUNTS.items():
        for name in names:
            del tree[group][name]
    return _hash({"config": tree, **about, "threads": config.compute.threads or threads}), whole


def _hash(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _finished(output: Path) -> dict[str, list[float]]:
    """Seconds on one worker of the trials that finished lately, by the shape of the whole."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    folders = [path.parent for path in (output / "trials").glob(f"*/{trial_folder.METRICS}")]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[:_MOST_FINISHED]:
        try:
            config = configs.parse(trial_folder.read_config(folder))
            identity = trial_folder.read_environment(folder)["identity"]
            seconds = (trial_folder.read_metrics(folder) or {})["worker/seconds"]
            found[shapes(config, identity, threads=None)[1]].append(seconds)
        except (ValueError, KeyError):  # half copied, or of another version
            continue
    return dict(found)


def _is_served(config: TrialConfig) -> bool:
    return config.method == "in_context" and config.in_context.endpoint is not None


def _hours(hours: float) -> str:
    minutes = hours * 60
    if minutes < 1:
        return f"{minutes * 60:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
