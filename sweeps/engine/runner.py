"""Runs a plan: what the ledger lacks goes through Ray Tune; the rest is reused; all of it is recorded and reported."""

import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeps.engine import cluster, provenance, storage
from sweeps.engine.budget import Budget
from sweeps.engine.design import Sweep, factors, label
from sweeps.engine.ledger import Entry, Ledger, owner_here
from sweeps.engine.plan import Plan, Trial
from sweeps.engine.progress import View
from sweeps.engine.results import TrialResult
from sweeps.engine.retries import MOST_LOSSES
from sweeps.engine.trial import PERCENT, Job, supervise

if TYPE_CHECKING:
    from sweeps.engine.explored import Explored

OBJECTIVE = "dev/nll"
"""What a study records of each trial: never a test metric."""
LEDGER = "ledger.db"
"""The ledger's file in the output folder."""
_GIB_A_TRIAL = 3.0
"""Memory that decides how many CPU trials run at once when nobody says; SmolLM2-135M at K = 4 peaks near it."""
_SUPERVISOR_CPU = 0.01
_REACH_SECONDS = 5.0
_HEAD = "node:__internal_head__"
"""Resource that Ray gives to the head node alone."""


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many run at once.

    Attributes:
        workers: Train workers a trial; 0 trains inside the Tune function.
        cpus_per_worker: None shares this machine's CPUs among the concurrent trials.
        gpus_per_worker: None is 1 where the machine or cluster has GPUs and 0 elsewhere.
        concurrency: trials at once; None is as many as fit.
        spread: put a trial's workers on as many nodes as there are, and not on as few.
    """

    workers: int = 1
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    concurrency: int | None = None
    spread: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"--workers {self.workers}: it should be 0 (in process) or more")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise ValueError(f"--cpus-per-worker {self.cpus_per_worker}: it should be at least 1")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ValueError(f"--gpus-per-worker {self.gpus_per_worker}: it should be 0 or more")
        if self.gpus_per_worker and self.gpus_per_worker % 1 and (self.gpus_per_worker > 1 or self.workers > 1):
            raise ValueError(
                f"--gpus-per-worker {self.gpus_per_worker:g}: a fraction below 1 is for trials of one worker that "
                "share a GPU; use whole GPUs, or --workers 1"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"--concurrency {self.concurrency}: it should be at least 1")

    @property
    def devices(self) -> float:
        """What a trial holds of what is paid for: its share of GPUs, or its workers where there are none."""
        workers = max(1, self.workers)
        return workers * self.gpus_per_worker if self.gpus_per_worker else float(workers)


@dataclass(frozen=True)
class Places:
    """Where a sweep's files are: below one output folder of the driver's, but for a study that is elsewhere.

    Attributes:
        output: that folder.
        study: URL of an Optuna storage; None is a file in the output folder.
        storage: a folder or the URI of a bucket through which trials on other nodes hand over their files and
            checkpoints; None where all nodes see the output folder.
    """

    output: Path
    study: str | None = None
    storage: str | None = None

    @property
    def ledger(self) -> str:
        """URL of the ledger, shared by all sweeps of this output folder."""
        return f"sqlite:///{self.output / LEDGER}"

    @property
    def tracking(self) -> str:
        """Default MLflow store."""
        return f"sqlite:///{self.output / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        """Where MLflow keeps files when its store is the default one."""
        return (self.output / "mlartifacts").as_uri()

    @property
    def studies(self) -> str:
        """URL of Optuna's studies."""
        return self.study or f"sqlite:///{self.output / 'optuna.db'}"

    @property
    def checkpoints(self) -> str:
        """Checkpoints of trials that are running or were interrupted."""
        return storage.join(self.storage, "checkpoints") if self.storage else str(self.output / "checkpoints")

    def handed_over(self, key: str) -> str:
        """Where a trial's worker on another node leaves its files; empty where it writes to the trial's folder."""
        return storage.join(self.storage, "files", key) if self.storage else ""

    def trial(self, key: str) -> Path:
        """A trial's folder."""
        return self.output / "trials" / key

    def report(self, plan: Plan) -> Path:
        """The folder of a sweep's report."""
        return self.output / plan.sweep_id


