"""When a trial counts as reproduced: metrics within the tolerance, and the same in its file and in MLflow."""

import math
from dataclasses import replace

import pytest

from sweeps.engine.tracking.logged_trial import LoggedTrial
from sweeps.engine.verify.compare import compare
from tests.sweeps.verify.logged_run import Logged

ALONE = LoggedTrial(
    run_id="r",
    name="seed 0",
    config={},
    environment={},
    metrics={"test/nll": 3.0, "test/f1": 20.0, "test/lm_agreement": 50.0, "seconds": 9.0},
    shown={"test/nll": 3.0, "test/f1": 20.0},
    seeds=({"test/nll": 3.0, "test/f1": 20.0},),
    primary_metric="test/nll",
)


@pytest.mark.parametrize(
    ("now", "exact", "reproduced"),
    [
        ({}, True, True),
        ({"seconds": 1.0}, True, True),  # a timing
        ({"test/lm_agreement": 50.1}, True, False),
        ({"test/lm_agreement": 90.0}, False, True),  # not a main metric
        ({"test/nll": 3.0199}, False, True),
        ({"test/nll": 3.0201}, False, False),
        ({"test/nll": math.nan}, False, False),
        ({"test/f1": 21.9}, False, True),  # a tenth of it
        ({"test/f1": 22.1}, False, False),
    ],
)
def test_without_seeds_the_default_tolerance_decides(now: dict[str, float], exact: bool, reproduced: bool) -> None:
    verdict = compare(ALONE, {**ALONE.metrics, **now}, exact=exact)
    assert verdict.reproduced == reproduced
    assert ("default" in verdict.tolerance) == (not exact)


def test_the_spread_of_the_seeds_is_the_tolerance() -> None:
    seeds = tuple({"test/nll": value} for value in (2.9, 3.0, 3.1))  # a standard deviation of 0.1
    several = replace(ALONE, seeds=seeds)
    for now, reproduced in ((3.19, True), (2.81, True), (3.21, False)):
        assert compare(several, {**ALONE.metrics, "test/nll": now}, exact=False).reproduced == reproduced
    alike = replace(ALONE, seeds=({"test/nll": 3.0}, {"test/nll": 3.0}))
    for now, reproduced in ((3.0019, True), (3.0021, False)):
        assert compare(alike, {**ALONE.metrics, "test/nll": now}, exact=False).reproduced == reproduced


def test_an_undefined_metric_is_equal_to_an_undefined_one_and_a_missing_one_is_off() -> None:
    undefined = replace(
        ALONE, metrics={"test/nll": math.nan, "test/bleu": math.inf}, shown={"test/bleu": 1.7976931348623157e308}
    )
    verdict = compare(undefined, {"test/nll": math.nan, "test/bleu": math.inf}, exact=True)
    assert verdict.reproduced
    assert verdict.is_equal
    assert not compare(ALONE, {"test/f1": 20.0}, exact=False).reproduced


def test_a_metric_changed_in_the_file_is_not_reproduced(logged: Logged) -> None:
    logged.edit("metrics.json", lambda metrics: metrics.update({"test/nll": metrics["test/nll"] - 1e-9}))
    code, out, _ = logged.verify()
    assert code == 1
    assert "NOT REPRODUCED: MLflow shows test/nll otherwise than the trial found" in out


def test_a_metric_changed_everywhere_is_not_reproduced(logged: Logged) -> None:
    better = logged.child.data.metrics["test/nll"] - 1e-9
    logged.edit("metrics.json", lambda metrics: metrics.update({"test/nll": better}))
    logged.shown.client.log_metric(logged.run_id, "test/nll", better, step=10)
    code, out, _ = logged.verify()
    assert code == 1
    assert "NOT REPRODUCED: 1 of " in out
    assert "differ, and had to be equal: test/nll" in out


def test_a_metric_changed_in_mlflow_alone_is_not_reproduced(logged: Logged) -> None:
    logged.shown.client.log_metric(logged.run_id, "test/f1", 99.0, step=10)
    code, out, _ = logged.verify()
    assert code == 1
    assert "MLflow shows 99.0" in out
    assert "NOT REPRODUCED: MLflow shows test/f1 otherwise than the trial found" in out
