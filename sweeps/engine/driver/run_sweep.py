"""Runs a plan: what the ledger lacks goes through Ray Tune, the rest is reused, all of it is recorded and reported."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from sweeps.engine.analysis.answer import Answer, answer
from sweeps.engine.cluster.resources import Resources
from sweeps.engine.design.designs import label
from sweeps.engine.driver.progress import ProgressView
from sweeps.engine.driver.recall import FoundSoFar, advance, recorded, result_of
from sweeps.engine.driver.request import ResolvedRequest
from sweeps.engine.paper.beside import published_tables
from sweeps.engine.plan.plan import Plan
from sweeps.engine.report.write import write
from sweeps.engine.search.budget import Budget
from sweeps.engine.store import provenance
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.ledger import LEDGER, Entry, Ledger, owner_here
from sweeps.engine.store.redact import redact
from sweeps.engine.store.trial_folder import TrialResult
from sweeps.engine.worker.job import SharedJob


@dataclass(frozen=True)
class Outcome:
    """How a run of a sweep ended.

    Attributes:
        answer: what it found, by the plan as its last round left it.
        report: the HTML file.
        interrupted: Ctrl-C came; the trials without a result wait for the next run.
        undelivered: what MLflow has not got yet; the next run of the sweep delivers it.
        gave_up: why a search ended before its number of trials was reached; None if it did not.
        spent_hours: of devices, by this run.
        budget_spent: no further trial was handed out for that.
    """

    answer: Answer
    report: Path
    interrupted: bool
    undelivered: tuple[str, ...]
    gave_up: str | None = None
    spent_hours: float = 0.0
    budget_spent: bool = False


def execute(
    resolved: ResolvedRequest,
    *,
    resources: Resources,
    console: Console,
    budget_hours: float | None = None,
    verbose: bool = False,
    replanned: Callable[[Plan], None] = lambda plan: None,
) -> Outcome:
    """Run what the ledger lacks, project all of it to MLflow, and write the report.

    Args:
        resolved: the request, checked by `refuse_unrunnable`.
        resources: of each trial, with nothing left open.
        console: where progress is shown.
        budget_hours: of devices, after which no further trial is handed out; None is no limit.
        verbose: let Ray, Tune and transformers say what they do.
        replanned: told of the plan that a round led to.

    Raises:
        ValueError: the machine or cluster can never hold one trial.
    """
    from sweeps.engine.driver.rounds import Rounds
    from sweeps.engine.driver.tune_callback import TuneCallback
    from sweeps.engine.tracking.tracker import Tracker

    plan, layout, uri = resolved.plan, resolved.layout, resolved.tracking_uri
    ledger, owner = Ledger(layout.ledger), owner_here()
    facts = {**provenance.facts(), "tracking": redact(uri)}
    shared = SharedJob(
        sweep=plan.sweep_id,
        base=plan.trials[0].config,
        layout=layout,
        resources=resources,
        owner=owner,
        facts=provenance.facts(),
        verbose=verbose,
        code_diff=provenance.code_diff(),
    )
    artifacts = layout.artifacts if uri == layout.tracking else None
    tracker = Tracker(uri, plan=plan, artifacts=artifacts, facts=facts, ledger=ledger)
    budget = Budget(budget_hours, devices=resources.devices)
    found = FoundSoFar(layout, is_over=lambda num_trials: not budget.is_spent)
    interrupted, torn, gave_up = False, set[str](), None
    with tracker:
        with ProgressView(console, trials=list(plan.known.values())) as view, ExitStack() as stack:
            callback = TuneCallback(
                plan, layout, ledger, owner=owner, workers=resources.workers, view=view, tracker=tracker
            )
            rounds = Rounds(shared, ledger=ledger, callback=callback, budget=budget, stack=stack)
            try:
                rounds.run(plan.rounds[0])
                while (following := plan.rounds[0].choose_next(found)) is not None:
                    callback.plan = plan = following
                    for trial in plan.known.values():
                        callback.add(trial)
                    tracker.replan(plan)
                    replanned(plan)
                    rounds.run(plan.rounds[0])
            except KeyboardInterrupt:
                interrupted = True
            gave_up = rounds.gave_up
        for trial in callback.trials.values():
            ledger.release(trial.key, owner=owner)
            if interrupted and trial.key not in callback.ended:
                torn.add(trial.key)
        results = _results(ledger.entries(list(callback.trials)), layout, reused=callback.reused)
        for key in torn & results.keys():
            # What a trial says while it is being torn down (its workers are gone) is not how it ended.
            if results[key].state != "finished":
                results[key] = replace(results[key], state="interrupted", error=None)
            tracker.finish(callback.trials[key], results[key])
        found_out = answer(plan, results)
        page = _write(found_out, layout, facts=facts)
        if not interrupted:
            tracker.summarise(layout.report(plan.sweep_id), _summary(found_out))
        undelivered = tracker.close(timeout=60)
    left = any(key not in results or results[key].state == "interrupted" for key in plan.distinct)
    return Outcome(
        found_out,
        page,
        interrupted,
        undelivered,
        gave_up,
        spent_hours=budget.spent_hours,
        budget_spent=left and budget.is_spent,
    )


def write_report(plan: Plan, layout: OutputLayout) -> tuple[Answer, Path]:
    """Write the report of what there is of a sweep, and train nothing.

    Returns:
        The answer, by the plan as its rounds so far left it, and the page.

    Raises:
        ValueError: nothing of it has run.
    """
    if not (layout.output / LEDGER).is_file():
        raise ValueError(f"{layout.output}: there is no ledger in it; run the sweep first")
    wanted = 0 if plan.search is None else plan.search.design.num_trials
    plan = advance(plan, FoundSoFar(layout, is_over=lambda num_trials: num_trials >= wanted))
    facts = {**provenance.facts(), "written": "again, from the trials' files: the facts above are of the writing"}
    found_out = answer(plan, _results(recorded(plan, layout), layout, reused=set()))
    return found_out, _write(found_out, layout, facts=facts)


def _write(found_out: Answer, layout: OutputLayout, *, facts: Mapping[str, str]) -> Path:
    plan, searched = found_out.plan, None
    if plan.search is not None:
        from sweeps.engine.report.search_results import SearchResults
        from sweeps.engine.search.study import study_of

        searched = SearchResults(study_of(plan.sweep_id, plan.search, layout.studies), plan.search)
    folder = layout.report(plan.sweep_id)
    return write(found_out, folder, facts=facts, searched=searched, published=published_tables(found_out))


def _results(entries: Mapping[str, Entry], layout: OutputLayout, *, reused: set[str]) -> dict[str, TrialResult]:
    return {key: replace(result_of(entry, layout), reused=key in reused) for key, entry in entries.items()}


def _summary(found_out: Answer) -> dict[str, float]:
    """The primary metric of each cell that has it on all seeds, for MLflow."""
    finished = sum(result.state == "finished" for result in found_out.results.values())
    metric = found_out.plan.sweep.primary_metric
    means = {label(one.cell): one.mean(metric) for one in found_out.summaries}
    return {"trials/finished": float(finished)} | {
        f"{metric}/{name}": mean for name, mean in means.items() if mean is not None
    }
