"""The sweep files that the tests give to `spt run` and `spt plan`, and the type of the fixture that runs these."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import PROJECT
from tests.sweeps.command_line import Answer

K_SWEEP, TABLE1, JOINT_SEARCH = (PROJECT / "sweeps" / f"{name}.py" for name in ("k_sweep", "table1", "joint_search"))

Spt = Callable[..., Answer]


def write_sweep(path: Path, factors: str, *, baseline: str = "{}") -> Path:
    path.write_text(
        "from spt_core import recipes\n"
        "from sweeps.engine import Grid, Sweep\n"
        f"SWEEP = Sweep('mine', recipes.smollm2_135m(), Grid({factors}), {baseline})\n"
    )
    return path
