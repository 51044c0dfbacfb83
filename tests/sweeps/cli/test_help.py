"""The help of the commands: usage, options and examples."""

import pytest

from tests.sweeps.command_line import invoke


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_help_of_human_eval_has_examples(command: str) -> None:
    code, out, _ = invoke("human-eval", command, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"spt human-eval {command}" in out


def test_the_help_of_spt_names_human_eval() -> None:
    assert "human-eval" in invoke("--help")[1]