def resolve_device(resources: Resources) -> tuple[str, Resources]:
    """The device type that trials will run on, with the number of GPUs made plain.

    Raises:
        ValueError: GPUs are asked for where there is none.
    """
    gpus = _available().gpus
    asked = resources.gpus_per_worker
    if asked and not gpus:
        raise ValueError(
            f"--gpus-per-worker {asked:g}: no GPU was found here; use --gpus-per-worker 0, or run on a machine or "
            "cluster that has one"
        )
    resolved = (1.0 if gpus else 0.0) if asked is None else asked
    return ("cuda" if resolved else "cpu"), replace(resources, gpus_per_worker=resolved)


@contextmanager
def connection(*, verbose: bool) -> Iterator[None]:
    """The cluster at RAY_ADDRESS for the block, if there is one; a Ray of this machine starts when it has work."""
    with ExitStack() as stack:
        if os.environ.get("RAY_ADDRESS"):
            stack.enter_context(ray_runtime(verbose=verbose))
        yield


def _available() -> cluster.Cluster:
    ray = sys.modules.get("ray")  # its import is dear, and without it nothing is connected
    return cluster.connected() if ray is not None and ray.is_initialized() else cluster.this_machine()


def refuse_unshared(plan: Plan, places: Places, resources: Resources) -> None:
    """Refuse what trials on other nodes could not see or could not write to.

    Raises:
        ValueError: the option, its value and what would do.
    """
    available = _available()
    if not available.has_several_nodes:
        return
    if resources.workers == 0:
        raise ValueError(
            "--workers 0: trials in the Tune process are for one machine, and this cluster has several nodes, or can "
            "get them: use --workers 1 or more"
        )
    if places.storage is None:
        places.output.mkdir(parents=True, exist_ok=True)
        cluster.refuse_unshared_output(available, "--output", places.output)
    elif storage.is_remote(places.storage):
        storage.probe(places.storage)
    else:
        Path(places.storage).mkdir(parents=True, exist_ok=True)
        cluster.refuse_unshared_output(available, "--storage", Path(places.storage))
    configs = [trial.config for trial in plan.distinct.values()]
    inputs = {("--train", config.data.train) for config in configs} | {
        ("--test", config.data.test) for config in configs
    }
    for option, name in sorted(inputs | {("--model", config.backbone.name) for config in configs}):
        if Path(name).exists():  # else a name that those who read it know
            cluster.refuse_unshared_input(available, option, Path(name))


def resolve_half_precision(settings: Mapping[str, Any], sweep: Sweep, device_type: str) -> dict[str, Any]:
    """The settings, with what `auto` means on the cluster's GPUs where the driver's machine has none to ask.

    Raises:
        ValueError: the sweep leaves it to `auto`, and Ray does not know what GPUs there are.
    """
    import torch

    precision = settings.get("backbone.precision", sweep.base.backbone.precision)
    if device_type != "cuda" or precision != "auto" or torch.cuda.is_available():
        return dict(settings)
    half = _available().half_precision
    if half is None:
        raise ValueError(
            "backbone.precision = 'auto': this machine has no GPU to ask and Ray does not know the kind of the "
            "cluster's; say it: --set backbone.precision=float16 (V100, T4), bfloat16 (A100 and later) or float32"
        )
    return {**settings, "backbone.precision": half}


def recall(plan: Plan, places: Places) -> dict[str, TrialResult]:
    """The trials of a plan that have finished before, by key. Makes nothing where nothing is yet."""
    finished = [entry for entry in recorded(plan, places).values() if entry.state == "finished"]
    return {entry.key: replace(result_of(entry, places), reused=True) for entry in finished}


def recorded(plan: Plan, places: Places) -> dict[str, Entry]:
    """What the ledger holds of the trials of a plan, by key. Makes nothing where nothing is yet."""
    if not (places.output / LEDGER).is_file():
        return {}
    return Ledger(places.ledger).entries(list(plan.known))


def tuned(plan: Plan, places: Places) -> Plan:
    """The plan as its tuning round left it, if it has one that has ended."""
    return plan.tuned(recorded(plan, places)) if plan.awaits_tuning else plan


