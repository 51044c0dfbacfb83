"""Runs a plan: what the ledger lacks goes through Ray Tune; the rest is reused; all of it is recorded and reported."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.designs import label
from sweeps.engine.driver.progress import View
from sweeps.engine.driver.rounds import Rounds
from sweeps.engine.plan.plan import Plan
from sweeps.engine.search.budget import Budget
from sweeps.engine.store import provenance
from sweeps.engine.store.layout import Places, recorded, result_of, tuned
from sweeps.engine.store.ledger import LEDGER, Entry, Ledger, owner_here
from sweeps.engine.store.trial_folder import TrialResult


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
    from sweeps.engine.driver.tune_callback import Watcher
    from sweeps.engine.report import write as report
    from sweeps.engine.tracking.tracker import Tracker
    from sweeps.engine.tracking.uri import redact

    ledger, owner = Ledger(places.ledger), owner_here()
    artifacts = places.artifacts if tracking_uri == places.tracking else None
    facts = {**provenance.facts(), "tracking": redact(tracking_uri)}
    tracker = Tracker(tracking_uri, plan=plan, artifacts=artifacts, facts=facts, ledger=ledger)
    budget = Budget(budget_hours, devices=resources.devices)
    interrupted, torn, gave_up = False, set[str](), None
    with tracker:
        with View(console, trials=list(plan.known.values())) as view, ExitStack() as stack:
            watcher = Watcher(plan, places, ledger, view, tracker)
            rounds = Rounds(
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
    from sweeps.engine.report import write as report
    from sweeps.engine.report.search_results import Explored
    from sweeps.engine.search import study as studies

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
