"""The machine behind the questions: plan, run, record and answer. A question file needs nothing but these names."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.engine.cli.main import main
    from sweeps.engine.design.designs import AddOneIn, Cases, Factorial, Grid, LeaveOneOut, PerCellTuning
    from sweeps.engine.design.search import Asha, Search
    from sweeps.engine.design.sweep import Sweep

__all__ = [
    "AddOneIn",
    "Asha",
    "Cases",
    "Factorial",
    "Grid",
    "LeaveOneOut",
    "PerCellTuning",
    "Search",
    "Sweep",
    "main",
]

_HOMES = {"main": "cli.main", "Sweep": "design.sweep", "Search": "design.search", "Asha": "design.search"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: a worker that imports one module of the engine should not import all of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'design.designs')}"), name)
