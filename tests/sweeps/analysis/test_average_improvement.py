"""AVG against the published tables, and as what a search is for."""

import math

import pytest

from sweeps.engine.analysis.average_improvement import improvement
from sweeps.engine.design import metrics

TABLE_1 = {
    "OPT-125M": (
        "10.79 1.61 14.36 2.67 13.25 53.15 53.90 52.91 3.94 13.67",
        "11.06 2.22 16.45 3.60 15.42 54.86 56.23 53.91 4.87 17.38",
        16.60,
    ),
    "OPT-1.3B": (
        "8.16 1.82 11.48 2.22 10.29 55.31 57.12 53.93 4.87 17.19",
        "9.94 2.66 13.74 3.24 12.38 56.34 58.08 54.99 4.93 17.76",
        16.43,
    ),
    "OPT-2.7B": (
        "8.67 1.77 11.84 2.30 10.61 56.25 58.48 54.49 5.18 18.61",
        "12.23 3.11 16.97 4.37 15.61 57.96 59.92 56.45 5.84 20.76",
        33.04,
    ),
    "Llama2-7B": (
        "17.12 1.99 15.74 4.07 13.72 52.30 48.57 57.11 2.80 12.91",
        "17.49 2.80 17.02 4.48 15.24 54.66 53.02 57.14 5.69 22.86",
        26.62,
    ),
}


def row(text: str) -> dict[str, float | None]:
    return {f"test/{name}": float(value) for name, value in zip(metrics.TABLE_1, text.split(), strict=True)}


@pytest.mark.parametrize("model", list(TABLE_1))
def test_avg_is_the_papers(model: str) -> None:
    """Up to the rounding of the published cells, whose last digit is worth some hundredths here."""
    of_pt, of_spt, published = TABLE_1[model]
    assert improvement(row(of_spt), row(of_pt)).average == pytest.approx(published, abs=0.05)


def test_how_much_of_it_is_dist() -> None:
    of_pt, of_spt, _ = TABLE_1["Llama2-7B"]
    gain = improvement(row(of_spt), row(of_pt))
    assert gain.of_dist == pytest.approx(18.0, abs=0.05)
    assert gain.of_dist == pytest.approx((100 * 2.89 / 2.80 + 100 * 9.95 / 12.91) / 10)


def test_a_metric_that_one_side_lacks_or_that_is_zero_at_the_baseline_is_left_out() -> None:
    base = {"test/f1": 10.0, "test/bleu": 0.0, "test/rouge_1": math.nan, "test/rouge_2": 4.0}
    found = improvement({"test/f1": 15.0, "test/bleu": 3.0, "test/rouge_1": 5.0, "test/dist_1": 2.0}, base)
    assert found.by_metric == {"f1": 50.0}
    assert found.average == 50.0
    assert math.isnan(improvement({}, base).average)


def test_it_reads_the_split_that_it_is_told_to() -> None:
    values = {"dev/f1": 12.0, "test/f1": 99.0}
    assert improvement(values, {"dev/f1": 10.0, "test/f1": 1.0}, split="dev").average == pytest.approx(20.0)
