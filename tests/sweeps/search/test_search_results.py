"""What the report shows of a search: its objectives, parallel coordinates, and which parameters mattered."""

from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import create_trial

from sweeps.engine.report.search_results import SearchResults
from sweeps.engine.search.study import KEY, study_of
from tests.sweeps.search.driver_of_a_search import GAMMA, ON, SPACE, Driver, Explored, K, PlanOf, space_of


def test_the_scatter_of_two_objectives_marks_the_pareto_front(two_objectives: Explored) -> None:
    scatter = SearchResults(*two_objectives).scatter()
    assert scatter is not None
    assert [point[3] for point in scatter.points] == [True] * 4 + [False] * 2


def test_parallel_coordinates_put_each_value_on_its_axis(plan_of: PlanOf, tmp_path: Path) -> None:
    space = {K: IntDistribution(1, 4), ON: SPACE[ON], GAMMA: FloatDistribution(1, 100, log=True)}
    plan = plan_of(space=space, objectives=("dev/nll", "dev/dist_gap"), num_trials=1)
    study = study_of(plan.sweep_id, space_of(plan), "sqlite://")
    given = [({K: 4, ON: True, GAMMA: 10.0}, [3.0, 9.0]), ({K: 1, ON: False}, [4.0, 9.0])]
    for number, (params, values) in enumerate(given):
        distributions = {path: space[path] for path in params}
        attributes = {KEY: f"trial{number}"}
        study.add_trial(create_trial(values=values, params=params, distributions=distributions, user_attrs=attributes))
    plot = SearchResults(study, space_of(plan)).coordinates()
    assert plot is not None
    assert [axis.label for axis in plot.axes] == [
        "num_prompts",
        "contrastive",
        "contrastive.threshold",
        "dev/nll",
        "dev/dist_gap",
    ]
    assert [[tick.text for tick in axis.ticks] for axis in plot.axes] == [
        ["1", "4"],
        ["on", "off"],
        ["1", "100"],
        ["3.000", "4.000"],
        ["9.00"],
    ]
    other, best = ([float(at.split()[0]) for at in trace.d[1:].split("L")] for trace in plot.traces)
    assert [trace.is_best for trace in plot.traces] == [False, True]
    assert plot.absent is not None
    middle = (plot.left + plot.right) / 2
    assert other == pytest.approx(
        [plot.left, 0.25 * plot.left + 0.75 * plot.right, plot.absent, plot.right, middle], abs=0.1
    )
    assert best == pytest.approx([plot.right, 0.75 * plot.left + 0.25 * plot.right, middle, plot.left, middle], abs=0.1)


def test_the_parameter_that_decides_has_the_largest_importance(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of(
        space={K: IntDistribution(2, 8), "optim.learning_rate": FloatDistribution(0.001, 0.1)},
        only_if={},
        num_trials=30,
    )
    driver = Driver(plan, tmp_path)
    driver.play(lambda trial: {"dev/nll": float(trial.config.prompts.num_prompts)})
    explored = SearchResults(driver.search.study, space_of(plan))
    (table,) = [of for heading, of in explored.tables().items() if "mattered" in heading]
    shares = {row.label: [entry.value for entry in row.entries] for row in table.rows}
    for index in (0, 1):  # fANOVA, PED-ANOVA
        of_prompts, of_rate = shares["num_prompts"][index], shares["learning_rate"][index]
        assert of_prompts is not None
        assert of_prompts > 0.8
        assert of_rate is not None
        assert of_rate < 0.2
    assert explored.summary.startswith("30 distinct trials were explored on dev: 30 at full budget")
