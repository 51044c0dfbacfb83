"""What a sweep found: the numbers of each cell and its difference from the baseline."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import pyarrow.parquet as pq

from sweeps.engine import stats
from sweeps.engine.design import Cell, label
from sweeps.engine.plan import Plan, Trial
from sweeps.engine.results import PREDICTIONS, TrialResult
from sweeps.engine.stats import Interval


@dataclass(frozen=True)
class CellSummary:
    """One cell: its trials and how they ended.

    A mean is only of a whole cell: the mean of the seeds that survived is another quantity, so a cell with a trial
    that failed, was interrupted or never ran has none, and is compared with nothing.

    Attributes:
        cell: its factor levels.
        trials: one a seed, in the order of the plan's seeds.
        results: of each trial; None where it never ran.
        is_baseline: the others are compared with it.
        same_as: label of an earlier cell with the very same trials, if any.
    """

    cell: Cell
    trials: tuple[Trial, ...]
    results: tuple[TrialResult | None, ...]
    is_baseline: bool
    same_as: str | None

    @property
    def label(self) -> str:
        """For people: `num_prompts=4`."""
        return label(self.cell)

    @functools.cached_property
    def finished(self) -> list[tuple[Trial, TrialResult]]:
        """The trials that ended at full budget."""
        pairs = zip(self.trials, self.results, strict=True)
        return [(trial, result) for trial, result in pairs if result is not None and result.state == "finished"]

    @property
    def is_whole(self) -> bool:
        """Every seed finished."""
        return len(self.finished) == len(self.trials)

    @property
    def problems(self) -> list[str]:
        """One phrase for each way in which trials did not finish: `seeds 0, 2 failed: out of memory`."""
        seeds: dict[str, list[str]] = {}
        for trial, result in zip(self.trials, self.results, strict=True):
            if problem := describe_problem(result):
                seeds.setdefault(problem, []).append(str(trial.seed))
        if len(self.trials) == 1:
            return list(seeds)
        return [f"seed{'s' * (len(of) > 1)} {', '.join(of)} {problem}" for problem, of in seeds.items()]

    def by_seed(self, metric: str) -> dict[int, float]:
        """The metric of each finished seed that has it."""
        return {trial.seed: result.metrics[metric] for trial, result in self.finished if metric in result.metrics}

    def interval(self, metric: str) -> Interval | None:
        """Mean and 95% t interval over seeds; None unless every seed finished and has the metric.

        The mean of values that are not all finite is NaN.
        """
        if metric not in self._intervals:
            self._intervals[metric] = self._interval(metric)
        return self._intervals[metric]

    def mean(self, metric: str) -> float | None:
        """Mean over seeds; None unless every seed finished and has the metric."""
        interval = self.interval(metric)
        return None if interval is None else interval.mean

    @functools.cached_property
    def _intervals(self) -> dict[str, Interval | None]:
        """Those that were asked for: every table, figure and sentence of a report asks again."""
        return {}

    def _interval(self, metric: str) -> Interval | None:
        values = list(self.by_seed(metric).values())
        if len(values) < len(self.trials):
            return None
        if not all(map(math.isfinite, values)):
            return Interval(math.nan, math.nan, math.nan)
        return stats.t_interval(values)


@dataclass(frozen=True)
class Comparison:
    """A cell against the baseline in one metric.

    Attributes:
        summary: the cell.
        metric: what is compared.
        delta: cell minus baseline, with its interval where there is one.
        by_seed: the differences that `delta` is the mean of.
        p: exact two-sided sign-flip p over seeds; `p_holm` is Holm's adjustment across the cells of the sweep.
        covers: what the interval and p speak of: `seeds`, or (one seed, test NLL) the `examples` of the test split.
        num_dialogues: how many were resampled, where `examples` are covered.
    """

    summary: CellSummary
    metric: str
    delta: Interval
    by_seed: Mapping[int, float]
    p: float
    p_holm: float
    covers: Literal["seeds", "examples"]
    num_dialogues: int = 0


def summarise(plan: Plan, results: Mapping[str, TrialResult]) -> list[CellSummary]:
    """The cells of a plan in the order of its table.

    Args:
        plan: what was to run.
        results: what ended, by trial key.
    """
    num_seeds = len(plan.seeds)
    summaries: list[CellSummary] = []
    seen: dict[tuple[str, ...], str] = {}
    for number, cell in enumerate(plan.cells):
        trials = plan.trials[number * num_seeds : (number + 1) * num_seeds]
        keys = tuple(trial.key for trial in trials)
        ended = tuple(results.get(key) for key in keys)
        summaries.append(CellSummary(cell, trials, ended, cell == plan.sweep.baseline, seen.get(keys)))
        seen.setdefault(keys, label(cell))
    return summaries


def describe_problem(result: TrialResult | None) -> str | None:
    """Why a trial has no numbers, in one line; None if it finished."""
    if result is None:
        return "not run"
    if result.state == "finished":
        return None
    reason = " ".join((result.error or "").split())
    return f"{result.state}: {reason}" if reason else result.state


def compare(summaries: Sequence[CellSummary], metric: str) -> list[Comparison]:
    """Every cell that can be compared with the baseline in a metric, in the order of the table.

    Left out: cells that are not whole, lack the metric or have a value that is not finite; cells that are the
    baseline's very trials; and for DIST, which falls with n, cells scored on another number of responses.
    """
    baseline = next(summary for summary in summaries if summary.is_baseline)
    candidates = [
        summary
        for summary in summaries
        if not summary.is_baseline
        and _keys(summary) != _keys(baseline)
        and all(is_number(one.mean(metric)) for one in (summary, baseline))
        and ("dist_" not in metric or _num_responses(summary) == _num_responses(baseline))
    ]
    of_baseline = baseline.by_seed(metric)
    paired = [stats.paired_delta(list(one.by_seed(metric).values()), list(of_baseline.values())) for one in candidates]
    adjusted = stats.holm([delta.p for delta in paired])
    comparisons = []
    for summary, delta, p_holm in zip(candidates, paired, adjusted, strict=True):
        by_seed = {seed: value - of_baseline[seed] for seed, value in summary.by_seed(metric).items()}
        comparisons.append(Comparison(summary, metric, Interval(*delta[:3]), by_seed, delta.p, p_holm, "seeds"))
    if comparisons and len(of_baseline) == 1 and metric == "test/nll":
        responses = _responses(baseline.finished[0][1])
        return [_over_examples(comparison, responses) for comparison in comparisons]
    return comparisons


def read_predictions(result: TrialResult, columns: Sequence[str]) -> list[dict[str, Any]] | None:
    """Columns of a trial's predictions, one row a test response; None where the file is not at hand."""
    path = result.folder / PREDICTIONS
    if not path.exists():
        return None
    with pq.ParquetFile(path) as file:  # in two thirds of the time of pq.read_table, which looks for data sets
        rows: list[dict[str, Any]] = file.read(columns=list(columns)).to_pylist()
    return rows


