"""The answer of a sweep as files: a page for people, Markdown, LaTeX and figures for a paper, JSON, CSV for programs.

`report.html` is one file that asks nothing of the network; its content security policy holds it to that, and runs no
script but its own. `results_json` documents the formats for programs. `table.tex` needs booktabs.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from spt_core.config import flatten
from sweeps.engine.analysis.answer import Answer
from sweeps.engine.analysis.cells import describe_problem
from sweeps.engine.analysis.factorial import factorial_effects
from sweeps.engine.design import metrics
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.report import checklist, examples, figures, further_tables, main_tables
from sweeps.engine.report.drawing import Drawn, with_minus_signs
from sweeps.engine.report.latex import latex
from sweeps.engine.report.results_json import describe_trial, results_json, trials_csv
from sweeps.engine.report.table import Table, escape, markdown
from sweeps.engine.store.atomic_write import write_whole
from sweeps.engine.store.redact import redact
from sweeps.engine.store.trial_folder import TrialResult

if TYPE_CHECKING:  # it imports optuna, for which a sweep without a search need not wait
    from sweeps.engine.report.search_results import SearchResults

HTML, MARKDOWN, RESULTS, LATEX, CSV = "report.html", "report.md", "results.json", "table.tex", "trials.csv"
FIGURES = "figures"

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper with ours in it.

    Attributes:
        name: of the table, such as `table2`.
        caption: what it compares.
        reference: the row that effects are relative to.
        notes: what a reader should know of the published numbers.
        conditions: in what ours differ from the paper's; empty where values compare.
        values: ours with the published values below them.
        effects: change from the reference row in percent, ours and the paper's.
        document: the same for programs.
    """

    name: str
    caption: str
    reference: str
    notes: tuple[str, ...]
    conditions: tuple[str, ...]
    values: Table
    effects: Table
    document: Mapping[str, Any]


