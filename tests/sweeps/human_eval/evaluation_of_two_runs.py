"""Two runs with known replies, the sheet exported of them, and raters who fill it."""

import csv
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from spt_core.evaluation import Prediction
from sweeps.engine.human_eval.sheets import COLUMNS
from tests.sweeps.command_line import Answer, invoke

RATED = COLUMNS[4:]
PERSONA = 'i like tea. my "best" friend, ann, is 30.'

Row = dict[str, str]
Scores = tuple[int, int, int]


def write_run(
    folder: Path,
    *,
    name: str = "apple",
    num_dialogues: int = 3,
    num_turns: int = 2,
    replies: Mapping[tuple[str, int], str] | None = None,
    personas: str = PERSONA,
) -> Path:
    """A trial's folder; its replies tell the dialogue, the turn and, by the name of a fruit, the run."""
    rows = []
    for dialogue, turn in itertools.product(map(str, range(num_dialogues)), range(num_turns)):
        said = [part for t in range(turn) for part in (f"question {dialogue}.{t}?", f"human {dialogue}.{t}")]
        rows.append(
            Prediction(
                dialogue=dialogue,
                turn=turn,
                stage="opening" if turn == 0 else "middle",
                persona=personas,
                context=" ".join([personas, *said, f"question {dialogue}.{turn}?"]),
                reference=f"human {dialogue}.{turn}",
                prediction=(replies or {}).get((dialogue, turn), f"{name} {dialogue}.{turn}"),
                raw_prediction="uncut",
                cut_by=None,
                prompt=0,
                similarity=[0.5],
                nll=1.0,
                nll_by_prompt=[1.0],
                num_tokens=4,
            )
        )
    folder.mkdir(parents=True)
    pd.DataFrame([asdict(row) for row in rows]).to_parquet(folder / "predictions.parquet")
    return folder


def read(sheet: Path) -> list[Row]:
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write(sheet: Path, rows: list[Row], *, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with sheet.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return sheet


def spt(*arguments: object) -> Answer:
    return invoke("human-eval", *arguments)


@dataclass(frozen=True)
class Evaluation:
    """An export of the runs apple (A) and berry (B), and the ways to fill it."""

    folder: Path

    @property
    def rows(self) -> list[Row]:
        return read(self.folder / "sheet.csv")

    def fill(self, rater: str, scores: Callable[[str, str, int], Scores]) -> Path:
        """A sheet filled by a rater who sees through the blinding: by run, dialogue and turn."""
        rows = self.rows
        for row in rows:
            fruit, place = row["response"].split()
            dialogue, turn = place.split(".")
            given = scores({"apple": "A", "berry": "B"}[fruit], dialogue, int(turn))
            row.update(zip(RATED, map(str, given), strict=True))
        return write(self.folder / f"{rater}.csv", rows)

    def results(self, *arguments: object) -> dict[str, dict[str, dict[str, float]]]:
        code, _, error = spt("import", self.folder, *arguments)
        assert code == 0, error
        found: dict[str, dict[str, dict[str, float]]] = json.loads((self.folder / "results.json").read_text())
        return found


def all_ones(run: str, dialogue: str, turn: int) -> Scores:
    return 1, 1, 1
