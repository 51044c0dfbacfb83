"""The help of the commands: usage, options and examples."""

import pytest

from tests.sweeps.cli.sweep_commands import K_SWEEP, Spt
from tests.sweeps.command_line import invoke


@pytest.mark.parametrize("command", ["resume", "report", "status", "human-eval export", "human-eval import"])
def test_the_help_of_a_command_has_examples(command: str) -> None:
    code, out, _ = invoke(*command.split(), "--help")
    assert code == 0
    assert f"spt {command}" in out[out.index("Examples:") :]


def test_the_help_of_spt_names_human_eval() -> None:
    assert "human-eval" in invoke("--help")[1]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_help_of_a_command_without_its_file_names_the_file_and_has_an_example(command: str) -> None:
    code, out, _ = invoke(command, "--help")
    assert code == 0
    assert "FILE" in out
    assert "Example: spt" in out


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_help_of_a_sweep_has_its_question_its_options_and_examples(spt: Spt, command: str) -> None:
    code, out, _ = spt("--help", command=command)
    assert code == 0
    assert out.startswith(f"Usage: spt run {K_SWEEP} [OPTIONS]")
    assert "How many soft prompts does the group need?" in out
    assert "Prediction: most metrics peak at K <= 4" in out
    for needle in ("--set FIELD=VALUE", "--dry-run", "Examples:", f"spt run {K_SWEEP} --scale full", "130 interrupted"):
        assert needle in out
