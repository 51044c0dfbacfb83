"""The study of a search: where it is stored, what it has asked for, and its Pareto front."""

from pathlib import Path

import pytest

from sweeps.engine.driver.recall import record_of
from sweeps.engine.driver.status import statuses
from sweeps.engine.plan.plan import Plan
from sweeps.engine.search.study import check_storage, keys, pareto_front, proposed, ranked
from sweeps.engine.store import sweep_record
from tests.sweeps.search.driver_of_a_search import Driver, Explored, PlanOf, nll


def test_a_pareto_front_holds_the_trials_that_no_other_beats(two_objectives: Explored) -> None:
    study, space = two_objectives
    best = ranked(study, space)
    front = pareto_front(best, space.design.directions)
    assert sorted(tuple(one.values) for one in front) == [(0.5, 9.5), (1.0, 9.0), (2.0, 5.0), (4.0, 1.0)]
    assert [tuple(one.values) for one in best] == [
        (0.5, 9.5),
        (1.0, 9.0),
        (2.0, 5.0),
        (4.0, 1.0),
        (3.0, 6.0),
        (4.0, 2.0),
    ]


def test_a_study_may_be_a_journal_file(plan_of: PlanOf, tmp_path: Path) -> None:
    plan, storage = plan_of(num_trials=3), f"journal:{tmp_path / 'study.log'}"
    driver = Driver(plan, tmp_path, storage=storage)
    assert driver.play(nll) == 3
    assert not (tmp_path / "optuna.db").exists()
    assert proposed(plan.sweep_id, storage).keys() == keys(driver.search.study)
    assert Driver(plan, tmp_path, storage=storage).play(nll) == 0, "it is found again"


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@127.0.0.1:9/db", "sqlite:////nowhere/at/all.db", "nonsense", "mysql://me:secret@h/d"],
)
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^--study .*: .* Give the URL of a database") as refused:
        check_storage(url)
    assert "secret" not in str(refused.value)


def test_the_status_of_a_search_counts_the_trials_of_its_study(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of()
    study = f"sqlite:///{tmp_path / 'optuna.db'}"

    def stands(plan: Plan) -> dict[str, int]:
        asked = record_of(plan, file="a.py", arguments=[], concurrency=1, study=study, started=0.0)
        sweep_record.write(asked, tmp_path / plan.sweep_id)
        (status,) = statuses(tmp_path)
        return {state: count for state, count in status.counts.items() if count}

    driver = Driver(plan, tmp_path)
    driver.play(nll, most=3)
    trial = driver.ask("stopped")
    assert trial is not None
    driver.end("stopped", trial, "stop")
    assert stands(plan) == {"finished": 3, "pruned": 1, "not run": 8 + 2}
    confirmed = plan.confirming([trial.cell])
    assert stands(confirmed) == {"finished": 3, "pruned": 1, "not run": 4}
