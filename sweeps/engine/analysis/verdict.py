"""The verdict: what a sweep says about its primary metric in a few sentences, and what it cannot say."""

from collections.abc import Sequence

from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.analysis.comparisons import Comparison
from sweeps.engine.analysis.stats import LEVEL, Interval, equivalence_p, power
from sweeps.engine.design import metrics
from sweeps.engine.plan.plan import Plan


def judge(plan: Plan, summaries: Sequence[CellSummary], comparisons: Sequence[Comparison]) -> str:
    """The verdict on cells that are summarised and compared.

    Args:
        plan: what was to run.
        summaries: all of its cells.
        comparisons: in the primary metric, as `compare` gives them.
    """
    unfinished = sum(not summary.is_whole for summary in summaries)
    sentences = [
        _verdict(plan, summaries, comparisons),
        f"{unfinished} of {len(summaries)} cells did not finish and are compared with nothing." if unfinished else "",
    ]
    sources = {source for trial in plan.trials for source in (trial.config.data.train, trial.config.data.test)}
    if any(source.startswith("sample:") for source in sources):
        sentences.append("The data are the bundled sample set, which supports no claim about the paper.")
    return " ".join(filter(None, sentences))


def _verdict(plan: Plan, summaries: Sequence[CellSummary], comparisons: Sequence[Comparison]) -> str:
    metric = plan.sweep.primary_metric
    name = metrics.title(metric)
    attainable = f"the smallest attainable p is {plan.smallest_p:.2g}"
    baseline = next(summary for summary in summaries if summary.is_baseline)
    if not is_number(baseline.mean(metric)):
        return f"No verdict: the baseline {baseline.label} has no {name} ({attainable})."
    if not comparisons:
        return f"No verdict: no other cell can be compared with the baseline {baseline.label} in {name} ({attainable})."
    whole = [comparison for comparison in comparisons if comparison.summary.is_whole]
    if not whole:
        return f"No verdict: no other cell finished on all seeds ({attainable})."
    best = min(whole, key=lambda comparison: _rank(comparison.summary, metric))
    if len(plan.seeds) == 1:
        examples = (
            f" (95% interval {_span(best.delta)}, from resampling {best.num_dialogues} dialogues: example noise only)"
            if best.covers == "examples" and is_number(best.delta.low)
            else ""
        )
        return (
            f"{_finding(best, baseline)}, a difference of {best.delta.mean:+.3f}{examples}. "
            f"Each cell ran on one seed, so beyond these examples it is undecided; {attainable}."
        )
    family = len(comparisons)
    attainable_by_best = min(1.0, family * plan.smallest_p)
    if family > 1:
        attainable += f", {attainable_by_best:.2g} after Holm over {family} cells"
    if best.p_holm <= LEVEL:
        decision = f"An exact test decides it at the {LEVEL:.0%} level"
    elif attainable_by_best > LEVEL:
        decision = f"Undecided: {len(plan.seeds)} seeds cannot decide it by an exact test"
    else:
        decision = f"Undecided by an exact test at the {LEVEL:.0%} level"
    return (
        f"{_finding(best, baseline)}, a paired difference of {best.delta.mean:+.3f} (95% t interval "
        f"{_span(best.delta)} over {len(plan.seeds)} seeds; sign-flip p = {best.p:.2g}, Holm {best.p_holm:.2g}). "
        f"{decision}; {attainable}. {_power(best, baseline)}".strip()
    )


def _power(best: Comparison, baseline: CellSummary) -> str:
    """What these seeds could have found, and whether they show that there is nothing to find."""
    differences = list(best.by_seed.values())
    found, sentences = power(differences), []
    if found is not None:
        sentences.append(
            f"With this variance, {len(differences)} seeds detect a difference of {found.detectable:.3f} with 80% power"
            + (
                f", and {found.seeds_needed} would find this one."
                if found.seeds_needed is not None and found.seeds_needed > len(differences)
                else "."
            )
        )
    at_baseline = baseline.mean(best.metric)
    if best.p_holm > LEVEL and at_baseline:
        within = metrics.margin(best.metric, at_baseline)
        p = equivalence_p(differences, within)
        shown = f"is shown by two one-sided tests (p = {p:.2g})" if p <= LEVEL else f"is not shown (p = {p:.2g})"
        sentences.append(f"Equality to within {within:.3g} {shown}.")
    return " ".join(sentences)


def _finding(best: Comparison, baseline: CellSummary) -> str:
    metric = best.metric
    name, direction = metrics.title(metric), metrics.direction(metric)
    value, at_baseline = best.summary.mean(metric), baseline.mean(metric)
    if _rank(best.summary, metric) < _rank(baseline, metric):
        return (
            f"{best.summary.label} has the best {name} ({direction}): {value:.3f} against {at_baseline:.3f} of the "
            f"baseline {baseline.label}"
        )
    return (
        f"No cell improves on the baseline {baseline.label} in {name} ({direction}), which is {at_baseline:.3f}; the "
        f"nearest is {best.summary.label} with {value:.3f}"
    )


def _rank(summary: CellSummary, metric: str) -> float:
    """Lower is better: the value, its negative, or for DIST its distance from the human replies'."""
    value = summary.mean(metric)
    assert value is not None
    return metrics.badness(metric, value, human=summary.mean(metric.replace("test/", "human/")))


def _span(interval: Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}"
