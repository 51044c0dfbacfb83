"""Cells against the baseline: what can be compared, the paired differences, and their intervals and p-values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sweeps.engine.analysis import example_noise, stats
from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.analysis.stats import Interval
from sweeps.engine.design import metrics


@dataclass(frozen=True)
class Comparison:
    """A cell against the baseline in one metric.

    Attributes:
        summary: the cell.
        metric: what is compared.
        delta: cell minus baseline, with its interval where there is one.
        by_seed: the differences that `delta` is the mean of.
        p: exact two-sided sign-flip p over seeds; `p_holm` is Holm's adjustment across the cells of the sweep.
        covers: what the interval and p speak of: `seeds`, or (one seed) the `examples` of the test split.
        probability_of_improvement: share of all pairs of runs in which the cell is better; for DIST, nearer to the
            human replies.
        num_dialogues: how many were resampled, where `examples` are covered.
        caveats: what would have been refused, had the sweep not been told to compare despite it.
    """

    summary: CellSummary
    metric: str
    delta: Interval
    by_seed: Mapping[int, float]
    p: float
    p_holm: float
    covers: Literal["seeds", "examples"]
    probability_of_improvement: float
    num_dialogues: int = 0
    caveats: tuple[str, ...] = ()


def refusals(summary: CellSummary, baseline: CellSummary, metric: str) -> dict[str, str]:
    """Why a cell is not comparable with the baseline, by kind, each in a phrase; empty where it is.

    `failed seeds` and `budget` are kinds that a sweep can be told to overlook (`Sweep.allow`). A budget is the
    contexts that a trial may be trained on; what is not trained has none.
    """
    found: dict[str, str] = {}
    if _keys(summary) == _keys(baseline):
        found["same"] = "the same trials as the baseline"
    broken = [one for one in (summary, baseline) if not one.is_whole]
    if broken:
        found["failed seeds"] = "; ".join(f"{one.label}: {', '.join(one.problems)}" for one in broken)
    if not (_common(summary, baseline, metric) and all(is_number(one) for one in _values(summary, baseline, metric))):
        found["no value"] = "no value to compare"
    if metrics.of(metric).needs_equal_n and _num_responses(summary) != _num_responses(baseline):
        found["replies"] = "scored on another number of replies"
    if {"in_context"}.isdisjoint({summary.trials[0].config.method, baseline.trials[0].config.method}):
        budgets = [_budget(one) for one in (summary, baseline)]
        if budgets[0] != budgets[1]:
            found["budget"] = f"another budget: {budgets[0]} against {budgets[1]}"
    return found


def compare(summaries: Sequence[CellSummary], metric: str, *, allow: Sequence[str] = ()) -> list[Comparison]:
    """Every cell that can be compared with the baseline in a metric, in the order of the table.

    Args:
        summaries: all cells of a sweep.
        metric: what is compared.
        allow: kinds of `refusals` to overlook; they become caveats. Of failed seeds, those that both have are paired.
    """
    baseline = next(summary for summary in summaries if summary.is_baseline)
    candidates = []
    for summary in summaries:
        why_not = {} if summary.is_baseline else refusals(summary, baseline, metric)
        if not summary.is_baseline and why_not.keys() <= set(allow):
            candidates.append((summary, tuple(why_not.values())))
    seeds_of = [_common(summary, baseline, metric) for summary, _ in candidates]
    pairs = [
        (_of(summary, metric, seeds), _of(baseline, metric, seeds))
        for (summary, _), seeds in zip(candidates, seeds_of, strict=True)
    ]
    deltas = [stats.paired_delta(*pair) for pair in pairs]
    adjusted = stats.holm([delta.p for delta in deltas])
    comparisons = []
    for (summary, caveats), seeds, (of_cell, of_baseline), delta, p_holm in zip(
        candidates, seeds_of, pairs, deltas, adjusted, strict=True
    ):
        better = stats.probability_of_improvement(
            _goodness(summary, metric, of_cell), _goodness(summary, metric, of_baseline)
        )
        comparisons.append(
            Comparison(
                summary,
                metric,
                Interval(*delta[:3]),
                dict(zip(seeds, (a - b for a, b in zip(of_cell, of_baseline, strict=True)), strict=True)),
                delta.p,
                p_holm,
                "seeds",
                better,
                caveats=caveats,
            )
        )
    if comparisons and len(baseline.trials) == 1:
        return _over_examples(comparisons, baseline)
    return comparisons


def _common(summary: CellSummary, baseline: CellSummary, metric: str) -> list[int]:
    """Seeds that both finished."""
    of_baseline = baseline.by_seed(metric)
    return [seed for seed in summary.by_seed(metric) if seed in of_baseline]


def _of(summary: CellSummary, metric: str, seeds: Sequence[int]) -> list[float]:
    values = summary.by_seed(metric)
    return [values[seed] for seed in seeds]


def _values(summary: CellSummary, baseline: CellSummary, metric: str) -> list[float]:
    seeds = _common(summary, baseline, metric)
    return [*_of(summary, metric, seeds), *_of(baseline, metric, seeds)]


def _goodness(summary: CellSummary, metric: str, values: Sequence[float]) -> list[float]:
    """Values as numbers of which the higher is the better."""
    human = summary.mean(metric.replace("test/", "human/"))
    return [-metrics.badness(metric, value, human=human) for value in values]


def _budget(summary: CellSummary) -> str:
    optim = summary.trials[0].config.optim
    contexts = "all contexts" if optim.max_steps is None else f"{optim.max_steps * optim.batch_size} contexts"
    return f"{contexts} in at most {optim.epochs} epoch{'s' * (optim.epochs > 1)}"


def _over_examples(comparisons: Sequence[Comparison], baseline: CellSummary) -> list[Comparison]:
    """The same with intervals over test dialogues, where both cells' responses are at hand and the same."""
    metric = comparisons[0].metric
    num_replies = sum(one.summary.mean("test/num_responses") or 0 for one in comparisons)
    of_baseline = None
    if metric == metrics.TEST_NLL or num_replies <= example_noise.MOST_REPLIES:
        of_baseline = example_noise.read(baseline.finished[0][1], metric)
    if of_baseline is None:
        return list(comparisons)
    noises = []
    for comparison in comparisons:
        of_cell = example_noise.read(comparison.summary.finished[0][1], metric)
        noises.append(None if of_cell is None else example_noise.compare(of_cell, of_baseline, metric))
    adjusted = stats.holm([math.nan if noise is None else noise.p for noise in noises])
    return [
        comparison
        if noise is None
        else replace(
            comparison,
            delta=Interval(comparison.delta.mean, noise.interval.low, noise.interval.high),
            p=noise.p,
            p_holm=p_holm,
            covers="examples",
            num_dialogues=noise.num_dialogues,
        )
        for comparison, noise, p_holm in zip(comparisons, noises, adjusted, strict=True)
    ]


def _keys(summary: CellSummary) -> tuple[str, ...]:
    return tuple(trial.key for trial in summary.trials)


def _num_responses(summary: CellSummary) -> set[float]:
    return set(summary.by_seed("test/num_responses").values())
