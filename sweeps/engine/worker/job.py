"""What travels between the driver and a trial's worker: jobs one way, messages the other.

Tune keeps and copies what it is handed for as long as the driver lives. So it gets a trial's key and one short text.
What all trials of a run share is handed to Ray once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spt_core.config import TrialConfig
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.metrics import DEV_NLL
from sweeps.engine.store.layout import OutputLayout

PERCENT = "percent"
"""Number beside a row: the share of the training budget that is spent, by which early stopping compares trials."""
_MESSAGE = "message"
_KEY, _JOB = "key", "job"

TrialRequest = dict[str, str]
"""What Tune is handed for a trial."""


@dataclass(frozen=True)
class MetricRow:
    """The metrics of one moment of training.

    Attributes:
        step: optimisation steps taken.
        total_steps: of the whole training.
        seconds: since the trial started.
        metrics: by name.
    """

    step: int
    total_steps: int
    seconds: float
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "MetricRow":
        """From what training reports, or a line of a history: the same, flat."""
        rest = {name: float(value) for name, value in told.items() if name not in _PLACE and value is not None}
        return cls(int(told["step"]), int(told["total_steps"]), float(told["seconds"]), rest)

    @property
    def percent(self) -> float:
        """Of the training budget that is spent."""
        return 100 * self.step / max(1, self.total_steps)


_PLACE = frozenset({"step", "total_steps", "seconds"})


@dataclass(frozen=True)
class Scoring:
    """The test responses are being decoded and scored: the share that is done, 0 to 1."""

    share: float


@dataclass(frozen=True)
class RunsElsewhere:
    """Another driver is running the trial, and is waited for."""


@dataclass(frozen=True)
class Retrying:
    """An attempt broke off, and the trial is tried again; its folder says why."""


@dataclass(frozen=True)
class Ended:
    """The last message of a trial; the ledger says how it ended. Without it, the trial was stopped."""


Message = MetricRow | Scoring | RunsElsewhere | Retrying | Ended
Say = Callable[[Message], None]


def as_report(message: Message) -> dict[str, Any]:
    """A message as Tune takes it: as one value, beside the two numbers that a scheduler compares trials by.

    Of every number in a report Tune keeps statistics for as long as the driver lives.
    """
    report: dict[str, Any] = {_MESSAGE: message}
    if isinstance(message, MetricRow):
        report[PERCENT] = message.percent
        if DEV_NLL in message.metrics:
            report[DEV_NLL] = message.metrics[DEV_NLL]
    return report


def message_of(report: Mapping[str, Any] | None) -> Message | None:
    """The message in a report of Tune's; None where there is none."""
    message: Message | None = (report or {}).get(_MESSAGE)
    return message


@dataclass(frozen=True)
class Job:
    """All that a trial needs to run anywhere; plain values, which nobody changes.

    Attributes:
        key: of the trial.
        config: nested, as it was asked for.
        environment: key, identity and provenance, written beside the results.
        folder: where the trial's files go.
        checkpoints: where its checkpoints are kept while it runs.
        train_runs: where Ray Train has a folder of its own.
        handed_over: where a worker on another node leaves the trial's files; empty where it writes to `folder`.
        ledger: URL of the ledger.
        owner: of the claim: the driver that asked for the trial.
        workers: Train workers; 0 trains inside the Tune function.
        cpus_per_worker: logical CPUs, and torch threads, of each.
        gpus_per_worker: may be a fraction; 0 trains on the CPU.
        spread: the workers go to as many nodes as there are, and not to as few.
        verbose: let Ray Train say what it does.
        compute: the config's `compute` as this attempt uses it; None is as it was asked for.
        code_diff: uncommitted changes of the driver's checkout.
    """

    key: str
    config: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    folder: str
    checkpoints: str
    train_runs: str
    ledger: str
    owner: str
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    handed_over: str = ""
    spread: bool = False
    verbose: bool = False
    compute: dict[str, Any] | None = None
    code_diff: str = field(default="", repr=False)


@dataclass(frozen=True)
class SharedJob:
    """What the jobs of one run of a sweep have in common; Ray is handed it once.

    Attributes:
        sweep: its id.
        base: a config; what Tune is handed for a trial says in what its config differs.
        layout: where files go.
        resources: of each trial, with nothing left open.
        owner: of the claims: this driver.
        facts: of this run: command, commit, versions, machine.
        verbose: let Ray Train say what it does.
        code_diff: uncommitted changes of the driver's checkout.
    """

    sweep: str
    base: TrialConfig = field(repr=False)
    layout: OutputLayout
    resources: Resources
    owner: str
    facts: Mapping[str, str] = field(repr=False)
    verbose: bool = False
    code_diff: str = field(default="", repr=False)

    def request(
        self, key: str, config: TrialConfig, *, cell: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> TrialRequest:
        """What Tune is handed for a trial: its key, and the rest as one text.

        Args:
            key: of the trial.
            config: of the trial.
            cell: its factor levels.
            identity: what else its key was made from.
        """
        told = {"changes": self.base.differences(config), "cell": cell, "identity": identity}
        return {_KEY: key, _JOB: json.dumps(told)}

    def job(self, request: TrialRequest) -> Job:
        """The job that Tune was handed."""
        key, told = request[_KEY], json.loads(request[_JOB])
        layout, resources = self.layout, self.resources
        assert resources.cpus_per_worker is not None
        assert resources.gpus_per_worker is not None
        environment = {"key": key, "sweep": self.sweep, "cell": told["cell"], "identity": told["identity"]}
        return Job(
            key=key,
            config=self.base.override(told["changes"]).model_dump(),
            environment={**environment, "facts": dict(self.facts)},
            folder=str(layout.trial(key)),
            checkpoints=layout.checkpoints,
            train_runs=layout.train_runs,
            handed_over=layout.handed_over(key),
            ledger=layout.ledger,
            owner=self.owner,
            workers=resources.workers,
            cpus_per_worker=resources.cpus_per_worker,
            gpus_per_worker=resources.gpus_per_worker,
            spread=resources.spread,
            verbose=self.verbose,
            code_diff=self.code_diff,
        )


def key_of(request: TrialRequest) -> str:
    """The key of the trial that Tune was handed."""
    return request[_KEY]