def write(
    answer: Answer,
    folder: Path,
    *,
    facts: Mapping[str, str],
    searched: "SearchResults | None" = None,
    published: Sequence[PublishedTable] = (),
) -> Path:
    """Write `report.html`, `report.md`, `table.tex`, `results.json`, `trials.csv` and `figures/` into a folder.

    Args:
        answer: of the sweep.
        folder: made if it is not there; files of these names in it are replaced.
        facts: where the numbers come from: command, tracking URI, versions, machine.
        searched: what the sweep's search found, if it has one.
        published: tables of the paper that the sweep has cells of.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = _Report(answer, folder, facts, searched, published)
    texts = {
        RESULTS: results_json(
            answer,
            folder,
            facts=report.facts,
            effects=report.effects,
            published=[one.document for one in published],
            checklist=report.checklist,
        ),
        CSV: trials_csv(answer, folder),
        LATEX: report.latex(),
        MARKDOWN: report.markdown(),
        HTML: report.html(),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    _write_figures(folder / FIGURES, report.drawn)
    return folder / HTML


def _write_figures(folder: Path, drawn: Mapping[str, Drawn]) -> None:
    """Write the figures that there are, and drop those that an earlier report had and this one has not."""
    folder.mkdir(exist_ok=True)
    files = {f"{name}.{suffix}": content for name, one in drawn.items() for suffix, content in one.files.items()}
    for name, content in files.items():
        write_whole(folder / name, content)
    for suffix in ("pdf", "png"):
        for path in folder.glob(f"*.{suffix}"):
            if path.name not in files:
                path.unlink(missing_ok=True)


class _Report:
    """What page, Markdown and LaTeX share."""

    def __init__(
        self,
        answer: Answer,
        folder: Path,
        facts: Mapping[str, str],
        searched: "SearchResults | None",
        published: Sequence[PublishedTable],
    ) -> None:
        plan, summaries = answer.plan, answer.summaries
        primary = plan.sweep.primary_metric
        self.answer, self.plan, self.folder = answer, plan, folder
        self.searched, self.published = searched, published
        self.facts = {name: redact(fact) for name, fact in facts.items()}
        self.summaries, self.verdict = summaries, answer.verdict
        self.metric_name = metrics.title(primary)
        self.effects = factorial_effects(summaries, primary)
        self.effects_table = further_tables.effects_table(self.effects, primary)
        self.comparisons = {metric: found for metric, found in answer.comparisons.items() if found}
        self.main_table = main_tables.main_table(plan, summaries)
        self.further_tables = further_tables.further_tables(plan, answer.results, summaries)
        self.checklist = checklist.fill(plan, summaries, answer.results, self.facts)
        self.commands = checklist.commands(plan, answer.results, self.facts)
        self.at_equal_compute = further_tables.at_equal_compute(summaries)
        self.cells = figures.series(summaries, primary)
        self.drawn = {one.name: one for one in self._draw() if one is not None}
        first, _, rest = plan.sweep.question.strip().partition("\n")
        self.question = first or plan.sweep.name
        self.prediction = " ".join(rest.split())

    def _draw(self) -> Iterable[Drawn | None]:
        metric = self.plan.sweep.primary_metric
        yield figures.dot_plot(self.cells, metric)
        yield figures.dot_plot(self.cells, metric, self.answer.primary)
        for by in ("step", "seconds"):
            yield figures.learning_curves(self.cells, by)
        yield from self.searched.figures() if self.searched else []

    @property
    def unfinished(self) -> list[tuple[Trial, TrialResult | None, str]]:
        """Distinct trials without numbers, and why."""
        found = [(trial, self.answer.results.get(key)) for key, trial in self.plan.distinct.items()]
        return [(*pair, problem) for pair in found if (problem := describe_problem(pair[1])) is not None]

    def latex(self) -> str:
        name = self.plan.sweep.name
        parts = [latex(self.main_table, caption=f"{self.question} {self.verdict}", label=f"tab:{name}")]
        for one in self.published:
            caption = f"{one.caption}: ours and the published"
            parts.append(latex(one.values, caption=caption, label=f"tab:{name}:{one.name}"))
        return "\n".join(parts)

    def markdown(self) -> str:
        primary = self.plan.sweep.primary_metric
        differences = main_tables.seeds_table(self.summaries, self.answer.primary, primary)
        sections: list[tuple[str, Table]] = [(f"Differences from the baseline: {self.metric_name}", differences)]
        if self.effects:
            sections.append((f"Main effects and interactions: {self.metric_name}", self.effects_table))
        for one in self.published:
            sections.append((f"{one.caption}, ours and the published", one.values))
            sections.append((f"{one.caption}, effects in percent of the reference", one.effects))
        if self.at_equal_compute:
            sections.append(("At equal compute", self.at_equal_compute))
        sections += self.further_tables.items()
        blocks = [
            f"# {escape(self.question)}",
            escape(self.prediction),
            f"**{escape(self.verdict)}**",
            markdown(self.main_table),
            *_tables(sections),
            *([f"## The search\n\n{escape(self.searched.summary)}"] if self.searched else []),
            *(_tables(self.searched.tables().items()) if self.searched else []),
            *_bullets("Trials that did not finish", [f"{trial.label}: {why}" for trial, _, why in self.unfinished]),
            *_bullets("Checklist", [f"{item}: {answer}" for item, answer in self.checklist.items()]),
            "## Reproduce",
            "\n".join(f"- {escape(what)}: `{command}`" for what, command in self.commands),
            *_bullets("Provenance", [f"{name}: {fact}" for name, fact in self.facts.items()]),
        ]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def html(self) -> str:
        primary, summaries = self.plan.sweep.primary_metric, self.summaries
        style, script = ((_TEMPLATES / file).read_text(encoding="utf-8") for file in ("report.css", "report.js"))
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["minus"] = with_minus_signs
        common, varied = _common_config(self.plan)
        return environment.get_template("report.html.jinja").render(
            report=self,
            plan=self.plan,
            style=Markup(style),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            seeds=[
                (metrics.title(one), main_tables.seeds_table(summaries, self.comparisons.get(one, []), one))
                for one in dict.fromkeys([primary, *self.comparisons])
            ],
            drawn=self.drawn,
            usages=figures.usages(self.cells),
            hues=figures.hues(summaries),
            examples=examples.sample(summaries),
            num_finished=len(self.plan.distinct) - len(self.unfinished),
            common_config=common,
            varied_config=varied,
            identity=_identity(self.plan),
            trials=[
                describe_trial(trial, self.answer.results.get(key), self.folder)
                for key, trial in self.plan.distinct.items()
            ],
            by_examples=any(one.covers == "examples" for one in self.answer.primary),
        )


def _tables(sections: Iterable[tuple[str, Table]]) -> list[str]:
    return [f"## {escape(heading)}\n\n{markdown(table)}" for heading, table in sections]


def _bullets(heading: str, lines: Sequence[str]) -> list[str]:
    return [f"## {heading}", "\n".join(f"- {escape(line)}" for line in lines)] if lines else []


def _common_config(plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """The config fields that all trials share, and the paths of those that vary."""
    flat = [flatten(trial.config) for trial in plan.trials]
    common = {path: value for path, value in flat[0].items() if all(other[path] == value for other in flat)}
    return common, [path for path in flat[0] if path not in common]


def _identity(plan: Plan) -> dict[str, list[str]]:
    """Fingerprints and versions by name, each with the values that occur among the trials."""
    found: dict[str, dict[str, None]] = {}
    for trial in plan.trials:
        for name, value in trial.identity.items():
            for path, leaf in value.items() if isinstance(value, Mapping) else [("", value)]:
                found.setdefault(f"{name} {path}".strip(), {})[str(leaf)] = None
    return {name: list(values) for name, values in found.items()}
