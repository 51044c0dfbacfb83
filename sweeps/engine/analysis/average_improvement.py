"""AVG, as the paper defines it: the average relative improvement over a baseline across the metrics of Table 1."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.engine.design import metrics as registry

CAVEAT = (
    "AVG weighs a metric by how small it is at the baseline. Of the 26.62% that Table 1 gives Llama2-7B, 18.0 points "
    "are DIST-1 and DIST-2, which fall with length and have the human replies' value as their target, not the maximum; "
    "of OPT's, most are BLEU and ROUGE-2. A metric that is 0 at the baseline is left out. Read the metrics, "
    "not their average."
)


@dataclass(frozen=True)
class Improvement:
    """Relative improvements over a baseline, in percent.

    Attributes:
        by_metric: of each metric of Table 1 that both have; all of them are better when higher.
    """

    by_metric: Mapping[str, float]

    @property
    def average(self) -> float:
        """AVG; NaN without a metric."""
        return sum(self.by_metric.values()) / len(self.by_metric) if self.by_metric else math.nan

    @property
    def of_dist(self) -> float:
        """The part of AVG that comes from DIST-1 and DIST-2, in the same percent."""
        dist = [value for name, value in self.by_metric.items() if name.startswith("dist_")]
        return sum(dist) / len(self.by_metric) if self.by_metric else math.nan


def improvement(
    metrics: Mapping[str, float | None], baseline: Mapping[str, float | None], *, split: str = "test"
) -> Improvement:
    """How much better metrics are than a baseline's, relative to it.

    Args:
        metrics: by name, such as `test/f1`.
        baseline: likewise.
        split: whose metrics are read, `test` or `dev`.
    """
    found = {}
    for name in registry.TABLE_1:
        value, base = metrics.get(f"{split}/{name}"), baseline.get(f"{split}/{name}")
        if value is not None and base is not None and math.isfinite(value) and 0 < base < math.inf:
            found[name] = 100 * (value - base) / base
    return Improvement(found)
