"""The figures of a report: what is drawn and where, what it says when it is pointed at, and the files for a paper."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from sweeps.engine.analysis.cells import summarise
from sweeps.engine.analysis.comparisons import compare
from sweeps.engine.report import drawing, figures
from sweeps.engine.report.drawing import Drawn
from sweeps.engine.report.figures import MOST_CELLS, Series, dot_plot, learning_curves, series, usages
from sweeps.engine.store.trial_folder import HISTORY
from tests.sweeps.report.made_sweep import HOSTILE, NUM_DIALOGUES, NUM_TURNS, ONE_SEED, THREE_SEEDS, Made, make

NLL = "test/nll"


@pytest.fixture(autouse=True)
def svg_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PDF and PNG take most of the time: they are written for the tests of files alone."""
    if request.cls is not TestFiles:
        saved = drawing._saved
        monkeypatch.setattr(drawing, "_saved", lambda *of, **how: saved(*of, **how) if of[-1] == "svg" else b"")


def cells_of(made: Made) -> list[Series]:
    return series(summarise(made.plan, made.results), NLL)


def parsed(drawn: Drawn | None) -> ElementTree.Element:
    assert drawn is not None
    return ElementTree.fromstring(drawn.svg)


def texts(svg: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in svg.iter("text")]


def marks(svg: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """The places of the points that have a tooltip."""
    return {
        one.findtext("title", ""): (float(one.attrib["x"]), float(one.attrib["y"]))
        for one in svg.iter("use")
        if one.find("title") is not None
    }


def vertices(path: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.attrib["d"])]


