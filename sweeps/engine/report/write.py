"""The answer of a sweep as files: a page for people, Markdown for a commit or a run, LaTeX for a paper, JSON and CSV.

`report.html` is one file that asks nothing of the network; its content security policy holds it to that, and runs no
script but its own. The figures are inline SVG, for which no plotting library has to travel in every report.

`results.json`, schema `spt-sweeps/results` version 1. What is not a finite number is null.

- `schema`, `version`: this format. `facts`: where the numbers come from, as text by name.
- `sweep`: `id`, `name`, `scale`, `question`, `primary_metric`, `baseline` (a label), `seeds`, `smallest_p`.
- `verdict`: as in the report.
- `cells`: in the order of the table: `label`, `levels` (config path to value), `is_baseline`, `same_as` (label of an
  earlier cell with the same trials, or null), `is_whole` (every seed finished), `problems`, and `metrics`: by name
  `mean`, `low`, `high` (95% t interval over seeds), for whole cells only.
- `trials`: one a cell and seed: `key`, `cell` (a label), `seed`, `state` (`finished`, `failed`, `interrupted`,
  `not run`), `error`, `reused`, `folder` (relative to the report), `metrics`, `config`, `identity`.
- `effects`: of a whole factorial, in the primary metric: `components` (one, or two of an interaction), `mean`, `low`,
  `high`, `p`, `p_holm`; else empty.
- `retuned`: of a sweep with nuisance factors, else null: `metric` and `seed` they were tuned on, `trials_a_cell`,
  `levels` (config path to values), `ended`, and by cell `chosen` (levels), `at_edge` (paths) and `tried` (`levels`,
  `key`, `state`, `dev_nll`, `error`).
- `deltas`: cell minus baseline: `cell`, `metric`, `mean`, `low`, `high`, `by_seed`, `covers` (`seeds`: paired t
  interval, exact sign-flip `p`, `p_holm` across the cells; `examples`: one seed resampled over test dialogues, with a p
  of the swap test for DIST alone), `probability_of_improvement`, and `caveats`: what was overlooked to compare them.
- `published`: tables of the paper that the sweep has cells of: `table`, `conditions` (in what ours differ from the
  paper's; empty where values compare), `rows`: `row`, `cell` (a label, or null) and by metric `paper`, `ours`,
  `paper_effect` and `effect` (change from the reference row in percent; `mean`, `low`, `high`).
- `checklist`: answers by item.

`trials.csv` has a row a trial: `key`, `cell`, `seed`, `state`, then every metric by name. `table.tex` is the main table
and those of the paper; it needs booktabs.
"""

import base64
import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from spt_core.config import flatten
from sweeps.engine.analysis.cells import CellSummary, Comparison, compare, describe_problem, summarise
from sweeps.engine.analysis.factorial import effects_table, factorial_effects
from sweeps.engine.analysis.verdict import judge, verdict
from sweeps.engine.design import metrics as registry
from sweeps.engine.design.designs import label
from sweeps.engine.paper.beside import beside, tables_of
from sweeps.engine.plan.plan import Plan, Trial
from sweeps.engine.report import checklist, examples, figures, main_tables
from sweeps.engine.report.equal_compute import at_equal_compute
from sweeps.engine.report.improvement_table import HEADING as GAINS_HEADING
from sweeps.engine.report.improvement_table import improvement_table
from sweeps.engine.report.latex import latex
from sweeps.engine.report.retuned import HEADING as RETUNED_HEADING
from sweeps.engine.report.retuned import retuned_document, retuned_table
from sweeps.engine.report.terminal import terminal_table
from sweeps.engine.store.atomic_write import write_whole
from sweeps.engine.store.trial_folder import TrialResult

if TYPE_CHECKING:
    from sweeps.engine.report.search_results import Explored

__all__ = ["terminal_table", "verdict", "write"]

SCHEMA, SCHEMA_VERSION = "spt-sweeps/results", 1
HTML, MARKDOWN, RESULTS, LATEX, CSV = "report.html", "report.md", "results.json", "table.tex", "trials.csv"

_HERE = Path(__file__).parent / "templates"


