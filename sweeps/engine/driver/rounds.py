"""The rounds of a sweep through Ray Tune, on one Ray that is started when the first of them has work."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from sweeps.engine.cluster import nodes
from sweeps.engine.cluster.ray_runtime import ray_runtime
from sweeps.engine.cluster.resources import refuse_impossible
from sweeps.engine.design.designs import factors
from sweeps.engine.design.metrics import DEV_NLL
from sweeps.engine.design.search import Asha
from sweeps.engine.driver.recall import result_of
from sweeps.engine.driver.tune_callback import TuneCallback
from sweeps.engine.plan.plan import Round
from sweeps.engine.plan.search_space import SearchSpace
from sweeps.engine.plan.trial import Trial
from sweeps.engine.search.budget import Budget
from sweeps.engine.store.ledger import Entry, Ledger
from sweeps.engine.worker.job import PERCENT, SharedJob, TrialRequest
from sweeps.engine.worker.retry_policy import MOST_LOSSES
from sweeps.engine.worker.supervisor import supervise

_SUPERVISOR_CPU = 0.01
_HEAD = "node:__internal_head__"
"""Resource that Ray gives to the head node alone."""


class Rounds:
    """Runs rounds of trials, but for those that have finished.

    Args:
        shared: by all jobs.
        ledger: the truth.
        callback: Tune's.
        budget: of all rounds together.
        stack: what Ray is ended with.

    Attributes:
        gave_up: why a search ended before its number of trials was reached; None if it did not.
    """

    def __init__(
        self, shared: SharedJob, *, ledger: Ledger, callback: TuneCallback, budget: Budget, stack: ExitStack
    ) -> None:
        self._shared, self._ledger, self._callback, self._budget, self._stack = shared, ledger, callback, budget, stack
        self.gave_up: str | None = None

    def run(self, one: Round) -> None:
        """All trials of a round, until they ended or the budget is spent."""
        if one.space is not None:
            self._search(one.study, one.space)
        else:
            self._run_stated(one.trials, study=one.study)

    def _run_stated(self, trials: Mapping[str, Trial], *, study: str) -> None:
        entries = self._ledger.entries(list(trials))
        finished = {key: entry for key, entry in entries.items() if entry.state == "finished"}
        for key, entry in finished.items():
            self._callback.reuse(trials[key], result_of(entry, self._shared.layout))
        # The longest first: the trials that end last are then short, and no core waits long.
        pending = sorted((trial for key, trial in trials.items() if key not in finished), key=_cost, reverse=True)
        for _ in range(1 + MOST_LOSSES):
            if not pending or self._budget.is_spent:
                return
            self._hand_out(pending, of=trials, study=study)
            # Tune gives a trial up, untried, whose process is dead when it is handed over: such a one has not ended.
            entries = self._ledger.entries([trial.key for trial in pending])
            pending = [trial for trial in pending if not self._has_ended(entries.get(trial.key))]

    def _has_ended(self, entry: Entry | None) -> bool:
        """Whether a trial that was handed out finished anywhere, or failed here and now."""
        failed = entry is not None and entry.state == "failed" and entry.owner == self._shared.owner
        return failed or (entry is not None and entry.state == "finished")

    def _hand_out(self, pending: Sequence[Trial], *, of: Mapping[str, Trial], study: str) -> None:
        self._start_ray()
        from sweeps.engine.search.searcher import PlannedSearcher

        source = PlannedSearcher(
            study,
            of.values(),
            pending,
            metric=DEV_NLL,
            storage=self._shared.layout.studies,
            ledger=self._ledger,
            owner=self._shared.owner,
            request_of=self._request,
            budget=self._budget,
        )
        self._tune(source, num_samples=len(pending))

    def _search(self, study: str, space: SearchSpace) -> None:
        from sweeps.engine.search.optuna_searcher import OptunaSearcher
        from sweeps.engine.search.study import keys

        source = OptunaSearcher(
            study,
            space,
            request_of=self._request,
            proposed=self._callback.add,
            answered=self._answered,
            budget=self._budget,
            storage=self._shared.layout.studies,
            ledger=self._ledger,
            owner=self._shared.owner,
        )
        for trial, entry in source.recall():  # the driver before may have died before MLflow heard of it
            self._callback.add(trial)
            self._answered(trial, entry)
        if len(keys(source.study)) < space.design.num_trials:
            self._start_ray()
            self._tune(source, num_samples=-1, scheduler=_scheduler(space.design.pruner))
        self.gave_up = source.gave_up

    def _answered(self, trial: Trial, entry: Entry) -> None:
        self._callback.reuse(trial, result_of(entry, self._shared.layout))

    def _request(self, trial: Trial) -> TrialRequest:
        cell, identity = factors(trial.cell), trial.identity
        return self._shared.request(trial.key, trial.config, cell=cell, identity=identity)

    def _start_ray(self) -> None:
        import ray

        if not ray.is_initialized():
            self._callback.announce("starting Ray")
        self._shared.layout.output.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(ray_runtime(verbose=self._shared.verbose))
        refuse_impossible(self._shared.resources, nodes.connected())

    def _tune(self, source: Any, *, num_samples: int, scheduler: Any = None) -> None:
        """Hand out what the source has, and come back when all of it ended."""
        from ray import tune

        from sweeps.engine.driver.tune_patch import survive_memory_kills

        survive_memory_kills()
        resources = self._shared.resources
        in_process = resources.workers == 0
        share = {"CPU": float(resources.cpus_per_worker or 1), "GPU": resources.gpus_per_worker or 0.0}
        # A supervisor stays with the driver, so that no other node that is lost takes it along.
        bundle = share if in_process else {"CPU": _SUPERVISOR_CPU, _HEAD: _SUPERVISOR_CPU}
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(supervise, shared=self._shared), tune.PlacementGroupFactory([bundle])
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
                name=self._shared.sweep,
                storage_path=str(self._shared.layout.output / "tune"),
                callbacks=[self._callback],
                failure_config=tune.FailureConfig(max_failures=MOST_LOSSES),  # of a trial's supervisor
                verbose=0,
            ),
        )
        tuner.fit()


def _scheduler(pruner: Asha | None) -> Any:
    if pruner is None:
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=PERCENT,
        metric=DEV_NLL,
        mode="min",
        max_t=99,  # no rung at the end: a trial that is trained is scored
        grace_period=pruner.grace_percent,
        reduction_factor=pruner.reduction_factor,
        stop_last_trials=False,
    )


def _cost(trial: Trial) -> float:
    """Relative price of a trial: rows through the backbone."""
    optim, config = trial.config.optim, trial.config
    if config.method == "in_context":
        return 0.0
    return float(config.num_choices * optim.batch_size * (optim.max_steps or 1) * optim.epochs)
