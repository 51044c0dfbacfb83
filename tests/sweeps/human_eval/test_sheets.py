"""The export: what the sheet shows and hides, how it renders a dialogue, and what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

from sweeps.engine.human_eval.sheets import COLUMNS, CRITERIA, Response, conversation
from tests.sweeps.command_line import assert_refused
from tests.sweeps.human_eval.evaluation_of_two_runs import PERSONA, RATED, Evaluation, spt, write_run


def test_every_criterion_is_a_column_of_the_sheet() -> None:
    assert [criterion.column for criterion in CRITERIA] == list(RATED)
    assert COLUMNS[:4] == ("item", "persona", "context", "response")


class TestExport:
    def test_both_responses_to_each_sampled_example_are_rows_to_be_filled(self, evaluation: Evaluation) -> None:
        rows = evaluation.rows
        assert tuple(rows[0]) == COLUMNS
        assert all(row[column] == "" for row in rows for column in RATED)
        places = [f"{dialogue}.{turn}" for dialogue in range(3) for turn in range(2)]
        assert sorted(row["response"] for row in rows) == sorted(
            f"{fruit} {place}" for fruit in ("apple", "berry") for place in places
        )

    def test_only_the_key_names_the_run_of_a_response(self, evaluation: Evaluation) -> None:
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

    def test_the_order_of_the_rows_is_independent_of_the_run(self, tmp_path: Path) -> None:
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

    def test_predictions_that_cannot_be_read(self, runs: tuple[Path, Path]) -> None:
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
