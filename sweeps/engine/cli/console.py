"""What the commands that run trials print: progress, the answer, where its files are, and what is left to do."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sweeps.engine.cli.exits import BUDGET_SPENT, FAILED_TRIALS, INTERRUPTED

if TYPE_CHECKING:
    from sweeps.engine.analysis.answer import Answer
    from sweeps.engine.driver.run_sweep import Outcome


def make_console(*, stderr: bool = False) -> Console:
    """A console that wraps on a terminal and nowhere else."""
    is_terminal = sys.stdout.isatty()
    return Console(stderr=stderr, soft_wrap=not is_terminal, width=None if is_terminal else 120, highlight=False)


def show_log(console: Console) -> None:
    """What the core says it is doing (a conversion that takes a while) goes where everything else does."""
    handler = logging.Handler()
    handler.emit = lambda record: console.print(record.getMessage(), markup=False)  # type: ignore[method-assign]
    core = logging.getLogger("spt_core")
    core.handlers, core.propagate = [handler], False
    core.setLevel(logging.INFO)


def print_answer(console: Console, answer: "Answer", page: Path) -> None:
    """The main table, the verdict, and where the report is."""
    from sweeps.engine.report.terminal import terminal_table

    console.print()
    console.print(terminal_table(answer))
    console.print(answer.verdict, markup=False)
    console.print()
    print_place(console, "report", relative(page))


def print_place(console: Console, name: str, value: str) -> None:
    """A line that says where something is."""
    console.print(f"{name:>8}  {value}", markup=False, soft_wrap=True)


def print_end(console: Console, outcome: "Outcome", *, budget_hours: float | None = None) -> int:
    """What a person should know of how a run ended; the exit status."""
    plan, results = outcome.answer.plan, outcome.answer.results
    for missing in outcome.undelivered:
        console.print(f"MLflow has not got: {missing}; running this again delivers it", markup=False)
    if outcome.gave_up:
        console.print(f"the search ended early: {outcome.gave_up}", markup=False)
    if outcome.interrupted:
        console.print("interrupted: what finished is kept; run the same command again to go on", markup=False)
        return INTERRUPTED
    states = {key: results[key].state if key in results else None for key in plan.distinct}
    for key in (key for key, state in states.items() if state == "failed"):
        console.print(f"failed: {plan.distinct[key].label}: {results[key].error}", markup=False)
    if outcome.budget_spent:
        console.print(
            f"the budget is spent: {outcome.spent_hours:.3g} of {budget_hours:g} device hours, and trials are left; "
            "run the same command again to go on, with a --budget-hours for what is left",
            markup=False,
        )
        return BUDGET_SPENT
    return 0 if set(states.values()) <= {"finished"} else FAILED_TRIALS


def relative(path: Path) -> str:
    """A path as a person here would type it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