def forget(plan: Plan, places: Places) -> None:
    """Drop the results of a plan's trials, for `--rerun`; those that another driver is running stay."""
    ledger, keys = Ledger(places.ledger), {**plan.known, **tuned(plan, places).known}
    ledger.forget(list(keys))
    left = ledger.entries(list(keys))
    for key in keys:
        if key not in left:
            shutil.rmtree(places.trial(key), ignore_errors=True)
            storage.remove(storage.join(places.checkpoints, key))
            if handed_over := places.handed_over(key):
                storage.remove(handed_over)


@dataclass(frozen=True)
class Outcome:
    """How a run of a sweep ended.

    Attributes:
        plan: with the cells that a search found, or the levels that a tuning round chose, if there was one.
        results: how each distinct trial ended, by key.
        report: the HTML file.
        interrupted: Ctrl-C came; the trials without a result wait for the next run.
        undelivered: what MLflow has not got yet; the next run of the sweep delivers it.
        gave_up: why a search ended before its budget was spent; None if it did not.
        spent_hours: of devices, by this run.
        budget_spent: no further trial was handed out for that.
    """

    plan: Plan
    results: dict[str, TrialResult]
    report: Path
    interrupted: bool
    undelivered: tuple[str, ...]
    gave_up: str | None = None
    spent_hours: float = 0.0
    budget_spent: bool = False


def execute(
    plan: Plan,
    *,
    resources: Resources,
    places: Places,
    tracking_uri: str,
    console: Console,
    budget_hours: float | None = None,
    verbose: bool = False,
    replanned: Callable[[Plan], None] = lambda plan: None,
) -> Outcome:
    """Run what the ledger lacks, project all of it to MLflow, and write the report.

    Args:
        plan: the sweep.
        resources: from `resolve_device`.
        places: where files go.
        tracking_uri: of MLflow, checked before.
        console: where progress is shown.
        budget_hours: of devices, after which no further trial is handed out; None is no limit.
        verbose: let Ray, Tune and transformers say what they do.
        replanned: told of the plan that a first round led to.

    Raises:
        ValueError: the machine or cluster can never hold one trial.
    """
    from sweeps.engine import report, tracking
    from sweeps.engine.watching import Watcher

    ledger, owner = Ledger(places.ledger), owner_here()
    artifacts = places.artifacts if tracking_uri == places.tracking else None
    facts = {**provenance.facts(), "tracking": tracking.redact(tracking_uri)}
    tracker = tracking.Tracker(tracking_uri, plan=plan, artifacts=artifacts, facts=facts, ledger=ledger)
    budget = Budget(budget_hours, devices=resources.devices)
    interrupted, torn, gave_up = False, set[str](), None
    with tracker:
        with View(console, trials=list(plan.known.values())) as view, ExitStack() as stack:
            watcher = Watcher(plan, places, ledger, view, tracker)
            rounds = _Rounds(
                plan,
                resources=resources,
                places=places,
                ledger=ledger,
                owner=owner,
                watcher=watcher,
                budget=budget,
                verbose=verbose,
                stack=stack,
            )

            def next_round(plan: Plan) -> Plan:
                watcher.plan = plan
                for trial in plan.known.values():
                    watcher.add(trial)
                tracker.replan(plan)
                replanned(plan)
                return plan

            try:
                if plan.exploration is not None:
                    gave_up = rounds.explore(lambda trial, entry: watcher.reuse(trial, result_of(entry, places)))
                    if not budget.is_spent:
                        plan = next_round(plan.confirming(rounds.best()))
                if plan.tuning is not None:
                    rounds.run(plan.tuning.trials, study=f"{plan.sweep_id}-tuning")
                    plan = next_round(tuned(plan, places))
                if not plan.awaits_tuning:
                    rounds.run(plan.distinct, study=plan.study)
            except KeyboardInterrupt:
                interrupted = True
        for trial in watcher.trials.values():
            ledger.release(trial.key, owner=owner)
            if interrupted and trial.key not in watcher.ended:
                torn.add(trial.key)
        results = _results(ledger.entries(list(watcher.trials)), places, reused=watcher.reused)
        for key in torn & results.keys():
            # What a trial says while it is being torn down (its workers are gone) is not how it ended.
            if results[key].state != "finished":
                results[key] = replace(results[key], state="interrupted", error=None)
            tracker.finish(watcher.trials[key], results[key])
        explored = rounds.explored() if plan.exploration is not None else None
        page = report.write(plan, results, places.report(plan), facts=facts, explored=explored)
        if not interrupted:
            tracker.summarise(places.report(plan), _summary(plan, results))
        undelivered = tracker.close(timeout=60)
    left = any(key not in results or results[key].state == "interrupted" for key in plan.distinct)
    return Outcome(
        plan,
        results,
        page,
        interrupted,
        undelivered,
        gave_up,
        spent_hours=budget.spent_hours,
        budget_spent=left and budget.is_spent,
    )


