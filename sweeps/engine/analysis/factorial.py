"""What a full factorial says that its cells do not: the effect of each component, and of two together."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.engine.analysis import stats
from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.analysis.stats import PairedDelta
from sweeps.engine.design.designs import component


@dataclass(frozen=True)
class Effect:
    """A contrast of a two-level factorial (Box, Hunter and Hunter 2005, chapter 5).

    Attributes:
        components: one for a main effect, two for an interaction.
        delta: mean over seeds of the contrast, its 95% t interval and exact sign-flip p; for a main effect the metric
            with the component on minus that with it off, averaged over all combinations of the others. For an
            interaction it is the same of the product of two: half of how much one changes the effect of the other.
        p_holm: adjusted across all effects of the factorial.
    """

    components: tuple[str, ...]
    delta: PairedDelta
    p_holm: float

    @property
    def label(self) -> str:
        """For people: `contrastive`, `contrastive x fusion`."""
        return " x ".join(component(path) for path in self.components)


def factorial_effects(summaries: Sequence[CellSummary], metric: str) -> list[Effect]:
    """Main effects and pairwise interactions; none unless the cells are a whole factorial that all finished.

    Args:
        summaries: of all cells of a sweep.
        metric: what is contrasted.
    """
    components = tuple(summaries[0].cell)
    if not components or len(summaries) != 2 ** len(components):
        return []
    levels = {tuple(summary.cell.get(path) for path in components): summary for summary in summaries}
    whole = set(itertools.product([True, False], repeat=len(components)))
    if set(levels) != whole or not all(is_number(summary.mean(metric)) for summary in summaries):
        return []
    values = {level: summary.by_seed(metric) for level, summary in levels.items()}
    seeds = list(summaries[0].by_seed(metric))
    names = [*((path,) for path in components), *itertools.combinations(components, 2)]
    deltas = []
    for of in names:
        signs = {level: math.prod(1 if level[components.index(path)] else -1 for path in of) for level in whole}
        high, low = ([level for level in whole if signs[level] == sign] for sign in (1, -1))
        means = [[sum(values[level][seed] for level in side) / len(side) for seed in seeds] for side in (high, low)]
        deltas.append(stats.paired_delta(*means))
    adjusted = stats.holm([delta.p for delta in deltas])
    return [Effect(of, delta, p) for of, delta, p in zip(names, deltas, adjusted, strict=True)]
