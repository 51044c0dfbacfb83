import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from spt_core import recipes
from spt_core.config import TrialConfig
from sweeps.engine.design.designs import LOSSES, AddOneIn, Cases, Factorial, Grid, LeaveOneOut, factors, label
from sweeps.engine.design.scales import SCALES, at_scale
from sweeps.engine.design.sweep import Sweep

BASE = TrialConfig()
K = "prompts.num_prompts"
GAMMA = "losses.contrastive.threshold"


def make_sweep(**changes: Any) -> Sweep:
    given: dict[str, Any] = {"name": "k_sweep", "base": BASE, "design": Grid({K: [1, 2]}), "baseline": {K: 1}}
    return Sweep(**{**given, **changes})


def test_a_grid_crosses_its_factors_with_the_last_varying_fastest() -> None:
    grid = Grid({K: range(1, 3), GAMMA: [10.0, 30.0, 50.0]})
    assert [(cell[K], cell[GAMMA]) for cell in grid.cells()] == [
        (1, 10.0),
        (1, 30.0),
        (1, 50.0),
        (2, 10.0),
        (2, 30.0),
        (2, 50.0),
    ]


def test_a_grid_outlives_the_iterator_it_was_given() -> None:
    grid = Grid({K: iter([1, 2, 4])})
    assert grid.cells() == grid.cells() == [{K: 1}, {K: 2}, {K: 4}]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, r"no factors: name at least one"),
        ({K: []}, r"'prompts\.num_prompts' has no levels: give it at least one"),
        ({K: [1, 2, 1]}, r"'prompts\.num_prompts' has a level twice: 1, 2, 1"),
    ],
)
def test_a_grid_that_is_no_grid_is_refused(factors: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(factors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "K sweep"}, r"Sweep name = 'K sweep': use lower-case letters, digits and underscores"),
        ({"name": "../k"}, r"Sweep name = '\.\./k'"),  # it becomes a folder
        ({"seeds": 0}, r"Sweep k_sweep: seeds = 0: it should be at least 1"),
        (
            {"baseline": {K: 4}},
            r"the baseline num_prompts=4 is no cell of the design; its cells are num_prompts=1; num_prompts=2",
        ),
        ({"demo": Grid({K: [2]})}, r"the baseline num_prompts=1 is no cell of the design; its cells are num_prompts=2"),
        (
            {"design": Grid({"prompts.num_prompt": [1, 2]}), "baseline": {"prompts.num_prompt": 1}},
            r"unknown field 'prompts\.num_prompt': did you mean prompts\.num_prompts",
        ),
        (
            {"design": Grid({K: [1, 0]})},
            r"prompts\.num_prompts = 0: it should be greater than or equal to 1",
        ),
        ({"design": Grid({GAMMA: [20, 300]}), "baseline": {GAMMA: 20}}, r"threshold = 300: it should be .* 100"),
    ],
)
def test_a_sweep_that_could_not_run_cannot_be_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sweep(**changes)


def test_a_label_is_the_last_part_of_each_path_with_its_level() -> None:
    assert label({K: 4}) == "num_prompts=4"
    assert label({K: 4, GAMMA: 20.0}) == "num_prompts=4, threshold=20.0"
    assert label({}) == "base"


@pytest.mark.parametrize("recipe", [None, *recipes.RECIPES.values()])
@pytest.mark.parametrize("scale", ["tiny", "demo", "full"])
def test_every_scale_fits_every_recipe(scale: str, recipe: Callable[[], TrialConfig] | None) -> None:
    base = recipe() if recipe else BASE
    config, _, seeds = at_scale(make_sweep(base=base, seeds=3), scale)
    assert config.override(SCALES[scale].settings) == config  # the budget is in it
    assert config.backbone == base.backbone
    assert seeds == (3 if scale == "full" else 1)