def write_report(plan: Plan, places: Places) -> tuple[Plan, dict[str, TrialResult], Path]:
    """Write the report of what there is of a sweep, and train nothing.

    Returns:
        The plan as its first round left it, the results by trial key, and the page.

    Raises:
        ValueError: nothing of it has run.
    """
    from sweeps.engine import report
    from sweeps.engine import study as studies
    from sweeps.engine.explored import Explored

    if not (places.output / LEDGER).is_file():
        raise ValueError(f"{places.output}: there is no ledger in it; run the sweep first")
    explored = None
    if plan.exploration is not None:
        study = studies.study_of(plan, places.studies)
        explored, best = Explored(study, plan.exploration), studies.found(study, plan.exploration)
        if len(studies.keys(study)) >= plan.exploration.design.num_trials:
            plan = plan.confirming(best)
    plan = tuned(plan, places)
    results = _results(recorded(plan, places), places, reused=set())
    facts = {**provenance.facts(), "written": "again, from the trials' files: the facts above are of the writing"}
    page = report.write(plan, results, places.report(plan), facts=facts, explored=explored)
    return plan, results, page


def _results(entries: Mapping[str, Entry], places: Places, *, reused: set[str]) -> dict[str, TrialResult]:
    return {key: replace(result_of(entry, places), reused=key in reused) for key, entry in entries.items()}


def result_of(entry: Entry, places: Places) -> TrialResult:
    """What the ledger says of a trial that nobody runs any more."""
    state = "interrupted" if entry.state == "running" else entry.state
    return TrialResult(entry.key, state, entry.metrics, places.trial(entry.key), error=entry.error)


def _summary(plan: Plan, results: Mapping[str, TrialResult]) -> dict[str, float]:
    """The primary metric of each cell, averaged over its seeds where all of them finished and have it."""
    summary = {"trials/finished": float(sum(result.state == "finished" for result in results.values()))}
    for cell in plan.cells:
        keys = [trial.key for trial in plan.trials if trial.cell == cell]
        values = [
            results[key].metrics[plan.sweep.primary_metric]
            for key in keys
            if key in results and plan.sweep.primary_metric in results[key].metrics
        ]
        if len(values) == len(keys):
            summary[f"{plan.sweep.primary_metric}/{label(cell)}"] = sum(values) / len(values)
    return summary


def _cost(trial: Trial) -> float:
    """Relative price of a trial: rows through the backbone."""
    optim, config = trial.config.optim, trial.config
    if config.method == "in_context":
        return 0.0
    return float(config.num_choices * optim.batch_size * (optim.max_steps or 1) * optim.epochs)


def _job(trial: Trial, plan: Plan, places: Places, resources: Resources, *, owner: str, verbose: bool) -> Job:
    assert resources.cpus_per_worker is not None
    assert resources.gpus_per_worker is not None
    return Job(
        key=trial.key,
        config=trial.config.model_dump(),
        environment={
            "key": trial.key,
            "sweep": plan.sweep_id,
            "cell": factors(trial.cell),
            "identity": dict(trial.identity),
            "facts": provenance.facts(),
        },
        code_diff=provenance.code_diff(),
        folder=str(places.trial(trial.key)),
        storage=places.checkpoints,
        handed_over=places.handed_over(trial.key),
        ledger=places.ledger,
        owner=owner,
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        spread=resources.spread,
        verbose=verbose,
    )


