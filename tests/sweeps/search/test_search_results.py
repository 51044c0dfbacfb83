"""What the report shows of a search: its objectives, parallel coordinates, and which parameters mattered."""

from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution

from sweeps.engine.report.search_results import SearchResults
from tests.sweeps.search.driver_of_a_search import Driver, Explored, K, PlanOf, space_of


def test_two_objectives_have_two_figures(two_objectives: Explored) -> None:
    assert [one.name for one in SearchResults(*two_objectives).figures()] == ["pareto_front", "parallel_coordinates"]


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
