"""The human evaluation: blinded sheets out, filled sheets in, against known scores and independent oracles."""

import csv
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from spt_core.evaluation import Prediction
from sweeps.engine.cli.main import app
from sweeps.engine.human_eval import sheets as human_eval
from sweeps.engine.human_eval.ratings import krippendorff_alpha, read_sheet, sign_flip_p
from sweeps.engine.human_eval.sheets import COLUMNS, CRITERIA, Response, conversation

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


def spt(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["human-eval", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def assert_refused(answer: tuple[int, str, str], *needles: str) -> None:
    code, _, error = answer
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1, "one line"
    for needle in needles:
        assert needle in error


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


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return write_run(tmp_path / "one", name="apple"), write_run(tmp_path / "two", name="berry")


@pytest.fixture
def evaluation(runs: tuple[Path, Path], tmp_path: Path) -> Evaluation:
    """All six examples, two of each of three dialogues."""
    assert spt("export", *runs, "--responses", 6, "--output", tmp_path / "out")[0] == 0
    return Evaluation(tmp_path / "out")


def all_ones(run: str, dialogue: str, turn: int) -> Scores:
    return 1, 1, 1


class TestExport:
    def test_both_responses_to_each_sampled_example_are_rows_to_be_filled(self, evaluation: Evaluation) -> None:
        rows = evaluation.rows
        assert tuple(rows[0]) == COLUMNS
        assert all(row[column] == "" for row in rows for column in RATED)
        places = [f"{dialogue}.{turn}" for dialogue in range(3) for turn in range(2)]
        assert sorted(row["response"] for row in rows) == sorted(
            f"{fruit} {place}" for fruit in ("apple", "berry") for place in places
        )

    def test_only_the_key_tells_whose_a_response_is(self, evaluation: Evaluation) -> None:
        key = json.loads((evaluation.folder / "key.json").read_text())
        assert key["runs"] == {"A": "one", "B": "two"}
        for row in evaluation.rows:
            item = key["items"][row["item"]]
            fruit = {"A": "apple", "B": "berry"}[item["run"]]
            assert row["response"] == f"{fruit} {item['dialogue']}.{item['turn']}"

    def test_nothing_but_the_response_depends_on_the_run(self, tmp_path: Path, runs: tuple[Path, Path]) -> None:
        """With the responses masked, a sheet says the same about either run: names, order and paths leave no trace."""
        spt("export", *runs, "--responses", 6, "--output", tmp_path / "out")
        evaluation = Evaluation(tmp_path / "out")
        sheet = (evaluation.folder / "sheet.csv").read_text(encoding="utf-8-sig")
        for trace in ("one", "two", str(tmp_path), "uncut"):
            assert trace not in sheet
        order = list(json.loads((evaluation.folder / "key.json").read_text())["items"])
        names = [row["item"] for row in evaluation.rows]
        assert sorted(names) == sorted(order)
        assert names != order
        assert names != sorted(names)
        by_run = {
            fruit: sorted((row["persona"], row["context"]) for row in evaluation.rows if fruit in row["response"])
            for fruit in ("apple", "berry")
        }
        assert by_run["apple"] == by_run["berry"]

    def test_the_order_of_the_rows_does_not_lean_to_a_run(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / name, name=name, num_dialogues=50) for name in ("apple", "berry")]
        spt("export", *runs, "--output", tmp_path / "out")
        first_half = Evaluation(tmp_path / "out").rows[:100]
        num_apples = sum("apple" in row["response"] for row in first_half)
        assert 35 <= num_apples <= 65  # three standard deviations of 100 draws without replacement from 200

    def test_the_same_seed_gives_the_same_files_and_another_seed_another_sample(
        self, tmp_path: Path, runs: tuple[Path, Path]
    ) -> None:
        for name, seed in (("first", 0), ("again", 0), ("other", 1)):
            assert spt("export", *runs, "--responses", 3, "--seed", seed, "--output", tmp_path / name)[0] == 0
        for file in ("sheet.csv", "key.json", "rubric.md"):
            assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
        first, other = (Evaluation(tmp_path / name).rows for name in ("first", "other"))
        assert not {row["item"] for row in first} & {row["item"] for row in other}
        assert {row["context"] for row in first} != {row["context"] for row in other}

    def test_a_key_finds_its_trial_below_the_output_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("apple", "berry"):
            write_run(tmp_path / "runs" / "trials" / name, name=name)
        monkeypatch.chdir(tmp_path)
        assert spt("export", "apple", "berry", "--responses", 2)[0] == 0
        assert (tmp_path / "runs" / "human_eval" / "apple-berry" / "sheet.csv").is_file()
        assert spt("export", "apple", "berry", "--responses", 2, "--runs", "runs", "--output", "here")[0] == 0

    def test_a_run_is_named_by_its_cell_and_seed_where_its_folder_tells_them(
        self, tmp_path: Path, runs: tuple[Path, Path]
    ) -> None:
        (runs[0] / "environment.json").write_text(json.dumps({"cell": {"prompts.num_prompts": 4}}))
        (runs[0] / "config.json").write_text(json.dumps({"seed": 2}))
        spt("export", *runs, "--responses", 2, "--output", tmp_path / "out")
        named = json.loads((tmp_path / "out" / "key.json").read_text())["runs"]
        assert named == {"A": "num_prompts=4, seed 2 (one)", "B": "two"}

    @pytest.mark.parametrize(
        ("reply", "cell"),
        [
            ('she said "hi", twice', 'she said "hi", twice'),
            ("first line\nsecond, line", "first line\nsecond, line"),
            ("i ♥ tea 😀👩‍👩‍👧", "i ♥ tea 😀👩‍👩‍👧"),
            ("semi;colon\tand tab", "semi;colon\tand tab"),
            ("'tis fine", "'tis fine"),
            ("1 + 1 = 2", "1 + 1 = 2"),
            ('=HYPERLINK("http://nowhere")', '\'=HYPERLINK("http://nowhere")'),
            ("+1 for tea", "'+1 for tea"),
            ("-tea", "'-tea"),
            ("@ann", "'@ann"),
            ("\t=1", "'\t=1"),
            ("＝1", "'＝1"),
            ("", "(empty response)"),
        ],
    )
    def test_a_spreadsheet_shows_the_text_and_computes_nothing(self, tmp_path: Path, reply: str, cell: str) -> None:
        first = write_run(tmp_path / "one", replies={("0", 0): reply}, num_dialogues=1, num_turns=1)
        second = write_run(tmp_path / "two", num_dialogues=1, num_turns=1)
        assert spt("export", first, second, "--responses", 1, "--output", tmp_path / "out")[0] == 0
        rows = Evaluation(tmp_path / "out").rows
        assert cell in [row["response"] for row in rows]
        assert [row["persona"] for row in rows] == [PERSONA] * 2

    def test_the_sheet_is_rfc_4180_with_a_byte_order_mark(self, evaluation: Evaluation) -> None:
        raw = (evaluation.folder / "sheet.csv").read_bytes()
        assert raw.startswith(b"\xef\xbb\xbfitem,persona,context,response,")
        assert raw.count(b"\r\n") == 1 + len(evaluation.rows)
        assert b'"i like tea. my ""best"" friend, ann, is 30."' in raw

    def test_equal_responses_are_counted(self, tmp_path: Path, runs: tuple[Path, Path]) -> None:
        twin = write_run(tmp_path / "twin", name="berry", replies={("0", 0): "apple 0.0"})
        out = spt("export", runs[0], twin, "--responses", 6, "--output", tmp_path / "out")[1]
        assert "for 1 context both runs gave the same response" in out

    def test_the_rubric_says_what_every_score_means(self, evaluation: Evaluation) -> None:
        rubric = (evaluation.folder / "rubric.md").read_text()
        for words in (
            "| persona consistency | contradicts the persona | not relevant to the persona | consistent with",
            "contradicts the previous dialogue | not relevant to the previous dialogue | consistent with",
            "| engagingness | a boring response | a safe but bland response | an interesting response |",
        ):
            assert words in rubric


class TestConversation:
    def test_utterances_are_told_apart_by_the_rows_before(self, evaluation: Evaluation) -> None:
        contexts = {row["response"]: row["context"] for row in evaluation.rows}
        assert contexts["apple 2.0"] == "Partner: question 2.0?"
        assert contexts["berry 2.1"] == "Partner: question 2.0?\nSpeaker: human 2.0\nPartner: question 2.1?"

    def test_the_persona_is_left_out_where_a_row_before_is_missing(self) -> None:
        only = {("0", 1): Response("i like tea.", "i like tea. hello hi there and you?", "fine", "tea")}
        assert conversation(only, ("0", 1)) == "hello hi there and you?"

    def test_the_text_is_left_as_it_is_where_the_rows_do_not_fit(self) -> None:
        rows = {
            ("0", 0): Response("i like tea.", "i like tea. hello", "hi", "tea"),
            ("0", 1): Response("i like tea.", "something else", "fine", "tea"),
        }
        assert conversation(rows, ("0", 1)) == "something else"

    def test_the_speaker_may_begin(self) -> None:
        rows = {
            ("0", 0): Response("i like tea.", "i like tea.", "hi", "tea"),
            ("0", 1): Response("i like tea.", "i like tea. hi hello", "fine", "tea"),
        }
        assert conversation(rows, ("0", 0)) == ""
        assert conversation(rows, ("0", 1)) == "Speaker: hi\nPartner: hello"


class TestExportRefuses:
    def test_a_run_that_is_not_there(self, runs: tuple[Path, Path], tmp_path: Path) -> None:
        assert_refused(spt("export", runs[0], "nosuch", "--runs", tmp_path), "nosuch: no such run", "/trials/nosuch")
        assert_refused(spt("export", "", runs[1]), "RUN ''")

    def test_a_folder_without_predictions(self, runs: tuple[Path, Path], tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert_refused(spt("export", runs[0], tmp_path / "empty"), "there is no predictions.parquet in it")

    def test_predictions_that_are_none(self, runs: tuple[Path, Path]) -> None:
        path = runs[1] / "predictions.parquet"
        pd.read_parquet(path).drop(columns="persona").to_parquet(path)
        assert_refused(spt("export", *runs), f"{path}: it lacks the columns persona")
        path.write_bytes(b"cut short")
        assert_refused(spt("export", *runs), f"{path}: it cannot be read")

    def test_a_response_that_is_there_twice(self, runs: tuple[Path, Path]) -> None:
        path = runs[1] / "predictions.parquet"
        frame = pd.read_parquet(path)
        pd.concat([frame, frame.tail(1)]).to_parquet(path)
        assert_refused(spt("export", *runs), "dialogue '2', turn 1 is in it twice")

    def test_the_same_run_twice(self, runs: tuple[Path, Path]) -> None:
        assert_refused(spt("export", runs[0], runs[0] / ".." / "one"), "the first run once more")

    def test_fewer_shared_responses_than_asked_for(self, runs: tuple[Path, Path]) -> None:
        assert_refused(spt("export", *runs), "--responses 100", "share 6 test responses; ask for 6 or fewer")

    def test_runs_without_a_shared_response(self, runs: tuple[Path, Path]) -> None:
        path = runs[1] / "predictions.parquet"
        pd.read_parquet(path).assign(dialogue="other").drop_duplicates(["dialogue", "turn"]).to_parquet(path)
        assert_refused(spt("export", *runs), "share no test responses")

    def test_runs_on_different_data(self, runs: tuple[Path, Path], tmp_path: Path) -> None:
        other = write_run(tmp_path / "other", personas="i like beer.")
        assert_refused(spt("export", runs[0], other), "tested on different data: dialogue '0', turn 0")

    def test_a_folder_that_may_hold_filled_sheets(self, evaluation: Evaluation, runs: tuple[Path, Path]) -> None:
        before = {path: path.read_bytes() for path in evaluation.folder.iterdir()}
        answer = spt("export", *runs, "--responses", 6, "--seed", 1, "--output", evaluation.folder)
        assert_refused(answer, f"{evaluation.folder}: it is there already", "--output")
        assert {path: path.read_bytes() for path in evaluation.folder.iterdir()} == before

    @pytest.mark.parametrize(("option", "value"), [("--responses", 0), ("--seed", -1)])
    def test_impossible_numbers(self, runs: tuple[Path, Path], tmp_path: Path, option: str, value: int) -> None:
        assert_refused(spt("export", *runs, "--output", tmp_path / "out", option, value), f"{option} {value}: ")
        assert not (tmp_path / "out").exists()


class TestImport:
    def test_known_scores_give_known_means(self, tmp_path: Path) -> None:
        """One response of each of eight dialogues, so that a mean is a mean of ratings; against scipy."""
        runs = [write_run(tmp_path / name, name=name, num_dialogues=8, num_turns=1) for name in ("apple", "berry")]
        spt("export", *runs, "--responses", 8, "--output", tmp_path / "out")
        evaluation = Evaluation(tmp_path / "out")
        persona = {"A": [2, 2, 2, 1, 2, 2, 1, 2], "B": [0, 1, 1, 1, 2, 0, 1, 1]}
        engaging = {"A": [0, 1, 2, 0, 1, 2, 0, 1], "B": [1, 0, 2, 0, 1, 2, 0, 1]}
        sheet = evaluation.fill("anna", lambda run, d, _: (persona[run][int(d)], 1, engaging[run][int(d)]))
        found = evaluation.results(sheet)["criteria"]
        assert found["persona_consistency"]["means"]["A"]["mean"] == pytest.approx(14 / 8)
        assert found["persona_consistency"]["means"]["B"]["mean"] == pytest.approx(7 / 8)
        expected = scipy_stats.ttest_rel(persona["A"], persona["B"]).confidence_interval(0.95)
        assert found["persona_consistency"]["difference"] == pytest.approx(
            {"mean": 7 / 8, "low": expected.low, "high": expected.high}
        )
        # The differences are 2, 1, 1, 2, 1 and three times 0: of 2^5 signs only two make a sum as far from 0 as 7.
        assert found["persona_consistency"]["p"] == pytest.approx(2 / 2**5)
        assert found["persona_consistency"]["p_holm"] == pytest.approx(3 * 2 / 2**5)
        assert found["dialogue_consistency"]["difference"] == {"mean": 0, "low": 0, "high": 0}
        assert found["dialogue_consistency"]["p"] == 1
        assert found["engagingness"]["difference"]["mean"] == pytest.approx(0)
        assert found["engagingness"]["alpha"] is None

    def test_raters_are_averaged_for_each_response(self, evaluation: Evaluation) -> None:
        anna = evaluation.fill("anna", lambda run, dialogue, turn: (2, 0, 1))
        ben = evaluation.fill("ben", lambda run, dialogue, turn: (1 if run == "A" else 0, 0, 1))
        found = evaluation.results(anna, ben)
        assert found["raters"] == [str(anna), str(ben)]
        persona = found["criteria"]["persona_consistency"]
        assert {run: mean["mean"] for run, mean in persona["means"].items()} == {"A": 1.5, "B": 1.0}

    def test_the_responses_of_a_dialogue_are_one_observation(self, evaluation: Evaluation) -> None:
        """Two equal turns a dialogue say as much as one, not twice as much."""
        level = {"0": 2, "1": 1, "2": 2}
        sheet = evaluation.fill("anna", lambda run, dialogue, turn: (level[dialogue] if run == "A" else 1, 1, 1))
        persona = evaluation.results(sheet)["criteria"]["persona_consistency"]
        assert (persona["num_examples"], persona["num_dialogues"]) == (6, 3)
        expected = scipy_stats.ttest_1samp([1, 0, 1], 0).confidence_interval(0.95)
        assert persona["difference"] == pytest.approx({"mean": 2 / 3, "low": expected.low, "high": expected.high})
        assert persona["p"] == pytest.approx(0.5)

    def test_dialogues_count_alike_and_the_plain_mean_is_kept_beside(self, evaluation: Evaluation) -> None:
        sheet = evaluation.fill("anna", lambda run, dialogue, turn: (2 if dialogue == "0" else 0, 1, 1))
        rows = [row | ({RATED[0]: ""} if row["response"] == "apple 0.1" else {}) for row in read(sheet)]
        persona = evaluation.results(write(sheet, rows), "--allow-missing")["criteria"]["persona_consistency"]
        assert persona["num_examples"] == 5
        assert persona["means"]["A"]["mean"] == pytest.approx(2 / 3)
        assert persona["response_means"] == pytest.approx({"A": 2 / 5, "B": 2 / 5})

    def test_what_it_prints_and_writes(self, evaluation: Evaluation) -> None:
        anna = evaluation.fill("anna", lambda run, dialogue, turn: (2 if run == "A" else 1, int(dialogue), turn))
        ben = evaluation.fill("ben", lambda run, dialogue, turn: (2, int(dialogue), 1 - turn))
        code, out, _ = spt("import", evaluation.folder, anna, ben)
        assert code == 0
        page = (evaluation.folder / "results.md").read_text()
        assert "| persona consistency | 2.00 " in page
        assert "6 of 3 dialogues" in page
        for text in (out, page.replace("\\", "")):
            for needle in (
                "6 responses of each run, of 3 dialogues, rated by 2 people",
                "A: one",
                "B: two",
                "+0.50",
                "Responses of one dialogue were averaged first",
                "Published (Table 7, Llama2-7B",
                "persona consistency SPT 1.89, PT 1.33; dialogue consistency SPT 1.29, PT 1.13; engagingness SPT 1.34",
            ):
                assert needle in text
        assert "missing" not in out

    @pytest.mark.parametrize(
        ("delimiter", "encoding"), [(",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-8"), (",", "latin-1")]
    )
    def test_what_spreadsheet_programs_save_is_read(
        self, evaluation: Evaluation, delimiter: str, encoding: str
    ) -> None:
        """In any order, with blank rows below, more columns, changed texts and space around a rating."""
        rows = read(evaluation.fill("anna", lambda run, dialogue, turn: (2 if run == "A" else 1, 1, 0)))
        rows = [row | {RATED[0]: f" {row[RATED[0]]}", "persona": "caf\xe9", "remarks": "hm"} for row in rows]
        blank = dict.fromkeys(rows[0], "")
        sheet = write(evaluation.folder / "other.csv", [*rows[::-1], blank], delimiter=delimiter, encoding=encoding)
        found = evaluation.results(sheet)["criteria"]["persona_consistency"]["response_means"]
        assert found == {"A": 2.0, "B": 1.0}

    def test_missing_ratings_are_counted_and_take_their_pair_along(self, evaluation: Evaluation) -> None:
        sheet = evaluation.fill("anna", lambda run, dialogue, turn: (int(dialogue == "0"), 1, 1))
        rows = [row for row in read(sheet) if row["response"] != "berry 0.0"]
        rows = [row | ({RATED[0]: ""} if row["response"] == "apple 0.1" else {}) for row in rows]
        found = evaluation.results(write(sheet, rows), "--allow-missing")
        assert found["num_missing"] == 4
        persona, dialogue = (found["criteria"][name] for name in RATED[:2])
        assert (persona["num_examples"], persona["num_dialogues"]) == (4, 2)
        assert persona["response_means"] == {"A": 0, "B": 0}
        assert dialogue["num_examples"] == 5
        assert "4 ratings missing" in spt("import", evaluation.folder, sheet, "--allow-missing")[1]

    def test_raters_may_share_the_rows(self, evaluation: Evaluation) -> None:
        sheets = []
        for rater, share in (("anna", slice(0, 6)), ("ben", slice(6, 12))):
            rows = read(evaluation.fill(rater, all_ones))
            sheets.append(write(evaluation.folder / f"{rater}.csv", rows[share]))
        found = evaluation.results(*sheets, "--allow-missing")["criteria"]["engagingness"]
        assert (found["num_examples"], found["response_means"]) == (6, {"A": 1, "B": 1})
        assert found["alpha"] is None, "no row has two ratings"

    def test_agreement_is_over_all_responses(self, evaluation: Evaluation) -> None:
        anna = evaluation.fill("anna", lambda run, dialogue, turn: (int(dialogue), turn, 1))
        ben = evaluation.fill("ben", lambda run, dialogue, turn: (int(dialogue), 1 - turn, 1))
        found = evaluation.results(anna, ben)["criteria"]
        assert found["persona_consistency"]["alpha"] == 1
        # 12 items, each rated 0 and 1: all 24 coincidences disagree, of 24 * 24 / 2 / 23 expected by chance.
        assert found["dialogue_consistency"]["alpha"] == pytest.approx(1 - 24 / (24 * 12 / 23))
        assert found["engagingness"]["alpha"] is None, "all ratings are one value"

    def test_a_copy_of_a_sheet_is_noted(self, evaluation: Evaluation) -> None:
        anna = evaluation.fill("anna", all_ones)
        ben = evaluation.fill("ben", all_ones)
        (note,) = evaluation.results(anna, ben)["notes"]
        assert note == f"{anna} and {ben} hold the same rating in every cell: is one a copy?"

    def test_one_dialogue_has_no_interval(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / name, name=name, num_dialogues=1) for name in ("apple", "berry")]
        spt("export", *runs, "--responses", 2, "--output", tmp_path / "out")
        evaluation = Evaluation(tmp_path / "out")
        persona = evaluation.results(evaluation.fill("anna", lambda run, d, t: (int(run == "A"), 1, 1)))["criteria"][
            RATED[0]
        ]
        assert persona["difference"] == {"mean": 1, "low": None, "high": None}
        assert persona["p"] == 1


class TestImportRefuses:
    @pytest.mark.parametrize("value", ["3", "-1", "1.5", "2.0", "good", "0 1", "²"])
    def test_a_rating_that_is_none(self, evaluation: Evaluation, value: str) -> None:
        rows = read(evaluation.fill("anna", all_ones))
        rows[4]["engagingness"] = value
        sheet = write(evaluation.folder / "anna.csv", rows)
        answer = spt("import", evaluation.folder, sheet, "--allow-missing")
        assert_refused(answer, f"{sheet}, row 6, column engagingness: {value!r} is no rating", "0, 1 or 2")
        assert not (evaluation.folder / "results.json").exists()

    def test_a_missing_rating(self, evaluation: Evaluation) -> None:
        rows = read(evaluation.fill("anna", all_ones))
        rows[3]["dialogue_consistency"] = rows[7]["engagingness"] = ""
        sheet = write(evaluation.folder / "anna.csv", rows)
        assert_refused(
            spt("import", evaluation.folder, sheet),
            f"{sheet}, row 5, column dialogue_consistency: no rating, and 2 are missing in all",
            "--allow-missing",
        )

    def test_a_missing_row(self, evaluation: Evaluation) -> None:
        rows = read(evaluation.fill("anna", all_ones))
        sheet = write(evaluation.folder / "anna.csv", rows[1:])
        answer = spt("import", evaluation.folder, sheet)
        assert_refused(answer, f"item {rows[0]['item']}, which is not there", "3 are missing", "--allow-missing")

    def test_a_sheet_without_any_rating(self, evaluation: Evaluation) -> None:
        answer = spt("import", evaluation.folder, evaluation.folder / "sheet.csv", "--allow-missing")
        assert_refused(answer, "persona_consistency: no example has both of its responses rated")

    def test_an_item_that_is_unknown_or_there_twice(self, evaluation: Evaluation) -> None:
        rows = read(evaluation.fill("anna", all_ones))
        sheet = write(evaluation.folder / "anna.csv", [*rows, rows[0]])
        assert_refused(spt("import", evaluation.folder, sheet), f"row 14: item {rows[0]['item']} is in row 2 already")
        write(sheet, [*rows[:2], rows[2] | {"item": "bcdfgh"}, *rows[3:]])
        assert_refused(spt("import", evaluation.folder, sheet), f"{sheet}, row 4: unknown item 'bcdfgh'")

    def test_the_sheet_of_another_export(self, evaluation: Evaluation, runs: tuple[Path, Path], tmp_path: Path) -> None:
        spt("export", runs[1], runs[0], "--responses", 6, "--output", tmp_path / "swapped")
        sheet = Evaluation(tmp_path / "swapped").fill("anna", all_ones)
        assert_refused(spt("import", evaluation.folder, sheet), "row 2: unknown item")

    @pytest.mark.parametrize("text", ["", "item,persona\nx,y\n", "item,item\n", "\x00\x01PK"])
    def test_a_file_that_is_no_sheet(self, evaluation: Evaluation, text: str) -> None:
        sheet = evaluation.folder / "anna.csv"
        sheet.write_text(text)
        assert_refused(spt("import", evaluation.folder, sheet), f"{sheet}, row 1: it should name each of the columns")

    def test_a_cell_that_never_ends(self, evaluation: Evaluation) -> None:
        sheet = evaluation.folder / "anna.csv"
        sheet.write_text(",".join(COLUMNS) + '\nx,"' + "y" * (csv.field_size_limit() + 1))
        assert_refused(spt("import", evaluation.folder, sheet), f"{sheet}: this is not CSV")

    def test_a_sheet_that_is_not_there_or_named_twice(self, evaluation: Evaluation) -> None:
        sheet = evaluation.fill("anna", all_ones)
        assert_refused(spt("import", evaluation.folder, "nosuch.csv"), "nosuch.csv: there is no such sheet")
        assert_refused(spt("import", evaluation.folder, sheet, sheet), "named twice")

    def test_a_folder_without_its_key(self, evaluation: Evaluation, tmp_path: Path) -> None:
        sheet = evaluation.fill("anna", all_ones)
        assert_refused(spt("import", tmp_path, sheet), f"{tmp_path}: there is no key.json in it")
        (evaluation.folder / "key.json").write_text("{}")
        assert_refused(spt("import", evaluation.folder, sheet), "not a key that spt human-eval export wrote")


MISSING = math.nan
KRIPPENDORFF_2011 = np.array(  # his section E: four observers, twelve units, values missing
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, MISSING, MISSING, MISSING],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, MISSING, 3],
        [MISSING, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, MISSING],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, MISSING],
    ]
)


