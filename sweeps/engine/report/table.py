"""A table as a value, and how it is shown in Markdown; `latex`, `terminal` and the page show it their own way."""

import math
from dataclasses import dataclass, field

from sweeps.engine.analysis.cells import is_number

ABSENT = "-"
BASELINE = "baseline"


@dataclass(frozen=True)
class TableEntry:
    """What one place of a table says.

    Attributes:
        text: the number or words.
        detail: smaller, beneath: an interval, a sample size.
        value: to sort by; None sorts last.
    """

    text: str
    detail: str = ""
    value: float | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        label: what it is about.
        entries: one a column.
        notes: beside the label: the baseline, a failure.
        is_baseline: the others are compared with it.
        is_reference: not a cell: the human replies.
    """

    label: str
    entries: tuple[TableEntry, ...]
    notes: tuple[str, ...] = ()
    is_baseline: bool = False
    is_reference: bool = False


@dataclass(frozen=True)
class Table:
    """A table: the title of the labels, those of the other columns, the rows, and what to know of them."""

    about: str
    titles: tuple[str, ...]
    rows: tuple[TableRow, ...] = field(default=())
    note: str = ""

    @property
    def cell_rows(self) -> list[TableRow]:
        """The rows that can be sorted."""
        return [row for row in self.rows if not row.is_reference]

    @property
    def reference_rows(self) -> list[TableRow]:
        """The rows that stay below."""
        return [row for row in self.rows if row.is_reference]


def number(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number for people, a dash where there is none, `nan` where it is not one."""
    if value is None:
        return ABSENT
    return format(value, f"{'+' if sign else ''},.{decimals}f") if math.isfinite(value) else str(value)


def interval_text(low: float, high: float, decimals: int, *, sign: bool = False) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{number(low, decimals, sign=sign)}, {number(high, decimals, sign=sign)}]"


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, with what others wrote escaped."""
    lines = [[table.about, *table.titles], ["---", *("---:" for _ in table.titles)]]
    for row in table.rows:
        label = "; ".join([row.label, *row.notes])
        lines.append([escape(label), *(escape(f"{one.text} {one.detail}".strip()) for one in row.entries)])
    note = f"\n\n{escape(table.note)}" if table.note else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + note


def escape(text: str) -> str:
    """Text as Markdown shows it literally, on one line."""
    return " ".join(text.translate(_LITERAL).split())


_LITERAL = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|#~!"}
    | {character: f"&#{ord(character)};" for character in "<>&"}
)


def p_entry(value: float) -> TableEntry:
    """A p-value, in scientific notation below 0.001."""
    if not is_number(value):
        return TableEntry(ABSENT)
    return TableEntry(f"{value:.1e}" if value < 0.001 else f"{value:.3f}", value=value)
