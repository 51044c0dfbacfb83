"""`spt human-eval`: write blinded sheets for raters, and read the filled ones."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sweeps.engine.cli import options
from sweeps.engine.cli.exits import refusing_bad_input

if TYPE_CHECKING:
    from sweeps.engine.human_eval.ratings import Results
    from sweeps.engine.report.table import Table

RESULTS_JSON, RESULTS_MARKDOWN = "results.json", "results.md"

app = typer.Typer(
    help="Let people rate the responses of two runs, blinded (the paper's Table 7).",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_EXPORT_EPILOG = """\b
Examples:
  # 100 responses of each of two trials, by their keys
  spt human-eval export 638453acfb6c1a65 f76cb23d70a561c0
  # trials' folders, a smaller sheet, another sample
  spt human-eval export runs/trials/638453acfb6c1a65 elsewhere/trial \\
      --responses 40 --seed 1 --output ratings

\b
Give each rater a copy of sheet.csv and rubric.md. Keep key.json to yourself.
"""
_IMPORT_EPILOG = """\b
Examples:
  # one filled sheet a rater
  spt human-eval import ratings anna.csv ben.csv
  # sheets with gaps, or raters who shared the rows
  spt human-eval import ratings anna.csv ben.csv --allow-missing
"""
_RUN_HELP = "A trial's folder, or its key below RUNS/trials."


@app.command("export", epilog=_EXPORT_EPILOG)
def export_sheet(
    *,
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help=_RUN_HELP)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help=_RUN_HELP)],
    responses: Annotated[int, typer.Option(help="Responses of each run, to the same contexts.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the sample and of the order of the rows.")] = 0,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder. Default: RUNS/human_eval/RUN_A-RUN_B.")
    ] = None,
    runs: options.Output = options.RUNS,
) -> None:
    """Write a blinded sheet of both runs' responses, the rubric, and the key."""
    from sweeps.engine.human_eval import sheets as human_eval

    with refusing_bad_input():
        first, second = (human_eval.read_run(_folder(run, runs)) for run in (run_a, run_b))
        default = runs / "human_eval" / f"{first.folder.resolve().name}-{second.folder.resolve().name}"
        folder = output or default
        exported = human_eval.export((first, second), num_examples=responses, seed=seed, folder=folder)
    typer.echo(
        f"{exported.num_examples} responses of each run to the same contexts, of "
        f"{_count(exported.num_dialogues, 'dialogue')}: {2 * exported.num_examples} rows in random order"
    )
    if exported.num_equal:
        typer.echo(f"for {_count(exported.num_equal, 'context')} both runs gave the same response")
    for file, about in (
        (human_eval.SHEET, "a copy for each rater to fill in"),
        (human_eval.RUBRIC, "goes with it"),
        (human_eval.KEY, "whose response is whose: keep it from the raters"),
    ):
        typer.echo(f"  {folder / file}  {about}")
    typer.echo(f"then: spt human-eval import {folder} FILLED_SHEET...")


@app.command("import", epilog=_IMPORT_EPILOG)
def import_sheets(
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What export wrote.")],
    sheets: Annotated[list[Path], typer.Argument(metavar="SHEET", help="Filled sheets, one a rater.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Take sheets with gaps, and say how many.")
    ] = False,
) -> None:
    """Read the filled sheets, compare the runs, and write results.json and results.md."""
    from sweeps.engine.human_eval import ratings
    from sweeps.engine.report.table import escape, markdown

    with refusing_bad_input():
        key = ratings.read_key(folder)
        results = ratings.evaluate(key, sheets, allow_missing=allow_missing)
    (folder / RESULTS_JSON).write_text(json.dumps(_as_json(results), indent=1, allow_nan=False), encoding="utf-8")
    about, legend = ([escape(line) for line in lines] for lines in (_heading(results), _legend(results)))
    page = ["# Human evaluation", *about, markdown(_table(results)), *legend]
    (folder / RESULTS_MARKDOWN).write_text("\n\n".join(page) + "\n", encoding="utf-8")
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 120)
    for line in _heading(results):
        console.print(line, highlight=False, markup=False)
    console.print()
    console.print(_rich(_table(results)))
    for line in (*_legend(results), f"wrote {folder / RESULTS_JSON} and {folder / RESULTS_MARKDOWN}"):
        console.print(line, highlight=False, markup=False)