def lines(svg: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    """The vertices of the lines that have a tooltip."""
    return {one.findtext("title", ""): vertices(one) for one in svg.iter("path") if one.find("title") is not None}


def assert_linear(places: Sequence[float], values: Sequence[float]) -> float:
    """Places grow linearly with values; the slope."""
    slope, intercept = np.polyfit(values, places, 1)
    np.testing.assert_allclose(places, slope * np.array(values) + intercept, atol=0.11)
    return float(slope)


class TestDotPlots:
    def test_points_lie_where_their_values_do_in_the_row_of_their_cell(self, tmp_path: Path) -> None:
        svg = parsed(dot_plot(cells_of(make(tmp_path, THREE_SEEDS)), NLL))
        found = marks(svg)
        wanted = {
            f"num_prompts={k}, seed {seed}: {value:.3f}": value
            for k, values in THREE_SEEDS.items()
            for seed, value in enumerate(values)
        }
        assert found.keys() == wanted.keys()
        slope = assert_linear([found[tip][0] for tip in wanted], list(wanted.values()))
        assert slope > 0
        heights = [{found[tip][1] for tip in found if tip.startswith(f"num_prompts={k},")} for k in THREE_SEEDS]
        assert [len(one) for one in heights] == [1, 1, 1]
        assert sorted(heights, key=min) == heights

    def test_intervals_means_and_the_baseline_are_drawn(self, tmp_path: Path) -> None:
        cells = cells_of(make(tmp_path, THREE_SEEDS))
        svg = parsed(dot_plot(cells, NLL))
        found = marks(svg)
        at = np.polyfit([float(tip.rsplit(": ")[1]) for tip in found], [x for x, _ in found.values()], 1)
        strokes = [vertices(one) for one in svg.iter("path") if "oklch" in one.attrib["style"]]
        (dashed,) = [vertices(one) for one in svg.iter("path") if "stroke-dasharray" in one.attrib["style"]]
        baseline, _, four = (one.summary.interval(NLL) for one in cells)
        assert baseline is not None
        assert four is not None
        assert [x for x, _ in dashed] == pytest.approx([np.polyval(at, baseline.mean)] * 2, abs=0.2)
        assert any(
            [x for x, _ in one] == pytest.approx(np.polyval(at, [four.low, four.high]), abs=0.2) for one in strokes
        )
        assert any([x for x, _ in one] == pytest.approx([np.polyval(at, four.mean)] * 2, abs=0.2) for one in strokes)

    def test_differences_are_relative_to_zero_with_true_minus_signs(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.fail(2, 1, "lost")
        summaries = summarise(made.plan, made.results)
        svg = parsed(dot_plot(series(summaries, NLL), NLL, compare(summaries, NLL)))
        assert list(marks(svg)) == [f"num_prompts=4, seed {s}: −{d}" for s, d in enumerate(("0.200", "0.180", "0.220"))]
        assert svg.attrib["aria-label"] == "difference in test NLL by cell"
        assert {"baseline", "seed 1 failed: lost"} <= set(texts(svg))  # why their rows are empty

    def test_labels_are_the_levels_of_the_factors_that_differ(self, tmp_path: Path) -> None:
        cells = cells_of(make(tmp_path, ONE_SEED))
        factors = [
            {"optim.learning_rate": 0.1, "losses.fusion.enabled": on, "prompts.num_prompts": k}
            for on, k in ((True, 1), (True, 2), (False, 2))
        ]
        varied = [
            one._replace(summary=replace(one.summary, cell=cell)) for one, cell in zip(cells, factors, strict=True)
        ]
        assert {"on, 1", "on, 2", "off, 2", "fusion, num_prompts"} <= set(texts(parsed(dot_plot(varied, NLL))))
        differing = [varied[0], *cells[1:]]
        assert "num_prompts=2" in texts(parsed(dot_plot(differing, NLL)))

    @pytest.mark.parametrize("values", [{1: [3.0], 2: [3.0]}, {1: [0.0, 0.0], 2: [0.0, 0.0]}, {1: [1e9], 2: [-1e-9]}])
    def test_any_numbers_can_be_drawn(self, tmp_path: Path, values: Mapping[int, Sequence[float]]) -> None:
        drawn = marks(parsed(dot_plot(cells_of(make(tmp_path, values)), NLL)))
        assert len(drawn) == sum(map(len, values.values()))
        assert all(0 <= x <= 520 for x, _ in drawn.values())

    def test_without_a_number_there_is_no_figure(self, tmp_path: Path) -> None:
        made = make(tmp_path, {1: [float("nan")], 2: [float("inf")]})
        assert dot_plot(cells_of(made), NLL) is None
        assert dot_plot(cells_of(made), NLL, []) is None


class TestLearningCurves:
    def test_a_line_a_trial_through_its_evaluations_with_its_best_marked(self, tmp_path: Path) -> None:
        drawn = learning_curves(cells_of(make(tmp_path, THREE_SEEDS)), "step")
        svg = parsed(drawn)
        found = lines(svg)
        assert len(found) == 9
        line = found["num_prompts=4 seed 1"]
        assert len(line) == 5
        assert_linear([x for x, _ in line[1:]], [8, 16, 24, 32])  # the first is where the line comes in from above
        slope = assert_linear([y for _, y in line[1:]], [3.14 + 1, 3.14 + 1 / 2, 3.14 + 1 / 3, 3.14 + 1 / 4])
        assert slope < 0  # down the page
        assert marks(svg)["num_prompts=4 seed 1: best, 3.390"] == pytest.approx(line[-1], abs=0.11)

    def test_lines_are_marked_by_cell_for_the_legend(self, tmp_path: Path) -> None:
        drawn = learning_curves(cells_of(make(tmp_path, THREE_SEEDS)), "step")
        assert drawn is not None
        assert drawn.rows == (0, 1, 2)
        groups = [one for one in parsed(drawn).iter("g") if "data-series" in one.attrib]
        tips = [(one.attrib["data-series"], one.findtext("path/title", "")) for one in groups]
        assert sorted(tips) == sorted(
            (str(row), f"num_prompts={k} seed {seed}") for row, k in enumerate(THREE_SEEDS) for seed in range(3)
        )

    def test_a_far_first_evaluation_is_above_the_plot(self, tmp_path: Path) -> None:
        svg = parsed(learning_curves(cells_of(make(tmp_path, ONE_SEED)), "step"))
        top = min(float(one.attrib["y"]) for one in svg.iter("rect"))  # of the clip path
        for line in lines(svg).values():
            assert line[0][1] < top
            assert min(y for _, y in line[1:]) > top

    def test_a_near_first_evaluation_is_inside(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        for trial in made.plan.trials:
            rows = [{"step": i, "seconds": 60 * i, "dev/nll": 4.0 - 0.1 * i} for i in range(5)]
            (made.results[trial.key].folder / HISTORY).write_text("\n".join(map(json.dumps, rows)))
        svg = parsed(learning_curves(cells_of(made), "seconds"))
        assert "seconds since the start of the trial" in texts(svg)
        assert min(y for line in lines(svg).values() for _, y in line) > 0

    def test_without_a_history_there_is_no_figure(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        for history in tmp_path.rglob(HISTORY):
            history.unlink()
        assert learning_curves(cells_of(made), "step") is None


def test_shares_of_a_turn_add_up(tmp_path: Path) -> None:
    panels = usages(cells_of(make(tmp_path, THREE_SEEDS)))
    assert [len(panel.shares) for panel in panels] == [2, 2, 2, 4, 4, 4]
    assert [panel.is_first for panel in panels] == [True, False, False] * 2
    for panel in panels:
        np.testing.assert_allclose(panel.shares.sum(), 1)
        assert panel.counts == [NUM_DIALOGUES] * NUM_TURNS
        assert list(panel.shares.columns) == [1, 2, 3, 4]
        assert list(panel.shares.index) == list(range(1, len(panel.shares) + 1))


def test_late_turns_are_one_column_and_a_prompt_that_is_never_chosen_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"turn": np.array([0, 10, 11, 12, 30]), "prompt": np.array([0, 1, 1, 1, 0])}
    monkeypatch.setattr(figures.trial_folder, "read_arrays", lambda folder, names: columns)
    panel = usages(cells_of(make(tmp_path, {1: [3.0], 4: [3.0]})))[0]
    assert list(panel.shares.columns) == [1, 11, "12+"]
    np.testing.assert_allclose(panel.shares, [[1, 0, 1 / 3], [0, 1, 2 / 3], [0, 0, 0], [0, 0, 0]])
    assert panel.counts == [1, 1, 3]


class TestColours:
    def test_hues_go_from_blue_to_red_in_the_order_of_the_table(self, tmp_path: Path) -> None:
        made = make(tmp_path, {k: [3.0] for k in range(1, 6)}, baseline=2)
        assert figures.hues(summarise(made.plan, made.results)) == [262, None, 184, 106, 28]

    def test_points_have_the_colour_of_their_chip_in_the_table(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        page = made.write()["report.html"]
        filled = {
            one.findtext("title", "").partition(",")[0]: re.findall(r"fill: (.*?);", one.attrib["style"])[0]
            for one in parsed(dot_plot(cells_of(made), NLL)).iter("use")
            if one.find("title") is not None
        }
        chips = dict(re.findall(r'<i class="chip" style="--hue: (\d+)"></i>(num_prompts=\d)', page))
        assert filled.pop("num_prompts=1") == "var(--ink)"
        assert '<i class="chip ink"></i>num_prompts=1' in page
        assert filled == {label: f"oklch(var(--series-lightness) 0.13 {hue})" for hue, label in chips.items()}

    def test_every_colour_follows_the_style_sheet(self, tmp_path: Path) -> None:
        cells = cells_of(make(tmp_path, THREE_SEEDS))
        for drawn in (dot_plot(cells, NLL), learning_curves(cells, "step")):
            for element in parsed(drawn).iter():
                assert not re.search("#[0-9a-f]{3}|rgb", element.attrib.get("style", ""))
                assert "font-family" not in element.attrib.get("style", "")


class TestPage:
    def test_no_identifier_occurs_twice_and_each_reference_has_one(self, tmp_path: Path) -> None:
        page = make(tmp_path, THREE_SEEDS).write()["report.html"]
        found = re.findall(r'\bid="([^"]+)"', page)
        assert len(found) == len(set(found)) > 0
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {
            pair for one in found for pair in ((one, ""), ("", one))
        }

    def test_a_style_sheet_of_matplotlib_does_not_get_into_the_page(self, tmp_path: Path) -> None:
        assert make(tmp_path, THREE_SEEDS).write()["report.html"].count("<style") == 1

    def test_names_of_users_are_text(self, tmp_path: Path) -> None:
        strange = f"$x_1$ {HOSTILE} \x1b[1m 中 #1c1e21 xlink:href"
        cells = cells_of(make(tmp_path, ONE_SEED))
        named = [
            one._replace(summary=replace(one.summary, cell={"prompts.init": f"{strange}{one.row}"})) for one in cells
        ]
        svg = parsed(dot_plot(named, NLL))
        assert len(list(svg.iter("script"))) == 0
        assert any(text.startswith('$x_1$ <script>alert("x")') for text in texts(svg))
        shown = " ".join(strange.replace("\x1b", " ").split())
        assert [tip for tip in marks(svg) if shown not in tip] == []

    def test_of_a_large_sweep_the_baseline_and_the_best_are_drawn(self, tmp_path: Path) -> None:
        num_cells = MOST_CELLS + 6
        made = make(tmp_path, {k: [5 - 0.01 * k] for k in range(1, num_cells + 1)})
        cells = cells_of(made)
        assert [one.row for one in cells] == [0, *range(7, num_cells)]  # the lower NLL is the better
        all_hues = figures.hues(summarise(made.plan, made.results))
        assert [one.hue for one in cells] == [all_hues[one.row] for one in cells]
        page = " ".join(made.write()["report.html"].split())
        assert f"the baseline and the {MOST_CELLS - 1} best of the other {num_cells - 1} cells" in page
        assert len(marks(parsed(dot_plot(cells, NLL)))) == MOST_CELLS

    def test_a_sweep_that_is_not_large_is_drawn_whole(self, tmp_path: Path) -> None:
        made = make(tmp_path, ONE_SEED)
        made.fail(2, 0, "lost")
        assert [one.row for one in cells_of(made)] == [0, 1, 2]
        assert "best of the other" not in made.write()["report.html"]


class TestFiles:
    def test_each_figure_is_a_pdf_and_a_png_beside_the_page(self, tmp_path: Path) -> None:
        made = make(tmp_path, THREE_SEEDS)
        made.write()
        files = sorted((tmp_path / "report" / "figures").iterdir())
        names = ("curves_by_seconds", "curves_by_step", "differences", "primary_metric")
        assert [file.name for file in files] == [f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")]
        for file in files:
            content = file.read_bytes()
            if file.suffix == ".pdf":
                assert content.startswith(b"%PDF-")
                assert content.rstrip().endswith(b"%%EOF")
                assert b"/FontFile2" in content  # TrueType, embedded:
                assert b"/Type3" not in content  # journals refuse this kind
            else:
                image = Image.open(io.BytesIO(content))
                image.load()
                assert image.format == "PNG"
                assert image.width == 520 * 200 // 72
                colours = image.convert("RGB").getcolors(1 << 20)
                assert colours is not None
                assert max(colours)[1] == (255, 255, 255)
                assert len(colours) > 10

    def test_the_files_of_curves_have_a_legend(self, tmp_path: Path) -> None:
        few, many = (
            learning_curves(cells_of(make(folder, values)), "step")
            for folder, values in ((tmp_path / "a", {1: [3.0]}), (tmp_path / "b", {k: [3.0] for k in range(1, 30)}))
            if folder.mkdir() is None
        )
        assert few is not None
        assert many is not None
        heights = [Image.open(io.BytesIO(one.files["png"])).height for one in (few, many)]
        assert heights[1] > heights[0] + 100
        assert few.svg.split("viewBox")[1][:20] == many.svg.split("viewBox")[1][:20]  # the page has its own

    def test_the_same_numbers_give_the_same_bytes(self, tmp_path: Path) -> None:
        cells = cells_of(make(tmp_path, THREE_SEEDS))
        assert dot_plot(cells, NLL) == dot_plot(cells, NLL)
        assert learning_curves(cells, "step") == learning_curves(cells, "step")

    def test_the_settings_of_a_user_and_of_others_are_left_alone(self, tmp_path: Path) -> None:
        cells = cells_of(make(tmp_path, ONE_SEED))
        plain = dot_plot(cells, NLL)
        with matplotlib.rc_context({"axes.grid": True, "font.size": 33}):
            before = dict(matplotlib.rcParams)
            assert dot_plot(cells, NLL) == plain
            assert dict(matplotlib.rcParams) == before

    def test_matplotlib_is_imported_when_the_first_figure_is_drawn(self) -> None:
        program = "import sys, sweeps.engine.report.write; assert 'matplotlib' not in sys.modules"
        subprocess.run([sys.executable, "-c", program], check=True)
