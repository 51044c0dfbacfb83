"""A question as a value: which cells to compare, from which base, against which baseline, on how many seeds."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from spt_core.config import TrialConfig
from sweeps.engine.design import metrics
from sweeps.engine.design.designs import Cell, Design, PerCellTuning, label

OVERLOOKED = ("budget", "failed seeds")
"""What a sweep can allow to differ between the cells that it compares."""


@dataclass(frozen=True)
class Sweep:
    """One question, whole.

    Args:
        name: of the MLflow experiment and of the output folder: lower-case letters, digits and underscores.
        base: the config that every cell varies.
        design: the cells at full scale.
        baseline: the cell that the others are compared with, by its factor levels; the design's first when None.
        seeds: how many seeds each cell gets (0, 1, ...), paired across cells.
        paper: the config of the published table, for `--scale paper`.
        demo: fewer cells, for a first look in minutes (`--scale demo`).
        primary_metric: the one metric that the verdict is about.
        retune: nuisance factors, tuned within each cell before it runs on its seeds.
        allow: what may differ between cells that are compared, each then a caveat in the table: `budget` (they
            were trained on another number of contexts), `failed seeds` (those that both have are paired).

    Raises:
        ValueError: a name of another form, fewer than one seed, a factor that is no config field, a factor that is
            retuned as well, a baseline that is no cell of the design, or an `allow` that is none of `OVERLOOKED`.
    """

    name: str
    base: TrialConfig
    design: Design
    baseline: Cell = None  # type: ignore[assignment]  # the first cell takes its place where the sweep is made
    seeds: int = 1
    paper: TrialConfig | None = None
    demo: Design | None = None
    primary_metric: str = metrics.TEST_NLL
    retune: PerCellTuning | None = None
    allow: tuple[str, ...] = ()
    question: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"Sweep name = {self.name!r}: use lower-case letters, digits and underscores")
        if self.seeds < 1:
            raise ValueError(f"Sweep {self.name}: seeds = {self.seeds}: it should be at least 1")
        metrics.refuse_unknown(self.primary_metric, f"Sweep {self.name}: primary_metric")
        for kind in set(self.allow) - set(OVERLOOKED):
            raise ValueError(f"Sweep {self.name}: allow = {kind!r}: it should be one of {', '.join(OVERLOOKED)}")
        for design in filter(None, (self.design, self.demo)):
            cells = design.cells()
            for cell in _with_every_level(cells):
                self.base.override(cell)  # names the field that does not exist or the level it refuses
            wanted = cells[0] if self.baseline is None else self.baseline
            if wanted not in cells:
                raise ValueError(
                    f"Sweep {self.name}: the baseline {label(wanted)} is no cell of the design; "
                    f"its cells are {'; '.join(label(cell) for cell in cells)}"
                )
            object.__setattr__(self, "baseline", cells[cells.index(wanted)])  # with its name, if it has one
            self._check_roles(cells)

    def _check_roles(self, cells: list[Cell]) -> None:
        if self.retune is None:
            return
        for path, levels in self.retune.factors.items():
            if path == "seed":
                raise ValueError(f"Sweep {self.name}: the seed is no nuisance factor; seeds= says how many a cell gets")
            if both := next((cell for cell in cells if path in cell), None):
                raise ValueError(
                    f"Sweep {self.name}: {path} is a factor of the design (in {label(both)}) and is retuned: it should "
                    "be one or the other"
                )
            for level in levels:
                self.base.override({path: level})


def _with_every_level(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Cells that have each level of each factor at least once; of a large grid these are few."""
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        levels = {(path, repr(level)) for path, level in cell.items()}
        if not levels <= seen:
            seen |= levels
            yield cell
