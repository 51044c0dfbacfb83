"""How a command ends: its exit statuses, and bad input as one line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED_TRIALS, BAD_INPUT, BUDGET_SPENT, INTERRUPTED = 1, 2, 3, 130


@contextmanager
def refusing_bad_input(*, verbose: bool = False) -> Iterator[None]:
    """What a person gave and we refuse is one line and exit status 2; Ctrl-C is exit status 130.

    Args:
        verbose: let the error through with its traceback.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if verbose:
            raise
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
