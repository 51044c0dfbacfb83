"""Nuisance factors: what is tuned, on what, at which budget, and what the cells then run at."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import IntDistribution

from sweeps.engine.analysis.answer import answer
from sweeps.engine.design.designs import Cases, Grid, PerCellTuning
from sweeps.engine.design.search import Search
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.driver.recall import FoundSoFar, advance, forget, recall
from sweeps.engine.plan.plan import Plan, expand
from sweeps.engine.plan.trial import AWAITS_TUNING, SEARCH_SEED
from sweeps.engine.report.further_tables import retuned_document, retuned_table
from sweeps.engine.report.write import write
from sweeps.engine.store.layout import OutputLayout
from sweeps.engine.store.ledger import Ledger
from sweeps.engine.store.trial_folder import TrialResult
from tests.conftest import tiny_config

K, RATE, SIZE = "prompts.num_prompts", "optim.learning_rate", "optim.batch_size"
RATES = [0.01, 0.1, 1.0]

Expand = Callable[..., Plan]


@pytest.fixture
def plan_of(tiny_llama: Path) -> Expand:
    def expanded(
        cases: dict[str, dict[str, Any]] | None = None, factors: dict[str, list[Any]] | None = None, *, seeds: int = 2
    ) -> Plan:
        cases = {"PT": {K: 1}, "SPT": {}} if cases is None else cases
        retune = PerCellTuning(factors or {RATE: RATES})
        sweep = Sweep("some", tiny_config(tiny_llama), Cases(cases), seeds=seeds, retune=retune)
        return expand(sweep, scale="full", device_type="cpu")

    return expanded


def finish(plan: Plan, folder: Path, dev_nll: Callable[[str, float], float | None]) -> OutputLayout:
    """Let the tuning trials end in a real ledger; None fails one."""
    places = OutputLayout(folder)
    ledger = Ledger(places.ledger)
    assert plan.tuning is not None
    for cell, attempts in zip(plan.cells, plan.tuning.attempts, strict=True):
        for attempt in attempts:
            ledger.claim(attempt.trial.key, owner="someone")
            value = dev_nll(getattr(cell, "name", ""), attempt.levels[RATE])
            if value is None:
                ledger.fail(attempt.trial.key, owner="someone", error="NonFiniteLossError: step 2")
            else:
                ledger.finish(attempt.trial.key, owner="someone", metrics={"dev/nll": value})
    return places


def test_each_cell_is_tried_at_each_level_on_a_seed_of_its_own_and_never_on_test(plan_of: Expand) -> None:
    plan = plan_of()
    assert plan.tuning is not None
    assert [[attempt.levels for attempt in of_cell] for of_cell in plan.tuning.attempts] == [
        [{RATE: rate} for rate in RATES]
    ] * 2
    assert len(plan.tuning.trials) == 6
    for attempt in plan.tuning:
        config = attempt.trial.config
        assert (config.evaluation.split, config.seed) == ("none", SEARCH_SEED)
        assert config.optim.learning_rate == attempt.levels[RATE]
    assert SEARCH_SEED not in plan.seeds
    assert plan.awaits_tuning
    assert not plan.distinct.keys() & plan.known.keys(), "the cells' own trials are not known yet"
    assert plan.factors == (K, RATE)


def test_each_cell_runs_at_its_own_best(plan_of: Expand, tmp_path: Path) -> None:
    plan = plan_of()
    best = {"PT": 1.0, "SPT": 0.01}
    places = finish(plan, tmp_path, lambda cell, rate: 3.0 + abs(rate - best[cell]))
    after = advance(plan, FoundSoFar(places))
    assert not after.awaits_tuning
    assert [trial.config.optim.learning_rate for trial in after.trials] == [1.0, 1.0, 0.01, 0.01]
    assert [trial.config.evaluation.split for trial in after.trials] == ["test"] * 4
    assert [trial.label for trial in after.trials] == ["PT seed 0", "PT seed 1", "SPT seed 0", "SPT seed 1"]
    assert after.sweep_id == plan.sweep_id, "a resume finds it again"
    # The very trials of a sweep that states those rates, so that either reuses the other's.
    stated = replace(
        plan.sweep, retune=None, design=Cases({"PT": {K: 1, RATE: 1.0}, "SPT": {RATE: 0.01}}), baseline=None
    )
    assert after.distinct.keys() == expand(stated, scale="full", device_type="cpu").distinct.keys()
    assert not any(AWAITS_TUNING in trial.identity for trial in after.trials)


def test_nothing_is_chosen_before_the_round_has_ended(plan_of: Expand, tmp_path: Path) -> None:
    plan = plan_of()
    places = finish(plan, tmp_path, lambda cell, rate: rate)
    assert plan.tuning is not None
    Ledger(places.ledger).forget([next(iter(plan.tuning.trials))])
    assert advance(plan, FoundSoFar(places)) is plan
    assert recall(plan, places).keys() == set(list(plan.tuning.trials)[1:])


def test_a_rerun_forgets_both_rounds(plan_of: Expand, tmp_path: Path) -> None:
    plan = plan_of()
    places = finish(plan, tmp_path, lambda cell, rate: rate)
    ledger, own = Ledger(places.ledger), advance(plan, FoundSoFar(places)).distinct
    for key in own:
        ledger.claim(key, owner="someone")
        ledger.finish(key, owner="someone", metrics={"test/nll": 3.0})
    assert recall(advance(plan, FoundSoFar(places)), places).keys() >= own.keys()
    forget(plan, places)
    assert plan.tuning is not None
    assert not ledger.entries([*own, *plan.tuning.trials])


def test_a_rate_that_diverges_is_a_rate_that_was_tried(plan_of: Expand, tmp_path: Path) -> None:
    plan = plan_of()
    places = finish(plan, tmp_path, lambda cell, rate: None if rate > 0.05 or cell == "PT" else rate)
    pt, spt = advance(plan, FoundSoFar(places)).choices
    assert (spt.levels, [one.state for one in spt.tried]) == ({RATE: 0.01}, ["finished", "failed", "failed"])
    assert (pt.best, pt.levels) == (None, {})
    assert pt.describe() == "none finished"
    base_rate = plan.sweep.base.optim.learning_rate
    assert [trial.config.optim.learning_rate for trial in advance(plan, FoundSoFar(places)).trials[:2]] == [
        base_rate
    ] * 2


@pytest.mark.parametrize(("best", "edge"), [(0.01, [RATE]), (0.1, []), (1.0, [RATE])])
def test_a_choice_at_the_edge_says_so(plan_of: Expand, tmp_path: Path, best: float, edge: list[str]) -> None:
    plan = plan_of()
    choice = advance(plan, FoundSoFar(finish(plan, tmp_path, lambda cell, rate: abs(rate - best)))).choices[0]
    assert choice.at_edge == edge
    assert ("at the edge" in choice.describe()) == bool(edge)


def test_of_equal_levels_the_first_is_chosen(plan_of: Expand, tmp_path: Path) -> None:
    plan = plan_of()
    choices = advance(plan, FoundSoFar(finish(plan, tmp_path, lambda cell, rate: 2.0))).choices
    assert [choice.levels for choice in choices] == [{RATE: 0.01}] * 2


def test_a_cell_that_no_factor_touches_has_nothing_to_tune(plan_of: Expand) -> None:
    plan = plan_of({"zero-shot": {"method": "in_context"}, "SPT": {}})
    assert plan.tuning is not None
    assert [len(of_cell) for of_cell in plan.tuning.attempts] == [0, 3]
    assert next(iter(plan.distinct)) in plan.known, "it can run at once"


def test_several_factors_are_crossed(plan_of: Expand) -> None:
    plan = plan_of(factors={RATE: [0.01, 0.1], SIZE: [2, 4]})
    assert plan.tuning is not None
    tried = [(a.trial.config.optim.learning_rate, a.trial.config.optim.batch_size) for a in plan.tuning.attempts[0]]
    assert tried == [(0.01, 2), (0.01, 4), (0.1, 2), (0.1, 4)]


def test_other_levels_are_another_sweep(plan_of: Expand) -> None:
    assert plan_of().sweep_id == plan_of().sweep_id
    assert len({plan_of().sweep_id, plan_of(factors={RATE: [0.01, 0.1]}).sweep_id, plan_of(seeds=3).sweep_id}) == 3


def test_the_report_says_what_was_retuned_over_which_values_and_what_each_cell_chose(
    plan_of: Expand, tmp_path: Path
) -> None:
    plan = plan_of()
    places = finish(plan, tmp_path, lambda cell, rate: None if rate == 1.0 else 3.0 + rate)
    after = advance(plan, FoundSoFar(places))
    table = retuned_table(after, {})
    assert table.titles == ("chosen", "0.01", "0.1", "1.0")
    assert [entry.text for entry in table.rows[0].entries][1:] == ["3.010", "3.100", "failed"]
    assert table.rows[0].entries[0].text == "learning_rate=0.01"
    assert table.rows[0].entries[0].detail == "optim.learning_rate at the edge of what was tried"
    assert "same budget, 3 trials on seed 1000" in table.note
    document = retuned_document(after, {})
    assert document is not None
    assert (document["levels"], document["trials_a_cell"], document["seed"]) == ({RATE: RATES}, 3, SEARCH_SEED)
    assert [cell["chosen"] for cell in document["cells"]] == [{RATE: 0.01}] * 2
    assert document["cells"][0]["tried"][2]["error"] == "NonFiniteLossError: step 2"
    page = write(answer(after, {}), tmp_path / "report", facts={})
    assert "Nuisance factors, retuned within each cell" in page.read_text()
    assert r"learning\_rate=0.01 optim.learning\_rate at the edge" in page.with_name("report.md").read_text()


def test_a_round_that_was_cut_short_shows_what_ran(plan_of: Expand, tmp_path: Path) -> None:
    plan = plan_of()
    assert plan.tuning is not None
    first = next(iter(plan.tuning.trials))
    results = {first: TrialResult(first, "finished", {"dev/nll": 3.5}, tmp_path)}
    table = retuned_table(plan, results)
    texts = [[entry.text for entry in row.entries] for row in table.rows]
    assert texts == [
        ["so far learning_rate=0.01", "3.500", "not run", "not run"],
        ["not known yet", "not run", "not run", "not run"],
    ]
    document = retuned_document(plan, results)
    assert document is not None
    assert not document["ended"]
    assert document["cells"][1]["chosen"] is None


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, "PerCellTuning has no factors"),
        ({RATE: []}, "has no levels"),
        ({RATE: [0.1, 0.1]}, "has a level twice"),
        ({RATE: [0.1, 0.0]}, r"optim\.learning_rate = 0\.0: it should be greater than 0"),
        ({"optim.rate": [0.1]}, r"unknown field 'optim\.rate'"),
        ({K: [1, 2]}, r"num_prompts is a factor of the design \(in PT\) and is retuned"),
        ({"seed": [1, 2]}, "the seed is no nuisance factor"),
    ],
)
def test_nuisance_factors_that_make_no_sense_are_refused(
    plan_of: Expand, factors: dict[str, list[Any]], message: str, tiny_llama: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Sweep("some", tiny_config(tiny_llama), Cases({"PT": {K: 1}, "SPT": {}}), retune=PerCellTuning(factors))


def test_what_is_retuned_cannot_be_set(plan_of: Expand) -> None:
    with pytest.raises(ValueError, match=r"--set optim\.learning_rate: some retunes it within each cell"):
        expand(plan_of().sweep, scale="full", device_type="cpu", settings={RATE: 0.5})


def test_a_search_is_not_retuned(tiny_llama: Path) -> None:
    search = Search({K: IntDistribution(1, 4)})
    sweep = Sweep("some", tiny_config(tiny_llama), search, retune=PerCellTuning({RATE: RATES}))
    with pytest.raises(ValueError, match="a search has no cells to retune in"):
        expand(sweep, scale="full", device_type="cpu")


def test_a_sweep_without_nuisance_factors_is_as_before(tiny_llama: Path) -> None:
    sweep = Sweep("some", tiny_config(tiny_llama), Grid({K: [1, 2]}))
    plan = expand(sweep, scale="full", device_type="cpu")
    assert plan.tuning is None
    assert plan.known == plan.distinct
    assert retuned_document(plan, {}) is None