def _folder(run: str, runs: Path) -> Path:
    """The folder of a trial that is named by its path or key."""
    from sweeps.engine.store.layout import OutputLayout

    if not run:
        raise ValueError("RUN '': it should be a trial's folder or key")
    below = OutputLayout(runs).trial(run)
    for folder in (Path(run), below):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"{run}: no such run: neither it nor {below} is a folder; give a trial's folder, or its key with --runs"
    )


def _heading(results: "Results") -> list[str]:
    most = max(results.criteria, key=lambda one: one.num_examples)
    missing = f"; {_count(results.num_missing, 'rating')} missing" if results.num_missing else ""
    return [
        f"{_count(most.num_examples, 'response')} of each run, of {_count(most.num_dialogues, 'dialogue')}, rated by "
        f"{_count(len(results.raters), 'person', 'people')} ({', '.join(results.raters)}){missing}",
        *(f"{side}: {name}" for side, name in results.runs.items()),
    ]


def _legend(results: "Results") -> list[str]:
    """What the numbers are, what to beware of, and the published ones for reference."""
    flips = "exact" if all(one.p_is_exact for one in results.criteria) else "99,999 drawn flips"
    alpha = "; alpha: Krippendorff's, ordinal, of the raters" if len(results.raters) > 1 else ""
    published = "; ".join(
        f"{one.criterion.title} SPT {one.criterion.published[0]}, PT {one.criterion.published[1]}"
        for one in results.criteria
    )
    clustered = any(one.num_dialogues < one.num_examples for one in results.criteria)
    return [
        f"Scores from 0 to 2, [95% t interval over dialogues]; p: sign flip over dialogues, {flips}; Holm p: for the "
        f"{len(results.criteria)} criteria{alpha}.",
        *(["Responses of one dialogue were averaged first, and dialogues count alike."] if clustered else []),
        *results.notes,
        f"Published (Table 7, Llama2-7B; other raters, models and data, so for reference only): {published}.",
    ]


def _table(results: "Results") -> "Table":
    """One row a criterion."""
    from sweeps.engine.report.table import Table, TableEntry, TableRow, interval_text, number

    rows = []
    for one in results.criteria:
        means = [(interval, False) for interval in one.means.values()]
        entries = [
            TableEntry(number(of.mean, 2, sign=sign), interval_text(of.low, of.high, 2, sign=sign))
            for of, sign in (*means, (one.difference, True))
        ]
        entries += [TableEntry(f"{p:.1e}" if p < 0.001 else f"{p:.3f}") for p in (one.p, one.p_holm)]
        entries.append(TableEntry(str(one.num_examples), f"of {_count(one.num_dialogues, 'dialogue')}"))
        if one.alpha is not None:
            entries.append(TableEntry(number(one.alpha, 2)))
        rows.append(TableRow(one.criterion.title, tuple(entries)))
    agreement = ("alpha",) if results.criteria[0].alpha is not None else ()
    return Table("criterion", ("A", "B", "A - B", "p", "Holm p", "responses", *agreement), tuple(rows))


def _rich(table: "Table") -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown.add_column(table.about)
    for title in table.titles:
        shown.add_column(title, justify="right")
    for row in table.rows:
        texts = [Text(one.text).append(f"\n{one.detail}" if one.detail else "", style="dim") for one in row.entries]
        shown.add_row(row.label, *texts)
    return shown


def _as_json(results: "Results") -> dict[str, Any]:
    return {
        "runs": results.runs,
        "raters": list(results.raters),
        "num_missing": results.num_missing,
        "notes": list(results.notes),
        "criteria": {
            one.criterion.column: {
                "num_examples": one.num_examples,
                "num_dialogues": one.num_dialogues,
                "means": {side: _finite(interval._asdict()) for side, interval in one.means.items()},
                "response_means": one.response_means,
                "difference": _finite(one.difference._asdict()),
                "p": one.p,
                "p_is_exact": one.p_is_exact,
                "p_holm": one.p_holm,
                **_finite({"alpha": one.alpha}),
                "published_llama2_7b": dict(zip(("SPT", "PT"), one.criterion.published, strict=True)),
            }
            for one in results.criteria
        },
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if value is None or math.isnan(value) else value for name, value in values.items()}


def _count(count: int, one: str, several: str | None = None) -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"