def alpha_pair_by_pair(ratings: np.ndarray) -> float:
    """The definition: mean distance of two ratings of one item, over that of any two ratings that could be paired."""
    units = [[value for value in unit if not math.isnan(value)] for unit in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]

    def distance(one: float, other: float) -> float:
        low, high = sorted((one, other))
        between = sum(low <= value <= high for value in pooled)
        return (between - (pooled.count(one) + pooled.count(other)) / 2) ** 2

    observed = sum(
        sum(distance(one, other) for one, other in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units
    )
    expected = sum(distance(one, other) for one, other in itertools.permutations(pooled, 2)) / max(1, len(pooled) - 1)
    return 1 - observed / expected if expected else math.nan


class TestKrippendorffAlpha:
    def test_is_the_published_value_of_the_published_example(self) -> None:
        assert krippendorff_alpha(KRIPPENDORFF_2011) == pytest.approx(0.815, abs=0.0005)

    @given(
        st.integers(2, 4).flatmap(
            lambda raters: st.lists(
                st.lists(st.sampled_from([0.0, 1.0, 2.0, MISSING]), min_size=raters, max_size=raters),
                min_size=1,
                max_size=8,
            )
        )
    )
    def test_is_its_definition(self, units: list[list[float]]) -> None:
        ratings = np.array(units).T
        assert krippendorff_alpha(ratings) == pytest.approx(alpha_pair_by_pair(ratings), nan_ok=True)

    def test_raters_who_guess_agree_by_chance(self) -> None:
        guesses = np.random.default_rng(0).integers(0, 3, size=(2, 5_000)).astype(float)
        assert krippendorff_alpha(guesses) == pytest.approx(0, abs=0.05)


class TestSignFlip:
    @pytest.mark.parametrize(("wins", "losses"), [(30, 20), (26, 24), (70, 30), (25, 25)])
    def test_of_many_equal_differences_it_is_the_binomial_test(self, wins: int, losses: int) -> None:
        p, is_exact = sign_flip_p(np.array([1.0] * wins + [-1.0] * losses))
        assert not is_exact
        assert p == pytest.approx(scipy_stats.binomtest(wins, wins + losses).pvalue, abs=0.006)

    def test_ties_of_fractions_count_as_ties(self) -> None:
        """Three raters and five examples make fifteenths, whose sums differ in the last bits with their order."""
        whole = np.random.default_rng(287).integers(-6, 7, size=97).astype(float)  # here unrounded means go wrong
        assert sign_flip_p(whole / 15)[0] == sign_flip_p(whole)[0]

    def test_is_exact_for_few_and_the_same_every_time_for_many(self) -> None:
        few, many = np.arange(-10.0, 30.0), np.arange(-10.0, 41.0)
        assert sign_flip_p(few)[1]
        assert sign_flip_p(many) == sign_flip_p(many)
        assert sign_flip_p(np.ones(50))[0] == pytest.approx(2 / 100_000)


def test_every_criterion_is_a_column_of_the_sheet() -> None:
    assert [criterion.column for criterion in CRITERIA] == list(RATED)
    assert human_eval.COLUMNS[:4] == ("item", "persona", "context", "response")


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_help_has_examples(command: str) -> None:
    code, out, _ = spt(command, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"spt human-eval {command}" in out


def test_the_help_of_spt_names_the_command() -> None:
    assert "human-eval" in CliRunner().invoke(app, ["--help"]).stdout


def test_a_sheet_is_read_into_the_order_of_the_items(tmp_path: Path) -> None:
    rows = [dict(zip(("item", *RATED), values, strict=True)) for values in (("q", 0, 1, 2), ("p", 2, 1, 0))]
    sheet = write(tmp_path / "sheet.csv", [{name: str(value) for name, value in row.items()} for row in rows])
    assert read_sheet(sheet, ["p", "q"]).tolist() == [[2, 1, 0], [0, 1, 2]]
