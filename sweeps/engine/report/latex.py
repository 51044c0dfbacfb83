"""A table of a report as LaTeX, for a paper: booktabs, and text that means itself."""

from sweeps.engine.report.table import Table, TableEntry, TableRow

_LITERAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
    | {">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"}
)


def latex(table: Table, *, caption: str, label: str) -> str:
    """A `table` environment that needs `\\usepackage{booktabs}`; what is smaller in the report is smaller here.

    Args:
        table: of a report.
        caption: plain text.
        label: of `\\label`, such as `tab:k_sweep`.
    """
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * len(table.titles)}}}",
        r"\toprule",
        " & ".join(map(escape, (table.about, *table.titles))) + r" \\",
        r"\midrule",
        *map(_line, table.cell_rows),
        *([r"\midrule", *map(_line, table.reference_rows)] if table.reference_rows else []),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{{label}}}",
        r"\end{table}",
    ]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text as LaTeX shows it literally, on one line."""
    return " ".join(text.translate(_LITERAL).split())


def _line(row: TableRow) -> str:
    label = escape(row.label) + "".join(rf" \emph{{\footnotesize {escape(note)}}}" for note in row.notes)
    return " & ".join([label, *map(_entry, row.entries)]) + r" \\"


def _entry(entry: TableEntry) -> str:
    detail = rf" {{\footnotesize {escape(entry.detail)}}}" if entry.detail else ""
    text = escape(entry.text).replace("->", r"$\to$").replace(r"-\textgreater{}", r"$\to$")
    return f"{text}{detail}"
