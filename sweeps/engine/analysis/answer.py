"""What a sweep answers: its cells, their differences from the baseline, and the verdict; computed once, used by all."""

from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.engine.analysis.cells import CellSummary, summarise
from sweeps.engine.analysis.comparisons import Comparison, compare
from sweeps.engine.analysis.verdict import judge
from sweeps.engine.design import metrics
from sweeps.engine.plan.plan import Plan
from sweeps.engine.store.trial_folder import TrialResult


@dataclass(frozen=True)
class Answer:
    """The numbers of a sweep and what they say.

    Attributes:
        plan: what was to run.
        results: what ended, by trial key.
        summaries: the cells, in the order of the table.
        comparisons: by metric, every cell that can be compared with the baseline; the primary metric first.
        verdict: on the primary metric, in a few sentences.
    """

    plan: Plan
    results: Mapping[str, TrialResult]
    summaries: list[CellSummary]
    comparisons: Mapping[str, list[Comparison]]
    verdict: str

    @property
    def primary(self) -> list[Comparison]:
        """The comparisons in the primary metric."""
        return self.comparisons[self.plan.sweep.primary_metric]


def answer(plan: Plan, results: Mapping[str, TrialResult]) -> Answer:
    """Summarise the cells of a plan, compare them with the baseline, and judge.

    Args:
        plan: what was to run.
        results: what ended, by trial key; a trial that is not there counts as not run.
    """
    summaries, sweep = summarise(plan, results), plan.sweep
    wanted = dict.fromkeys([sweep.primary_metric, *metrics.COMPARED])
    comparisons = {metric: compare(summaries, metric, allow=sweep.allow) for metric in wanted}
    verdict = judge(plan, summaries, comparisons[sweep.primary_metric])
    return Answer(plan, results, summaries, comparisons, verdict)
