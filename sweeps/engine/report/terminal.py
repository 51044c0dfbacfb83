"""The main table of a report as a terminal shows it, however narrow it is."""

import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from sweeps.engine.analysis.answer import Answer
from sweeps.engine.report.main_tables import main_table
from sweeps.engine.report.table import BASELINE, Table, TableRow

_LONGEST_NOTE = 72
_LABEL_WIDTHS = 12, 30


def terminal_table(answer: Answer) -> RenderableType:
    """The main table for a terminal, clear in plain text too; where it is too wide, in parts one below the other."""
    plan = answer.plan
    several = "; [95% t interval over seeds]" if len(plan.seeds) > 1 else ""
    return TerminalTable(
        main_table(plan, answer.summaries),
        title=f"{plan.sweep.name}, {plan.scale} scale",
        caption=f"NLL in nats a token{several}; dev NLL at the start -> best; DIST_AVG falls with n: its target is the "
        "human replies' at the same n, not the maximum",
    )


class TerminalTable:
    """A table as a terminal shows it; where it is too wide, in parts one below the other.

    Args:
        table: to show.
        title: above it.
        caption: below it.
    """

    def __init__(self, table: Table, *, title: str, caption: str) -> None:
        self._table, self._title, self._caption = table, title, caption

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(self._title, style="italic")
        for number, columns in enumerate(self._parts(options.max_width)):
            if number:
                yield Text()
            yield self._part(columns)
        yield Text(self._caption, style="dim italic")

    def _parts(self, room: int) -> list[list[int]]:
        """The columns that go side by side, by index: as many as there is room for beside the labels."""
        least, most = _LABEL_WIDTHS
        label = max(least, *(min(most, cell_len(row.label)) for row in self._table.rows))  # its notes can be folded
        widths = [
            max(cell_len(line) for entry in column for line in (entry.text, entry.detail))
            for column in zip(*(row.entries for row in self._table.rows), strict=True)
        ]
        parts: list[list[int]] = [[]]
        left = room - label
        for column, title in enumerate(self._table.titles):
            width = max(len(title), widths[column]) + 1
            if parts[-1] and width > left:
                parts.append([])
                left = room - label
            parts[-1].append(column)
            left -= width
        return parts

    def _part(self, columns: Sequence[int]) -> RichTable:
        part = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        least, most = _LABEL_WIDTHS
        part.add_column(Text(self._table.about), min_width=least, max_width=most, overflow="fold")
        for column in columns:
            part.add_column(Text(self._table.titles[column]), justify="right", no_wrap=True)
        for rows, style in ((self._table.cell_rows, ""), (self._table.reference_rows, "italic")):
            for row in rows:
                label, *texts = _terminal_row(row)
                if not row.is_reference or any(row.entries[column].text for column in columns):
                    part.add_row(label, *(texts[column] for column in columns), style=style)
            part.add_section()
        return part


def _terminal_row(row: TableRow) -> list[Text]:
    label = Text(row.label, style="bold" if row.is_baseline else "")
    for note in row.notes:
        label.append(
            f"\n{textwrap.shorten(note, _LONGEST_NOTE, placeholder=' ...')}", style="dim" if note == BASELINE else "red"
        )
    details = [
        Text(entry.text).append(f"\n{entry.detail}" if entry.detail else "", style="dim") for entry in row.entries
    ]
    return [label, *details]
