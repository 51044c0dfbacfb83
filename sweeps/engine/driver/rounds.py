"""The rounds of one sweep through Ray Tune: a search or the tuning of nuisance factors, then the cells."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sweeps.engine.cluster import nodes
from sweeps.engine.cluster.ray_runtime import ray_runtime
from sweeps.engine.cluster.resources import Resources, refuse_impossible
from sweeps.engine.design.designs import factors
from sweeps.engine.design.metrics import DEV_NLL
from sweeps.engine.plan.plan import Plan, Trial
from sweeps.engine.search.budget import Budget
from sweeps.engine.store import provenance
from sweeps.engine.store.layout import Places, result_of
from sweeps.engine.store.ledger import Entry, Ledger
from sweeps.engine.worker.retry_policy import MOST_LOSSES
from sweeps.engine.worker.supervisor import PERCENT, Job, supervise

if TYPE_CHECKING:
    from sweeps.engine.report.search_results import Explored

_SUPERVISOR_CPU = 0.01
_HEAD = "node:__internal_head__"
"""Resource that Ray gives to the head node alone."""


class Rounds:
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
        from sweeps.engine.search.optuna_searcher import PlannedSearch

        planned = PlannedSearch(
            study,
            of.values(),
            pending,
            metric=DEV_NLL,
            storage=self._places.studies,
            ledger=self._ledger,
            owner=self._owner,
            job_of=self._job,
            budget=self._budget,
        )
        self._tune(planned, num_samples=len(pending))

    def explore(self, answered: Callable[[Trial, Entry], None]) -> str | None:
        """The trials of the plan's search; why it ended before its budget was spent, if it did."""
        from ray.tune.schedulers import ASHAScheduler

        from sweeps.engine.search import optuna_searcher
        from sweeps.engine.search import study as studies

        exploration = self._plan.exploration
        assert exploration is not None
        design = exploration.design
        source = optuna_searcher.StudySearch(
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
                    metric=DEV_NLL,
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
        from sweeps.engine.search import study as studies

        assert self._plan.exploration is not None
        return studies.found(studies.study_of(self._plan, self._places.studies), self._plan.exploration)

    def explored(self) -> "Explored":
        """The plan's search as far as it came."""
        from sweeps.engine.report.search_results import Explored
        from sweeps.engine.search import study as studies

        assert self._plan.exploration is not None
        return Explored(studies.study_of(self._plan, self._places.studies), self._plan.exploration)

    def _start(self) -> None:
        import ray

        if not ray.is_initialized():
            self._watcher.announce("starting Ray")
        self._places.output.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(ray_runtime(verbose=self._verbose))
        refuse_impossible(self._resources, nodes.connected())

    def _job(self, trial: Trial) -> Job:
        return job_of(trial, self._plan, self._places, self._resources, owner=self._owner, verbose=self._verbose)

    def _tune(self, source: Any, *, num_samples: int, scheduler: Any = None) -> None:
        """Hand out what the source has, and come back when all of it ended."""
        from ray import tune

        from sweeps.engine.driver import tune_patch

        tune_patch.survive_them()
        resources, places = self._resources, self._places
        in_process = resources.workers == 0
        share = {"CPU": float(resources.cpus_per_worker or 1), "GPU": resources.gpus_per_worker or 0.0}
        # A supervisor stays with the driver, so that no other node that is lost takes it along.
        bundle = share if in_process else {"CPU": _SUPERVISOR_CPU, _HEAD: _SUPERVISOR_CPU}
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(supervise, code_diff=provenance.code_diff()), tune.PlacementGroupFactory([bundle])
            ),
            tune_config=tune.TuneConfig(
                search_alg=source,
                scheduler=scheduler,
                num_samples=num_samples,
                max_concurrent_trials=resources.concurrency,
                # A trial that a scheduler stops leaves its actor busy; with Train workers that was seen to deadlock.
                reuse_actors=scheduler is None,
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


def job_of(trial: Trial, plan: Plan, places: Places, resources: Resources, *, owner: str, verbose: bool) -> Job:
    """What a trial needs to run anywhere, as plain values.

    Args:
        trial: of the plan.
        plan: the sweep.
        places: where its files go.
        resources: with nothing left open.
        owner: of the claim.
        verbose: let Ray Train say what it does.
    """
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
        folder=str(places.trial(trial.key)),
        storage=places.checkpoints,
        train_runs=places.train_runs,
        handed_over=places.handed_over(trial.key),
        ledger=places.ledger,
        owner=owner,
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        spread=resources.spread,
        verbose=verbose,
    )


def _cost(trial: Trial) -> float:
    """Relative price of a trial: rows through the backbone."""
    optim, config = trial.config.optim, trial.config
    if config.method == "in_context":
        return 0.0
    return float(config.num_choices * optim.batch_size * (optim.max_steps or 1) * optim.epochs)
