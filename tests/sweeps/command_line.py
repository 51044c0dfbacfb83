"""Runs `spt` in this process; what a command shows that refuses its input."""

from typer.testing import CliRunner

from sweeps.engine.cli.main import app

Answer = tuple[int, str, str]
"""Exit status, standard output and standard error."""


def invoke(*arguments: object) -> Answer:
    """Run `spt ARGUMENT ...`; an exception that the command does not handle fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def assert_refused(answer: Answer, *needles: str) -> None:
    """Exit status 2, and one line on standard error that holds each needle."""
    code, _, error = answer
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1, "one line"
    for needle in needles:
        assert needle in error
