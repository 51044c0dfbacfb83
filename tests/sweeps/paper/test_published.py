"""The paper as data: its numbers agree with each other, and with the text where that is at hand."""

import importlib
import re

import pytest

from spt_core import recipes
from spt_core.conversations import load
from spt_core.recipes import RECIPES
from sweeps.engine.human_eval.sheets import CRITERIA
from sweeps.engine.paper import published as paper
from tests.conftest import CONVAI2, PROJECT

TEXT = PROJECT.parent / "shared" / "paper" / "PAPER.md"
TABLES = {
    **{f"table1 {model}": paper.table_1(model) for model in paper.PRINTED_AVG},
    **{one.name: one for one in (paper.TABLE_2, paper.TABLE_3, paper.TABLE_5, paper.TABLE_7)},
    **{one.name: one for one in (paper.table_4(), paper.table_8())},
}


@pytest.mark.parametrize(
    ("model", "expected"), [("opt_125m", 16.60), ("opt_1_3b", 16.43), ("opt_2_7b", 33.04), ("llama2_7b", 26.62)]
)
def test_avg_is_the_mean_relative_improvement(model: str, expected: float) -> None:
    table = paper.table_1(model)
    improvements = [table.relative("SPT", metric) for metric in paper.ALL]
    assert paper.PRINTED_AVG[model] == expected
    assert sum(improvements) / 10 == pytest.approx(expected, abs=0.04)  # which rounding of the cells can do


def test_tables_of_the_same_rows_agree() -> None:
    full, table_1 = paper.table_8(), paper.table_1("llama2_7b")
    assert full.rows["SPT"] == table_1.rows["SPT"]
    for row, values in paper.table_4().rows.items():
        for metric, value in zip(paper.FIVE, values, strict=True):
            if metric == paper.DIST_AVG:
                expected = (full.value(row, paper.DIST_1) + full.value(row, paper.DIST_2)) / 2
                assert value == pytest.approx(expected, abs=0.0101)
            else:
                assert value == full.value(row, metric)
    assert paper.TABLE_2.rows["SPT"] == paper.TABLE_3.rows["K = 4"] == paper.table_4().rows["SPT"]


def test_table_6_is_in_the_recipes() -> None:
    for model in paper.PRINTED_AVG:
        config, published = RECIPES[model](), paper.TABLE_6[model]
        assert isinstance(published, dict)
        assert config.prompts.prompt_length == published["prompt_length"]
        assert config.optim.learning_rate == published["learning_rate"]
        assert config.optim.epochs == published["epochs"]
        assert config.prompts.num_prompts == paper.TABLE_6["num_prompts"]
        assert config.losses.selection.tau_g == paper.TABLE_6["tau_g"]
        assert config.evaluation.max_new_tokens == paper.MAX_NEW_TOKENS
        assert config.data.max_tokens == paper.MAX_TOKENS


def test_table_7_is_what_human_evaluation_shows() -> None:
    published = [(one.published[1], one.published[0]) for one in CRITERIA]
    assert list(zip(paper.TABLE_7.rows["PT"], paper.TABLE_7.rows["SPT"], strict=True)) == published


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_exactly_one_cell_in_a_sweep_that_is_said_to_have_it(name: str) -> None:
    for sweep_name, rows in TABLES[name].cells.items():
        sweep = importlib.import_module(f"sweeps.{sweep_name}").SWEEP
        found = [
            TABLES[name].row_of(sweep_name, sweep.base.override(cell).canonical()) for cell in sweep.design.cells()
        ]
        assert sorted(row for row in found if row is not None) == sorted(rows)
        assert set(rows) <= set(TABLES[name].rows)


def test_a_cell_is_known_by_its_levels_whatever_it_is_called() -> None:
    config = recipes.smollm2_135m().override({"losses.fusion.enabled": False})
    assert paper.TABLE_2.row_of("loss_ablation", config) == "w/o fusion"
    assert paper.TABLE_2.row_of("loss_ablation", config.override({"losses.selection.enabled": False})) is None
    assert paper.TABLE_2.row_of("another_sweep", config) is None


def test_claims_are_numbered_from_one_to_eleven() -> None:
    assert [claim.number for claim in paper.CLAIMS] == list(range(1, 12))


@pytest.mark.skipif(not TEXT.is_file(), reason="the paper's working reference is not beside this checkout")
@pytest.mark.parametrize("name", [name for name in TABLES if name not in {"table5", "table7", "table8"}])
def test_numbers_are_those_of_the_text(name: str) -> None:
    lines = [re.findall(r"(?<![\w-])\d+\.\d+", line) for line in TEXT.read_text(encoding="utf-8").splitlines()]
    printed = {tuple(map(float, numbers)) for numbers in lines}
    for row in TABLES[name].rows.values():
        assert any(numbers[: len(row)] == row for numbers in printed), row


@pytest.mark.skipif(not TEXT.is_file(), reason="the paper's working reference is not beside this checkout")
@pytest.mark.parametrize("name", ["table5", "table7", "table8"])
def test_numbers_are_those_of_the_running_text(name: str) -> None:
    text = " ".join(re.findall(r"\d+\.\d+", TEXT.read_text(encoding="utf-8")))
    for row in TABLES[name].rows.values():
        assert " ".join(f"{value:.2f}" for value in row) in text


@pytest.mark.skipif(not CONVAI2.is_dir(), reason="ConvAI2 is not beside this checkout")
def test_the_test_split_is_known_by_its_fingerprint() -> None:
    dialogues = load(str(CONVAI2 / "valid_self_original_no_cands.txt"))
    assert dialogues.fingerprint == paper.TEST_FINGERPRINT
    assert sum(len(one.turns) for one in dialogues) == paper.NUM_RESPONSES
