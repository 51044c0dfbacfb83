"""Ours beside the paper's: a published table with what our cells gave, as values and as effects.

A difference in value is shown only where the conditions are the paper's: model, encoder, split, number of replies and
length budget. Elsewhere only effects are compared: the change from the table's reference row, in percent of it.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spt_core.config import TrialConfig
from spt_core.recipes import PAPER_BERT_ENCODER, RECIPES
from sweeps.engine.analysis import stats
from sweeps.engine.analysis.answer import Answer
from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.design import metrics
from sweeps.engine.paper import published as paper
from sweeps.engine.paper.published import Published
from sweeps.engine.plan.plan import Plan
from sweeps.engine.report.table import ABSENT, Table, TableEntry, TableRow, interval_text, number
from sweeps.engine.report.write import PublishedTable

DECIMALS = 2
"""Of every value of the paper."""


@dataclass(frozen=True)
class PaperComparison:
    """A published table and the cells of ours that stand for its rows.

    Attributes:
        published: the table.
        ours: row to the cell that stands for it.
        further: cells that the question needs beside them, by label: they have no published row.
    """

    published: Published
    ours: Mapping[str, CellSummary]
    further: Mapping[str, CellSummary]

    @property
    def conditions(self) -> list[str]:
        """In what ours differ from the paper's conditions, whatever the metric; empty where values compare."""
        whole = [cell for cell in self.ours.values() if cell.is_whole]
        return list(dict.fromkeys(one for cell in whole for one in other_conditions(cell, self.published)))

    def values(self) -> Table:
        """Our means with the published values below them, and the difference where the conditions are the paper's."""
        rows = [self._row(row, self.ours.get(row), row) for row in self.published.rows]
        rows += [self._row(label, cell, None) for label, cell in self.further.items()]
        return Table("", tuple(map(metrics.title, self.published.metrics)), tuple(rows))

    def effects(self) -> Table:
        """Change from the reference row, in percent of it: ours with a 95% interval over seeds, the paper's below."""
        reference = self.published.reference
        rows = [
            TableRow(label, tuple(self._effect(metric, label) for metric in self.published.metrics))
            for label in (*self.published.rows, *self.further)
            if label != reference and (label in self.ours or label in self.further)
        ]
        return Table(f"against {reference}", tuple(map(metrics.title, self.published.metrics)), tuple(rows))

    def shown(self) -> PublishedTable:
        """As a report shows it."""
        return PublishedTable(
            name=self.published.name,
            caption=self.published.caption,
            reference=self.published.reference,
            notes=self.published.notes,
            conditions=tuple(self.conditions),
            values=self.values(),
            effects=self.effects(),
            document=self.document(),
        )

    def document(self) -> dict[str, Any]:
        """The table for programs: the published values and effects, ours, and in what the conditions differ."""
        return {
            "table": self.published.name,
            "conditions": self.conditions,
            "rows": [
                {
                    "row": row,
                    "cell": self.ours[row].label if row in self.ours else None,
                    "metrics": {metric: self._numbers(row, metric) for metric in self.published.metrics},
                }
                for row in self.published.rows
            ],
        }

    def _numbers(self, row: str, metric: str) -> dict[str, Any]:
        cell, effect = self.ours.get(row), self._effects.get((row, metric))
        return {
            "paper": self.published.value(row, metric),
            "ours": None if cell is None else cell.mean(metric),
            "paper_effect": self.published.relative(row, metric) if self.published.value(row, metric) else None,
            "effect": None if effect is None else effect._asdict(),
        }

    def _row(self, label: str, cell: CellSummary | None, row: str | None) -> TableRow:
        entries = tuple(self._value(metric, cell, row) for metric in self.published.metrics)
        notes = ("not in this sweep",) if cell is None else tuple(cell.problems)
        if row == self.published.reference:
            notes = ("reference", *notes)
        return TableRow(label, entries, notes, is_baseline=row == self.published.reference)

    def _value(self, metric: str, cell: CellSummary | None, row: str | None) -> TableEntry:
        mean = None if cell is None else cell.mean(metric)
        detail = []
        if row is not None:
            value = self.published.value(row, metric)
            detail.append(f"paper {number(value, DECIMALS)}")
            if cell is not None and is_number(mean) and not other_conditions(cell, self.published, metric):
                detail.append(number(mean - value, DECIMALS, sign=True))
        return TableEntry(number(mean, DECIMALS), ", ".join(detail), mean)

    @functools.cached_property
    def _effects(self) -> dict[tuple[str, str], stats.Interval | None]:
        """Ours by row or label and metric: every file of a report asks again."""
        reference = self.ours.get(self.published.reference)
        if reference is None:
            return {}
        return {
            (row, metric): relative_effect(cell, reference, metric)
            for row, cell in {**self.ours, **self.further}.items()
            for metric in self.published.metrics
            if cell is not reference
        }

    def _effect(self, metric: str, label: str) -> TableEntry:
        detail, effect = "", self._effects.get((label, metric))
        if label in self.published.rows:
            detail = f"paper {number(self.published.relative(label, metric), 1, sign=True)}%"
        if effect is None:
            return TableEntry(ABSENT, detail)
        interval = interval_text(effect.low, effect.high, 1, sign=True)
        return TableEntry(
            f"{number(effect.mean, 1, sign=True)}%", "; ".join(filter(None, [interval, detail])), effect.mean
        )


