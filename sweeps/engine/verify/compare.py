"""Whether a trial that was run again is the one that was logged: metric by metric, to the bit or to a tolerance.

Two runs of a trial give the same bits where the processor, the build of torch, its threads and the versions that touch
numerics are the same. Elsewhere sums are taken in another order, so a few main metrics are held to a tolerance.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.engine.design import metrics
from sweeps.engine.tracking.logged_trial import LoggedTrial

NLL_TOLERANCE = 0.02
"""Nats by which an NLL may differ on another machine, where no seeds say better."""
SCORE_TOLERANCE, SCORE_TOLERANCE_SHARE = 1.0, 0.1
"""Points, and share of its value, by which a score may differ, whichever is more: greedy decoding can turn at one."""
DEVIATIONS = 2.0
"""Standard deviations over the seeds of its cell within which a metric is the same."""
_LEAST_OF_DEFAULT = 0.1
"""Share of the default tolerance that counts as the same however alike the seeds are: two of them may agree by luck."""
_VALUE_MAX = 1.7976931348623157e308
"""What an SQL store of MLflow shows for an infinity."""


@dataclass(frozen=True)
class ComparedMetric:
    """One metric, then and now.

    Attributes:
        name: of the metric.
        logged: its value then.
        now: its value now; None where it is missing.
        tolerance: how far apart they may be; None where it is not judged.
    """

    name: str
    logged: float
    now: float | None
    tolerance: float | None

    @property
    def difference(self) -> float | None:
        """Now less then; None where it is missing."""
        return None if self.now is None else self.now - self.logged

    @property
    def is_equal(self) -> bool:
        """The same value; an undefined one is the same as another."""
        return self.now is not None and same(self.logged, self.now)

    @property
    def is_off(self) -> bool:
        """Judged and too far from what was logged."""
        if self.tolerance is None or self.is_equal:
            return False
        return self.difference is None or not abs(self.difference) <= self.tolerance  # NaN is off


@dataclass(frozen=True)
class Verdict:
    """How the trial compares.

    Attributes:
        rows: every logged metric but timings.
        exact: bits had to be the same.
        contradictions: metrics that MLflow shows otherwise than the trial's own file does: name, file, MLflow.
        tolerance: how the tolerance was found, in words; empty where bits had to be the same.
    """

    rows: tuple[ComparedMetric, ...]
    exact: bool
    contradictions: tuple[tuple[str, float, float], ...]
    tolerance: str

    @property
    def is_equal(self) -> bool:
        """Every metric but timings is equal."""
        return all(row.is_equal for row in self.rows)

    @property
    def reproduced(self) -> bool:
        """The numbers of the log are those of the trial."""
        return not self.contradictions and not any(row.is_off for row in self.rows)


def compare(trial: LoggedTrial, now: Mapping[str, float], *, exact: bool) -> Verdict:
    """The metrics then and now.

    Args:
        trial: as it was logged.
        now: final metrics of the new run.
        exact: bits have to be the same; otherwise the main metrics have to be within a tolerance.
    """
    rows = tuple(
        ComparedMetric(name, value, now.get(name), 0.0 if exact else _tolerance(name, value, trial))
        for name, value in trial.metrics.items()
        if not is_timing(name)
    )
    contradictions = tuple(
        (name, value, trial.shown[name])
        for name, value in trial.metrics.items()
        if name in trial.shown and not same(_as_stored(value), _as_stored(trial.shown[name]))
    )
    return Verdict(rows, exact, contradictions, "" if exact else _tolerance_in_words(trial))


def is_timing(name: str) -> bool:
    """Whether a metric is a duration, which no two runs share."""
    return name.endswith("seconds")


def same(first: float, second: float) -> bool:
    """Equal, or both undefined."""
    return first == second or (math.isnan(first) and math.isnan(second))


def _as_stored(value: float) -> float:
    return math.copysign(_VALUE_MAX, value) if math.isinf(value) else value


def is_main(name: str) -> bool:
    """One of the metrics that a trial is judged by, of its dev or its test replies."""
    split, _, metric = name.partition("/")
    return split in {"dev", "test"} and metric in metrics.MAIN


def _is_judged(name: str, trial: LoggedTrial) -> bool:
    return name == trial.primary_metric or is_main(name)


def _tolerance(name: str, logged: float, trial: LoggedTrial) -> float | None:
    if not _is_judged(name, trial):
        return None
    default = NLL_TOLERANCE if name.endswith("nll") else max(SCORE_TOLERANCE, SCORE_TOLERANCE_SHARE * abs(logged))
    seeds = [one[name] for one in trial.seeds if name in one and math.isfinite(one[name])]
    if len(seeds) < 2:
        return default
    return max(DEVIATIONS * statistics.stdev(seeds), _LEAST_OF_DEFAULT * default)


def _tolerance_in_words(trial: LoggedTrial) -> str:
    if len(trial.seeds) > 1:
        return (
            f"{DEVIATIONS:g} standard deviations over the {len(trial.seeds)} seeds of its cell, at least a tenth of "
            f"the default ({NLL_TOLERANCE:g} nats; {SCORE_TOLERANCE:g} point or {SCORE_TOLERANCE_SHARE:.0%})"
        )
    return (
        f"{NLL_TOLERANCE:g} nats for an NLL, {SCORE_TOLERANCE:g} point or {SCORE_TOLERANCE_SHARE:.0%} for a score: the "
        "default, since its sweep logged one seed of its cell"
    )
