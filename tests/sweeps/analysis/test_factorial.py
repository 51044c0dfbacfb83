import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spt_core.config import TrialConfig
from sweeps.engine.analysis.answer import answer
from sweeps.engine.analysis.cells import CellSummary, summarise
from sweeps.engine.analysis.factorial import factorial_effects
from sweeps.engine.design.designs import Factorial, Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.report.further_tables import effects_table
from sweeps.engine.report.write import write
from sweeps.engine.store.trial_folder import TrialResult

METRIC = "test/nll"
Value = Callable[[tuple[bool, ...], int], float]


def sweep_of(value: Value, *, seeds: int = 4, failed: str | None = None) -> tuple[Plan, dict[str, TrialResult]]:
    design = Factorial()
    sweep = Sweep("loss_factorial", TrialConfig(), design, seeds=seeds)
    trials, results = [], {}
    for cell, seed in itertools.product(design.cells(), range(seeds)):
        levels = tuple(cell.values())
        key = f"{levels} {seed}"
        trials.append(Trial(key, cell, TrialConfig(seed=seed), {}))
        state = "failed" if key == failed else "finished"
        metrics = {} if state == "failed" else {METRIC: value(levels, seed)}
        results[key] = TrialResult(key, state, metrics, Path("nowhere"))  # type: ignore[arg-type]
    plan = Plan(sweep, "full", tuple(design.cells()), tuple(range(seeds)), tuple(trials))
    return plan, results


def summaries_of(value: Value, *, seeds: int = 4, failed: str | None = None) -> list[CellSummary]:
    return summarise(*sweep_of(value, seeds=seeds, failed=failed))


def test_an_additive_metric_has_its_coefficients_as_main_effects_and_no_interaction() -> None:
    effects = factorial_effects(summaries_of(lambda on, seed: 4.0 + seed - 0.5 * on[0] + 0.25 * on[1]), METRIC)
    means = {effect.label: effect.delta.mean for effect in effects}
    assert means == pytest.approx(
        {
            "contrastive": -0.5,
            "selection": 0.25,
            "fusion": 0.0,
            "contrastive x selection": 0.0,
            "contrastive x fusion": 0.0,
            "selection x fusion": 0.0,
        }
    )


def test_a_component_that_works_beside_another_only_is_half_an_interaction() -> None:
    """On brings 1 beside the other and 0 without it: 1/2 on average, and the other changes it by 1, half of which."""
    effects = factorial_effects(summaries_of(lambda on, seed: float(on[0] and on[2])), METRIC)
    means = {effect.label: effect.delta.mean for effect in effects}
    assert means["contrastive"] == means["fusion"] == means["contrastive x fusion"] == 0.5
    assert means["selection"] == means["contrastive x selection"] == 0.0


def test_effects_are_the_coefficients_of_least_squares() -> None:
    draw = np.random.default_rng(0).normal(size=(2, 2, 2, 6))
    effects = factorial_effects(summaries_of(lambda on, seed: draw[tuple(map(int, on))][seed], seeds=6), METRIC)
    levels = list(itertools.product([1, -1], repeat=3))
    columns = [
        [level[0], level[1], level[2], level[0] * level[1], level[0] * level[2], level[1] * level[2]]
        for level in levels
    ]
    design = np.column_stack([np.ones(8), np.asarray(columns), [np.prod(level) for level in levels]])
    mean = [draw[tuple(int(sign > 0) for sign in level)].mean() for level in levels]
    coefficients = np.linalg.lstsq(design, np.asarray(mean), rcond=None)[0]
    assert [effect.delta.mean for effect in effects] == pytest.approx((2 * coefficients[1:7]).tolist())
    assert all(effect.delta.low < effect.delta.mean < effect.delta.high for effect in effects)
    assert all(effect.delta.p <= effect.p_holm <= 1 for effect in effects)


def test_with_a_failed_cell_there_are_no_effects() -> None:
    assert factorial_effects(summaries_of(lambda on, seed: 1.0, failed="(True, True, True) 0"), METRIC) == []


def test_cells_that_are_no_factorial_have_no_effects() -> None:
    cells = Grid({"losses.fusion.enabled": [True, False], "prompts.num_prompts": [1, 2]}).cells()
    summaries = [CellSummary(cell, (), (), False, None) for cell in cells]
    assert factorial_effects(summaries, METRIC) == []


def test_the_table_has_a_row_an_effect() -> None:
    table = effects_table(factorial_effects(summaries_of(lambda on, seed: float(on[1]) + 0.1 * seed), METRIC), METRIC)
    assert [row.label for row in table.rows][:2] == ["contrastive", "selection"]
    assert [entry.text for entry in table.rows[1].entries] == ["+1.000", "0.12", "0.75"]


def test_a_report_of_a_factorial_shows_its_effects(tmp_path: Path) -> None:
    plan, results = sweep_of(lambda on, seed: 4.0 - on[0] + 0.1 * seed)
    page = write(answer(plan, results), tmp_path, facts={})
    for text in (page.read_text(), (tmp_path / "report.md").read_text()):
        assert "Main effects and interactions: test NLL" in text
        assert "contrastive x fusion" in text
    effects = json.loads((tmp_path / "results.json").read_text())["effects"]
    assert effects[0]["components"] == ["losses.contrastive.enabled"]
    assert effects[0]["mean"] == pytest.approx(-1.0)