def is_number(value: float | None) -> TypeGuard[float]:
    """There is a value and it is finite."""
    return value is not None and math.isfinite(value)


def _over_examples(comparison: Comparison, of_baseline: Mapping[tuple[str, int, int], float]) -> Comparison:
    """The same with the interval of the dialogue bootstrap, if both cells' test responses are at hand and the same."""
    of_cell = _responses(comparison.summary.finished[0][1])
    if not of_cell or of_cell.keys() != of_baseline.keys():
        return comparison
    dialogues = [dialogue for dialogue, _, _ in of_cell]
    interval = stats.dialogue_bootstrap(
        list(of_cell.values()),
        dialogues,
        [of_baseline[response] for response in of_cell],
        weights=[num_tokens for _, _, num_tokens in of_cell],
    )
    return replace(
        comparison,
        delta=Interval(comparison.delta.mean, interval.low, interval.high),
        p=math.nan,
        p_holm=math.nan,
        covers="examples",
        num_dialogues=len(set(dialogues)),
    )


def _responses(result: TrialResult) -> dict[tuple[str, int, int], float]:
    """NLL of each test response, by dialogue, turn and number of tokens; empty without predictions."""
    rows = read_predictions(result, ["dialogue", "turn", "num_tokens", "nll"]) or []
    return {(row["dialogue"], row["turn"], row["num_tokens"]): row["nll"] for row in rows}


def _keys(summary: CellSummary) -> tuple[str, ...]:
    return tuple(trial.key for trial in summary.trials)


def _num_responses(summary: CellSummary) -> set[float]:
    return set(summary.by_seed("test/num_responses").values())
