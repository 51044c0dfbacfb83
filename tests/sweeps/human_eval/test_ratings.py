"""The import: filled sheets against known scores, what spreadsheet programs save, and what is refused."""

import csv
from pathlib import Path

import pytest
from scipy import stats as scipy_stats

from sweeps.engine.human_eval.ratings import read_sheet
from sweeps.engine.human_eval.sheets import COLUMNS
from tests.sweeps.command_line import assert_refused
from tests.sweeps.human_eval.evaluation_of_two_runs import RATED, Evaluation, all_ones, read, spt, write, write_run


def test_a_sheet_is_read_into_the_order_of_the_items(tmp_path: Path) -> None:
    rows = [dict(zip(("item", *RATED), values, strict=True)) for values in (("q", 0, 1, 2), ("p", 2, 1, 0))]
    sheet = write(tmp_path / "sheet.csv", [{name: str(value) for name, value in row.items()} for row in rows])
    assert read_sheet(sheet, ["p", "q"]).tolist() == [[2, 1, 0], [0, 1, 2]]


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

    def test_dialogues_have_equal_weight_and_the_plain_mean_is_kept_too(self, evaluation: Evaluation) -> None:
        sheet = evaluation.fill("anna", lambda run, dialogue, turn: (2 if dialogue == "0" else 0, 1, 1))
        rows = [row | ({RATED[0]: ""} if row["response"] == "apple 0.1" else {}) for row in read(sheet)]
        persona = evaluation.results(write(sheet, rows), "--allow-missing")["criteria"]["persona_consistency"]
        assert persona["num_examples"] == 5
        assert persona["means"]["A"]["mean"] == pytest.approx(2 / 3)
        assert persona["response_means"] == pytest.approx({"A": 2 / 5, "B": 2 / 5})

    def test_the_results_are_printed_and_written(self, evaluation: Evaluation) -> None:
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

    def test_missing_ratings_are_counted_and_exclude_their_pair(self, evaluation: Evaluation) -> None:
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
    def test_an_invalid_rating(self, evaluation: Evaluation, value: str) -> None:
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

    def test_an_unclosed_quote(self, evaluation: Evaluation) -> None:
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