def relative_effect(cell: CellSummary, reference: CellSummary, metric: str) -> stats.Interval | None:
    """Paired difference in percent of the reference's mean, with its t interval; None unless both are whole.

    The interval takes the reference's mean as known: it is that of the difference.
    """
    at_reference = reference.mean(metric)
    if not (is_number(cell.mean(metric)) and is_number(at_reference)) or at_reference == 0:
        return None
    of_cell, of_reference = cell.by_seed(metric), reference.by_seed(metric)
    if of_cell.keys() != of_reference.keys():
        return None
    delta = stats.paired_delta(list(of_cell.values()), [of_reference[seed] for seed in of_cell])
    return stats.Interval(*(100 * value / at_reference for value in delta[:3]))


def other_conditions(cell: CellSummary, published: Published, metric: str | None = None) -> list[str]:
    """In what a cell's conditions are not those of a published value, each in a phrase; empty where they are.

    Args:
        cell: of ours.
        published: the table, of one model.
        metric: None asks for what holds whatever the metric.
    """
    trial = cell.trials[0]
    config, evaluation = trial.config, trial.config.evaluation
    found = []
    if published.model is None or config.backbone.name != RECIPES[published.model]().backbone.name:
        found.append(f"model {config.backbone.name.rsplit('/', 1)[-1]}")
    if trial.identity.get("data", {}).get("test") != paper.TEST_FINGERPRINT or evaluation.split != "test":
        found.append("test split")
    replies = cell.mean("test/num_responses")
    if replies != paper.NUM_RESPONSES:
        found.append("number of replies" if replies is None else f"{replies:.0f} replies")
    budget = (evaluation.max_new_tokens, config.data.max_tokens, evaluation.cut)
    if budget != (paper.MAX_NEW_TOKENS, paper.MAX_TOKENS, True):
        found.append("length budget")
    if metric is not None and "bert" in metric and evaluation.bert_encoder != PAPER_BERT_ENCODER:
        found.append("encoder")
    return found


def model_of(config: TrialConfig) -> str:
    """The recipe whose backbone a config has; empty where it is none of them."""
    return next((name for name, make in RECIPES.items() if make().backbone.name == config.backbone.name), "")


def group_of(plans: Iterable[Plan]) -> dict[str, int]:
    """K and L of the first group of prompts among the trials of some sweeps, as `paper.table_4` takes them."""
    configs = (trial.config for plan in plans for trial in plan.trials)
    group = next((one.prompts for one in configs if one.method == "spt" and one.num_choices > 1), None)
    return {} if group is None else {"num_prompts": group.num_prompts, "prompt_length": group.prompt_length}


def tables_of(plan: Plan) -> list[Published]:
    """The published tables that a sweep has cells of."""
    base, of_group = plan.trials[0].config, group_of([plan])
    known = (
        *(paper.table_1(model_of(base)), paper.TABLE_2, paper.TABLE_3),
        *(paper.table_4(**of_group), paper.TABLE_5, paper.table_8(**of_group)),
    )
    return [one for one in known if plan.sweep.name in one.cells]


def beside(
    published: Published,
    found: Iterable[tuple[Plan, Sequence[CellSummary]]],
    further: Mapping[str, CellSummary] | None = None,
) -> PaperComparison:
    """A published table with the cells of some sweeps that stand for its rows.

    Args:
        published: the table.
        found: sweeps with their cells.
        further: cells to show below, by label.
    """
    ours: dict[str, CellSummary] = {}
    for plan, summaries in found:
        for summary in summaries:
            row = published.row_of(plan.sweep.name, summary.trials[0].config)
            if row is not None:
                ours.setdefault(row, summary)
    return PaperComparison(published, ours, further or {})


def published_tables(answer: Answer) -> list[PublishedTable]:
    """The tables of the paper that a sweep has cells of, with ours in them."""
    return [beside(one, [(answer.plan, answer.summaries)]).shown() for one in tables_of(answer.plan)]