def test_small_scales_take_the_small_design_and_large_ones_the_whole() -> None:
    sweep = make_sweep(design=Grid({K: range(1, 9)}), demo=Grid({K: [1, 2]}), paper=recipes.llama2_7b())
    sizes = {scale: len(at_scale(sweep, scale)[1].cells()) for scale in SCALES}
    assert sizes == {"tiny": 2, "demo": 2, "full": 8, "paper": 8}


def test_the_full_and_paper_scales_change_no_setting() -> None:
    sweep = make_sweep(paper=recipes.llama2_7b())
    assert at_scale(sweep, "full")[0] == BASE
    assert at_scale(sweep, "paper")[0] == recipes.llama2_7b()


def test_a_scale_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=re.escape("--scale huge: it should be one of tiny, demo, full, paper")):
        at_scale(make_sweep(), "huge")


def test_a_question_that_the_paper_does_not_ask_has_no_paper_scale() -> None:
    with pytest.raises(ValueError, match=r"--scale paper: k_sweep has no published counterpart; use full, demo"):
        at_scale(make_sweep(paper=None), "paper")


def test_cases_are_cells_with_names() -> None:
    design = Cases({"paper": {}, "released": {GAMMA: 10.0, "seed": 0}})
    paper, released = design.cells()
    assert (paper, released) == ({}, {GAMMA: 10.0, "seed": 0})
    assert [label(cell) for cell in design.cells()] == ["paper", "released"]
    assert [factors(cell) for cell in design.cells()] == [{"case": "paper"}, {"case": "released"}]
    again = pickle.loads(pickle.dumps(released))
    assert (again, label(again)) == (released, "released")
    assert factors({GAMMA: 1}) == {GAMMA: 1}


@pytest.mark.parametrize(
    ("cases", "message"),
    [({}, "Cases has none"), ({"a": {GAMMA: 1}, "b": {GAMMA: 1}}, "cases 'a' and 'b' set the same")],
)
def test_cases_that_say_nothing_are_refused(cases: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cases(cases)


CONTRASTIVE, SELECTION, FUSION = LOSSES


def levels_of(design: LeaveOneOut | AddOneIn | Factorial) -> dict[str, tuple[Any, ...]]:
    return {label(cell): tuple(cell[path] for path in LOSSES) for cell in design.cells()}


def test_leaving_one_out_starts_from_all() -> None:
    assert levels_of(LeaveOneOut()) == {
        "all": (True, True, True),
        "without contrastive": (False, True, True),
        "without selection": (True, False, True),
        "without fusion": (True, True, False),
    }


def test_adding_one_in_starts_from_none() -> None:
    assert levels_of(AddOneIn()) == {
        "none": (False, False, False),
        "only contrastive": (True, False, False),
        "only selection": (False, True, False),
        "only fusion": (False, False, True),
    }


def test_a_factorial_has_every_combination_once() -> None:
    levels = levels_of(Factorial())
    assert len(levels) == len(set(levels.values())) == 8
    assert levels["all"] == (True, True, True)
    assert levels["contrastive + fusion"] == (True, False, True)
    assert levels["none"] == (False, False, False)
    assert next(iter(levels)) == "all"


@pytest.mark.parametrize("design", [LeaveOneOut, AddOneIn, Factorial])
@pytest.mark.parametrize(
    ("components", "message"), [((), "has no components"), ((FUSION, FUSION), "has a component twice")]
)
def test_components_that_make_no_design_are_refused(design: Any, components: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{design.__name__} {message}"):
        design(components)


def test_a_component_that_cannot_be_switched_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown field .prompts\.num_promts.: did you mean prompts\.num_prompts"):
        make_sweep(design=LeaveOneOut(("prompts.num_promts",)), baseline=None)


def test_without_a_baseline_it_is_the_first_cell_and_keeps_its_name() -> None:
    assert label(make_sweep(design=LeaveOneOut(), baseline=None).baseline) == "all"
    by_levels = make_sweep(design=Cases({"a": {K: 1}, "b": {K: 2}}), baseline={K: 2})
    assert label(by_levels.baseline) == "b"
