"""The cells of a sweep: their trials, how those ended, and their means over seeds."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from sweeps.engine.analysis import stats
from sweeps.engine.analysis.stats import Interval
from sweeps.engine.design.designs import Cell, label
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.store import trial_folder
from sweeps.engine.store.trial_folder import TrialResult


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


def is_number(value: float | None) -> TypeGuard[float]:
    """There is a value and it is finite."""
    return value is not None and math.isfinite(value)


def dev_nll_curve(result: TrialResult, *, by: str = "step") -> list[tuple[float, float]]:
    """Step (or `seconds` since the start) and dev NLL of each evaluation of a trial, in order."""
    rows = trial_folder.read_history(result.folder)
    return [(row[by], row["dev/nll"]) for row in rows if is_number(row.get("dev/nll"))]