def fit_resources(resources: Resources, *, num_trials: int) -> Resources:
    """Fill in what was left open: how many trials at once, and how many CPUs each of their workers gets.

    Small CPU trials run side by side on a thread each, since two processes use two cores better than one does. On a
    cluster the nodes that its autoscaler may add count as well: what runs at once is what makes it add them.
    """
    available = _available()
    workers, gpus = max(1, resources.workers), resources.gpus_per_worker or 0.0
    beside_a_gpu = available.share_of_cpus(gpus) if gpus else 1
    size = {"cpus": resources.cpus_per_worker or beside_a_gpu, "gpus": gpus, "memory": _GIB_A_TRIAL}
    concurrency = resources.concurrency or max(1, min(available.room(**size) // workers, num_trials))
    cpus = resources.cpus_per_worker
    if cpus is None:
        most = max(nodes.cpus for nodes in available.nodes)
        cpus = beside_a_gpu if gpus else max(1, int(min(most, available.cpus // (concurrency * workers))))
    return replace(resources, concurrency=concurrency, cpus_per_worker=cpus)


class _Rounds:
    """The rounds of one sweep through Ray Tune, on one Ray that is started when the first of them has work.

    Args:
        plan: the sweep, before its search.
        resources: of each trial.
        places: where files go.
        ledger: the truth.
        owner: of this driver's claims.
        watcher: Tune's callback.
        budget: of all rounds together.
        verbose: let Ray say what it does.
        stack: what Ray is ended with.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        resources: Resources,
        places: Places,
        ledger: Ledger,
        owner: str,
        watcher: Any,
        budget: Budget,
        verbose: bool,
        stack: ExitStack,
    ) -> None:
        self._budget = budget
        self._plan, self._resources, self._places, self._ledger = plan, resources, places, ledger
        self._owner, self._watcher, self._verbose, self._stack = owner, watcher, verbose, stack

    def run(self, trials: Mapping[str, Trial], *, study: str) -> None:
        """The given trials, by key, at full budget, but for those that have finished; recorded in a study."""
        entries = self._ledger.entries(list(trials))
        found = {key: entry for key, entry in entries.items() if entry.state == "finished"}
        for key, entry in found.items():
            self._watcher.reuse(trials[key], result_of(entry, self._places))
        # The dearest first: the trials that end last are then short, and no core waits long.
        pending = sorted((trial for key, trial in trials.items() if key not in found), key=_cost, reverse=True)
        for _ in range(1 + MOST_LOSSES):
            if not pending or self._budget.is_spent:
                return
            self._hand_out(pending, of=trials, study=study)
            # Tune gives a trial up, untried, whose process is dead when it is handed over: such a one has not ended.
            entries = self._ledger.entries([trial.key for trial in pending])
            pending = [trial for trial in pending if not self._has_ended(entries.get(trial.key))]

    def _has_ended(self, entry: Entry | None) -> bool:
        """Whether a trial that was handed out finished anywhere, or failed here and now."""
        failed = entry is not None and entry.state == "failed" and entry.owner == self._owner
        return failed or (entry is not None and entry.state == "finished")

    def _hand_out(self, pending: Sequence[Trial], *, of: Mapping[str, Trial], study: str) -> None:
        self._start()
        from sweeps.engine.search import PlannedSearch

        planned = PlannedSearch(
            study,
            of.values(),
            [(trial, self._job(trial)) for trial in pending],
            metric=OBJECTIVE,
            storage=self._places.studies,
            ledger=self._ledger,
            budget=self._budget,
        )
        self._tune(planned, num_samples=len(pending))

    def explore(self, answered: Callable[[Trial, Entry], None]) -> str | None:
        """The trials of the plan's search; why it ended before its budget was spent, if it did."""
        from ray.tune.schedulers import ASHAScheduler

        from sweeps.engine import search
        from sweeps.engine import study as studies

        exploration = self._plan.exploration
        assert exploration is not None
        design = exploration.design
        source = search.StudySearch(
            self._plan,
            storage=self._places.studies,
            ledger=self._ledger,
            owner=self._owner,
            job_of=self._job,
            proposed=self._watcher.add,
            answered=answered,
            budget=self._budget,
        )
        for trial, entry in source.recall():  # the driver before may have died before MLflow heard of it
            self._watcher.add(trial)
            answered(trial, entry)
        if len(studies.keys(source.study)) < design.num_trials:
            self._start()
            scheduler = None
            if design.pruner is not None:
                scheduler = ASHAScheduler(
                    time_attr=PERCENT,
                    metric=OBJECTIVE,
                    mode="min",
                    max_t=99,  # no rung at the end: a trial that is trained is scored
                    grace_period=design.pruner.grace_percent,
                    reduction_factor=design.pruner.reduction_factor,
                    stop_last_trials=False,
                )
            self._tune(source, num_samples=-1, scheduler=scheduler)
        return source.gave_up

    def best(self) -> list[Mapping[str, Any]]:
        """Params of what the search found, best first."""
        from sweeps.engine import study as studies

        assert self._plan.exploration is not None
        return studies.found(studies.study_of(self._plan, self._places.studies), self._plan.exploration)

    def explored(self) -> "Explored":
        """The plan's search as far as it came."""
        from sweeps.engine import study as studies
        from sweeps.engine.explored import Explored

        assert self._plan.exploration is not None
        return Explored(studies.study_of(self._plan, self._places.studies), self._plan.exploration)

    def _start(self) -> None:
        import ray

        if not ray.is_initialized():
            self._watcher.announce("starting Ray")
        self._places.output.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(ray_runtime(verbose=self._verbose))
        _refuse_impossible(self._resources, cluster.connected())

    def _job(self, trial: Trial) -> Job:
        return _job(trial, self._plan, self._places, self._resources, owner=self._owner, verbose=self._verbose)

    def _tune(self, source: Any, *, num_samples: int, scheduler: Any = None) -> None:
        """Hand out what the source has, and come back when all of it ended."""
        from ray import tune

        resources, places = self._resources, self._places
        in_process = resources.workers == 0
        share = {"CPU": float(resources.cpus_per_worker or 1), "GPU": resources.gpus_per_worker or 0.0}
        # A supervisor stays with the driver, so that no other node that is lost takes it along.
        bundle = share if in_process else {"CPU": _SUPERVISOR_CPU, _HEAD: _SUPERVISOR_CPU}
        tuner = tune.Tuner(
            tune.with_resources(supervise, tune.PlacementGroupFactory([bundle])),
            tune_config=tune.TuneConfig(
                search_alg=source,
                scheduler=scheduler,
                num_samples=num_samples,
                max_concurrent_trials=resources.concurrency,
                # With Train trials it was seen to deadlock, and a trial that is stopped leaves its actor busy.
                reuse_actors=in_process and scheduler is None,
                trial_dirname_creator=lambda trial: str(trial.trial_id),  # by default it spells out the config
            ),
            run_config=tune.RunConfig(
                name=self._plan.sweep_id,
                storage_path=str(places.output / "tune"),
                callbacks=[self._watcher],
                failure_config=tune.FailureConfig(max_failures=MOST_LOSSES),  # of a trial's supervisor
                verbose=0,
            ),
        )
        tuner.fit()


def _refuse_impossible(resources: Resources, available: cluster.Cluster) -> None:
    """Ray would wait for ever for resources that nobody has."""
    workers, cpus, gpus = max(1, resources.workers), resources.cpus_per_worker or 1, resources.gpus_per_worker or 0.0
    room = available.room(cpus=cpus, gpus=gpus)
    if room < workers:
        raise ValueError(
            f"one trial needs {workers} worker{'s' if workers > 1 else ''} of {cpus} CPUs and {gpus:g} GPUs, and there "
            f"is room for {room} of them ({available}): use fewer --workers, --cpus-per-worker or --gpus-per-worker"
        )


def _reach(address: str) -> None:
    """Raise an OSError where nothing listens at host:port; Ray itself would try for more than ten minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()


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
        ray.shutdown()
