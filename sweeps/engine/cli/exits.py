"""How a command ends: its exit statuses, and bad input as one line instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from sweeps.engine.worker.failures import found_disk_full

FAILED_TRIALS, BAD_INPUT, BUDGET_SPENT, INTERRUPTED = 1, 2, 3, 130


@contextmanager
def refusing_bad_input(*, verbose: bool = False) -> Iterator[None]:
    """What a person gave and we refuse is one line and exit status 2, a full disk 1, Ctrl-C 130.

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
    except Exception as error:
        if verbose or not found_disk_full(error):
            raise
        typer.echo(
            "error: the disk is full: free some space and run the same command again; what finished is kept", err=True
        )
        raise typer.Exit(FAILED_TRIALS) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
