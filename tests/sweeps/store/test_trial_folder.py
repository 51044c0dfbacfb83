"""A trial's files: what is cut short, missing or damaged is answered with nothing, or named."""

import json
from pathlib import Path

import pytest

from sweeps.engine.store import trial_folder
from sweeps.engine.store.trial_folder import HistoryWriter, Retries


def rows(folder: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["x"]) for row in trial_folder.read_history(folder)]


@pytest.mark.parametrize(
    "cut", ["", '{"step": 3.0, "x"', "[]", "null", '{"x": 1}', '{"step": null}', "\x00\x00", '"step"']
)
def test_a_line_that_is_no_row_is_skipped_wherever_it_is(tmp_path: Path, cut: str) -> None:
    first, second = (json.dumps({"step": step, "x": 1.0}) for step in (0.0, 2.0))
    (tmp_path / trial_folder.HISTORY).write_text("\n".join([cut, first, cut, second, cut]))
    assert rows(tmp_path) == [(0.0, 1.0), (2.0, 1.0)]


def test_of_a_step_that_ran_again_the_last_row_counts(tmp_path: Path) -> None:
    lines = [{"step": 1.0, "x": 1.0}, {"step": 2.0, "x": 1.0}, {"step": 1.0, "x": 5.0}]
    (tmp_path / trial_folder.HISTORY).write_text("\n".join(map(json.dumps, lines)))
    assert rows(tmp_path) == [(1.0, 5.0), (2.0, 1.0)]


def test_an_attempt_that_resumes_drops_what_it_reports_again(tmp_path: Path) -> None:
    first = HistoryWriter(tmp_path, resumed=False)
    for step in (0.0, 1.0, 2.0, 3.0):
        first.add({"step": step, "x": 1.0})
    with (tmp_path / trial_folder.HISTORY).open("a") as file:
        file.write('{"step": 4.0, "x')
    again = HistoryWriter(tmp_path, resumed=True)
    again.add({"step": 2.0, "x": 2.0})
    again.add({"step": 3.0, "x": 2.0})
    assert rows(tmp_path) == [(0.0, 1.0), (1.0, 1.0), (2.0, 2.0), (3.0, 2.0)]
    HistoryWriter(tmp_path, resumed=False)
    assert rows(tmp_path) == []


def test_a_folder_without_files_answers_with_nothing(tmp_path: Path) -> None:
    assert trial_folder.read_metrics(tmp_path) is None
    assert trial_folder.read_config(tmp_path) == {}
    assert trial_folder.read_environment(tmp_path) == {}
    assert trial_folder.read_retries(tmp_path) == Retries()
    assert trial_folder.read_history(tmp_path) == []
    assert trial_folder.read_predictions(tmp_path, ["turn"]) is None
    assert trial_folder.read_arrays(tmp_path, ["turn"]) is None


def test_what_was_written_is_read(tmp_path: Path) -> None:
    trial_folder.write_finished(
        tmp_path,
        config={"seed": 1},
        environment={"key": "k"},
        code_diff="",
        predictions=[{"turn": 0, "prediction": "hi"}, {"turn": 1, "prediction": "é"}],
        metrics={"test/f1": 1.5, "test/nll": float("inf")},
    )
    assert trial_folder.read_metrics(tmp_path) == {"test/f1": 1.5, "test/nll": float("inf")}
    assert trial_folder.read_predictions(tmp_path, ["prediction"]) == [{"prediction": "hi"}, {"prediction": "é"}]
    arrays = trial_folder.read_arrays(tmp_path, ["turn"])
    assert arrays is not None
    assert arrays["turn"].tolist() == [0, 1]
    assert not (tmp_path / trial_folder.CODE_DIFF).exists()


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / trial_folder.PREDICTIONS
    path.write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"predictions.parquet: it cannot be read"):
        trial_folder.read_predictions(tmp_path, ["turn"])
