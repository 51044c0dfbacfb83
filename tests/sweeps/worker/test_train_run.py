"""A Train run that loses what its workers and their supervisor speak through."""

from pathlib import Path

import pytest

from tests.sweeps.end_to_end.as_a_user import EXACT, Folder, assert_whole, spt

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_run_without_its_mailbox_ends_and_the_trial_goes_on_in_another(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = [*spt(folder, {"prompts.num_prompts": [2]}), "--model", tiny_llama, *EXACT]
    sweep = folder.start(*command, "--set", "optim.max_steps=60", "--workers", "1")
    sweep.until(r"training \d\d/60")
    sweep.kill_one("_Mailbox")
    sweep.until(": retrying: ")
    assert "training 0/60" not in sweep.until(r": training \d+/60"), "it goes on from its checkpoint"
    ended = sweep.wait()
    assert ended.code == 0, ended.output
    assert_whole(folder, steps=60, retries={1})