def write(
    plan: Plan,
    results: Mapping[str, TrialResult],
    folder: Path,
    *,
    facts: Mapping[str, str],
    explored: "Explored | None" = None,
) -> Path:
    """Write `report.html`, `report.md`, `table.tex`, `results.json` and `trials.csv` into a folder.

    Args:
        plan: what was to run.
        results: what ended, by trial key; a trial that is not there is shown as not run.
        folder: made if it is not there; files of these names in it are replaced.
        facts: where the numbers come from (command, tracking URI, versions, machine), printed as they are but for
            credentials in addresses.
        explored: what the sweep's search found, if it has one.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = _Report(plan, results, folder, facts, explored)
    texts = {
        RESULTS: report.json(),
        CSV: report.csv(),
        LATEX: report.latex(),
        MARKDOWN: report.markdown(),
        HTML: report.html(),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return folder / HTML


class _Report:
    """What the three files share."""

    def __init__(
        self,
        plan: Plan,
        results: Mapping[str, TrialResult],
        folder: Path,
        facts: Mapping[str, str],
        explored: "Explored | None",
    ) -> None:
        self.plan, self.results, self.folder, self.explored = plan, results, folder, explored
        self.facts = {name: _without_credentials(fact) for name, fact in facts.items()}
        self.summaries = summarise(plan, results)
        self.effects = factorial_effects(self.summaries, plan.sweep.primary_metric)
        metrics = dict.fromkeys([plan.sweep.primary_metric, *registry.COMPARED])
        compared = {metric: compare(self.summaries, metric, despite=plan.sweep.despite) for metric in metrics}
        self.comparisons = {metric: found for metric, found in compared.items() if found}
        self.verdict = judge(plan, self.summaries, compared[plan.sweep.primary_metric])
        self.main_table = main_tables.main_table(plan, self.summaries)
        self.further_tables = main_tables.further_tables(self.summaries)
        gains = improvement_table(self.summaries)
        if gains.rows:
            self.further_tables[GAINS_HEADING] = gains
        if plan.tuning is not None:
            self.further_tables[RETUNED_HEADING] = retuned_table(plan, results)
        self.beside = [beside(one, [(plan, self.summaries)]) for one in tables_of(plan)]
        self.checklist = checklist.fill(plan, self.summaries, results, self.facts)
        self.commands = checklist.commands(plan, results, self.facts)
        self.at_equal_compute = at_equal_compute(self.summaries)
        first, _, rest = plan.sweep.question.strip().partition("\n")
        self.question = first or plan.sweep.name
        self.prediction = " ".join(rest.split())

    @property
    def unfinished(self) -> list[tuple[Trial, TrialResult | None, str]]:
        """Distinct trials without numbers, and why."""
        trials = self.plan.distinct.items()
        found = [(trial, self.results.get(key)) for key, trial in trials]
        return [(*pair, problem) for pair in found if (problem := describe_problem(pair[1])) is not None]

    def json(self) -> str:
        plan, sweep = self.plan, self.plan.sweep
        document = {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "sweep": {
                "id": plan.sweep_id,
                "name": sweep.name,
                "scale": plan.scale,
                "question": sweep.question,
                "primary_metric": sweep.primary_metric,
                "baseline": label(sweep.baseline),
                "seeds": list(plan.seeds),
                "smallest_p": plan.smallest_p,
            },
            "verdict": self.verdict,
            "facts": self.facts,
            "cells": [_cell(summary) for summary in self.summaries],
            "trials": [self._trial(trial) | {"config": _config(trial)} for trial in plan.trials],
            "effects": [
                {"components": list(one.components), **one.delta._asdict(), "p_holm": one.p_holm}
                for one in self.effects
            ],
            "retuned": retuned_document(plan, self.results),
            "deltas": [_delta(one) for found in self.comparisons.values() for one in found],
            "published": [one.document() for one in self.beside],
            "checklist": self.checklist,
        }
        return _json(document)

    def csv(self) -> str:
        trials = [self._trial(trial) for trial in self.plan.trials]
        names = list(dict.fromkeys(name for trial in trials for name in trial["metrics"]))
        columns = ("key", "cell", "seed", "state")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*columns, *names])
        for trial in trials:
            values = [trial["metrics"].get(name, "") for name in names]
            writer.writerow([*(trial[column] for column in columns), *values])
        return text.getvalue()

    def latex(self) -> str:
        name = self.plan.sweep.name
        parts = [latex(self.main_table, caption=f"{self.question} {self.verdict}", label=f"tab:{name}")]
        for one in self.beside:
            of = f"{one.published.caption}: ours and the published"
            parts.append(latex(one.values(), caption=of, label=f"tab:{name}:{one.published.name}"))
        return "\n".join(parts)

    def markdown(self) -> str:
        primary = self.plan.sweep.primary_metric
        blocks = [
            f"# {main_tables.escape(self.question)}",
            main_tables.escape(self.prediction),
            f"**{main_tables.escape(self.verdict)}**",
            main_tables.markdown(self.main_table),
            f"## Differences from the baseline: {main_tables.escape(registry.title(primary))}",
            main_tables.markdown(main_tables.seeds_table(self.summaries, self.comparisons.get(primary, []), primary)),
            f"## Main effects and interactions: {main_tables.escape(registry.title(primary))}" if self.effects else "",
            main_tables.markdown(effects_table(self.effects, primary)) if self.effects else "",
            *(
                f"## {heading}\n\n{main_tables.markdown(of)}"
                for one in self.beside
                for heading, of in (
                    (f"{one.published.caption}, ours and the published", one.values()),
                    (f"{one.published.caption}, effects in percent of the reference", one.effects()),
                )
            ),
            f"## At equal compute\n\n{main_tables.markdown(self.at_equal_compute)}" if self.at_equal_compute else "",
            *(f"## {heading}\n\n{main_tables.markdown(of)}" for heading, of in self.further_tables.items()),
            f"## The search\n\n{main_tables.escape(self.explored.summary)}" if self.explored else "",
            *(
                f"## {heading}\n\n{main_tables.markdown(of)}"
                for heading, of in (self.explored.tables().items() if self.explored else ())
            ),
            "## Trials that did not finish" if self.unfinished else "",
            "\n".join(f"- {main_tables.escape(f'{trial.label}: {why}')}" for trial, _, why in self.unfinished),
            "## Checklist",
            "\n".join(f"- {main_tables.escape(f'{item}: {answer}')}" for item, answer in self.checklist.items()),
            "## Reproduce",
            "\n".join(f"- {main_tables.escape(what)}: `{command}`" for what, command in self.commands),
            "## Provenance",
            "\n".join(f"- {main_tables.escape(f'{name}: {fact}')}" for name, fact in self.facts.items()),
        ]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def html(self) -> str:
        primary = self.plan.sweep.primary_metric
        name = registry.title(primary)
        of_primary = self.comparisons.get(primary, [])
        style, script = ((_HERE / file).read_text(encoding="utf-8") for file in ("report.css", "report.js"))
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["minus"] = _with_minus_signs
        common, varied = _common_config(self.plan)
        return environment.get_template("report.html.jinja").render(
            report=self,
            plan=self.plan,
            metric_name=name,
            style=Markup(style),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            main=self.main_table,
            seeds=[
                (registry.title(one), main_tables.seeds_table(self.summaries, self.comparisons.get(one, []), one))
                for one in dict.fromkeys([primary, *self.comparisons])
            ],
            further=self.further_tables,
            values=figures.values_plot(self.summaries, primary, name),
            differences=figures.differences_plot(self.summaries, of_primary, primary, f"difference in {name}"),
            curves=figures.learning_curves(self.summaries),
            curves_by_seconds=figures.learning_curves(self.summaries, by="seconds"),
            usages=figures.usages(self.summaries),
            hues=figures.hues(self.summaries),
            examples=examples.sample(self.summaries),
            num_finished=len(self.plan.distinct) - len(self.unfinished),
            common_config=common,
            varied_config=varied,
            identity=_identity(self.plan),
            effects=effects_table(self.effects, primary),
            explored=self.explored,
            front=self.explored.scatter() if self.explored else None,
            coordinates=self.explored.coordinates() if self.explored else None,
            trials=[self._trial(trial) for trial in self.plan.distinct.values()],
            by_examples=any(one.covers == "examples" for one in of_primary),
        )

    def _trial(self, trial: Trial) -> dict[str, Any]:
        result = self.results.get(trial.key)
        return {
            "key": trial.key,
            "cell": label(trial.cell),
            "seed": trial.seed,
            "state": "not run" if result is None else result.state,
            "error": None if result is None or result.error is None else _without_credentials(result.error),
            "reused": result is not None and result.reused,
            "folder": None if result is None else Path(os.path.relpath(result.folder, self.folder)).as_posix(),
            "metrics": {} if result is None else dict(result.metrics),
            "identity": dict(trial.identity),
        }


def _config(trial: Trial) -> dict[str, Any]:
    return trial.config.model_dump(mode="json")


def _cell(summary: CellSummary) -> dict[str, Any]:
    names = dict.fromkeys(name for _, result in summary.finished for name in result.metrics)
    intervals = {name: summary.interval(name) for name in names}
    return {
        "label": summary.label,
        "levels": dict(summary.cell),
        "is_baseline": summary.is_baseline,
        "same_as": summary.same_as,
        "is_whole": summary.is_whole,
        "problems": summary.problems,
        "metrics": {name: interval._asdict() for name, interval in intervals.items() if interval is not None},
    }


def _delta(comparison: Comparison) -> dict[str, Any]:
    return {
        "cell": comparison.summary.label,
        "metric": comparison.metric,
        **comparison.delta._asdict(),
        "by_seed": {str(seed): difference for seed, difference in comparison.by_seed.items()},
        "p": comparison.p,
        "p_holm": comparison.p_holm,
        "probability_of_improvement": comparison.probability_of_improvement,
        "covers": comparison.covers,
        "caveats": list(comparison.caveats),
    }


def _json(document: Mapping[str, Any]) -> str:
    """A document with each entry of its lists on a line of its own.

    Indented all through, it would be written by the Python half of the standard library's encoder, which takes longer
    than the rest of a report of thousands of trials.
    """
    fields = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            entries = ",\n".join(f"    {_dump(entry)}" for entry in value)
            fields.append(f"  {_dump(name)}: [\n{entries}\n  ]")
        else:
            fields.append(f"  {_dump(name)}: {_dump(value)}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    """The same tree with null for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(leaf) for name, leaf in value.items()}
    return [_finite(leaf) for leaf in value] if isinstance(value, list | tuple) else value


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


def _without_credentials(text: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _with_minus_signs(text: str) -> str:
    """Text as it is set on a page: a true minus before a number, and an arrow for `->`."""
    return re.sub(r"(?<![\w.=])-(?=\d)", "\N{MINUS SIGN}", str(text)).replace("->", "\N{RIGHTWARDS ARROW}")
