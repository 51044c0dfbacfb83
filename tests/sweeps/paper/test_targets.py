"""`spt reproduce`: what it plans, what it refuses, and all of it from beginning to end on a tiny model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.engine.cli.main import app
from sweeps.engine.paper import targets
from sweeps.engine.plan.plan import expand
from tests.conftest import PROJECT


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    result = CliRunner().invoke(app, ["reproduce", "table6"])
    assert result.exit_code == 2
    assert "reproduce table6: it should be one of table1, table2" in result.output


def test_all_plans_each_sweep_once_and_shares_trials(tiny_llama: Path) -> None:
    settings = {"backbone.name": str(tiny_llama), "backbone.precision": "float32"}
    plans = {
        name: expand(replace(sweep, retune=None), scale="tiny", device_type="cpu", settings=settings)
        for name, (sweep, _) in targets.questions(targets.targets("all")).items()
    }
    assert list(plans) == list(targets.QUESTIONS)
    keys = [set(plan.distinct) for plan in plans.values()]
    assert sum(map(len, keys)) > len(set.union(*keys))
    assert keys[0] < set.union(*keys[1:])  # PT and SPT are cells of the others too


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_all_of_the_paper_on_a_tiny_model(tiny_llama: Path, tmp_path: Path) -> None:
    """Every table, figure and claim is written; run again, nothing runs and no Ray starts."""
    command = [
        *(sys.executable, "-m", "sweeps.engine.cli.main", "reproduce", "all", "--scale", "tiny", "--workers", "0"),
        *("--model", str(tiny_llama), "--set", "backbone.precision=float32", "--output", str(tmp_path / "runs")),
    ]
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}

    def run() -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    output = run()
    (folder,) = (tmp_path / "runs" / "reproduced").iterdir()
    for name in targets.TARGETS:
        text = (folder / f"{name}.md").read_text()
        assert "failed" not in text
        assert (folder / f"{name}.tex").is_file()
    table_2 = (folder / "table2.md").read_text()
    assert "paper 17.49" in table_2
    assert "K = 1 (prompt tuning)" in table_2
    assert "always 4" in table_2
    assert "values do not compare" in table_2
    ledger = json.loads((folder / "claims.json").read_text())
    assert [one["claim"] for one in ledger] == list(range(1, 12))
    assert {one["verdict"] for one in ledger} == {"undecided"}
    assert {one["why"] for one in ledger} == {"the bundled sample set is no evidence about the paper"}
    assert output.count("starting Ray") <= 1
    again = run()
    assert "to run" in again
    assert "starting" not in again
