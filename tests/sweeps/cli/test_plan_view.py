"""What `spt plan` and `--dry-run` show, for people and as JSON."""

import json
from pathlib import Path

import pytest

from tests.sweeps.cli.sweep_commands import JOINT_SEARCH, TABLE1, Spt, write_sweep

RATES = ["0.003", "0.01", "0.03", "0.1", "0.3"]


@pytest.mark.parametrize(("command", "options"), [("run", ["--dry-run"]), ("plan", [])])
def test_a_plan_names_every_trial_and_runs_none(spt: Spt, tmp_path: Path, command: str, options: list[str]) -> None:
    code, out, _ = spt(*options, "--seeds", "2", command=command)
    assert code == 0
    first, *lines = out.splitlines()
    assert first.startswith("k_sweep-tiny-")
    assert "3 cells x 2 seeds = 6 trials; 0 finished before, 6 to run" in first
    trials = [line.split() for line in lines[:6]]
    assert [words[1:] for words in trials] == [
        [f"num_prompts={num_prompts}", "seed", str(seed), "to", "run"] for num_prompts in (1, 2, 4) for seed in (0, 1)
    ]
    assert len({words[0] for words in trials}) == 6
    assert "no p below 0.5" in lines[6]
    assert not (tmp_path / "out").exists()


def test_a_plan_says_which_cells_are_the_same_trial(spt: Spt, tmp_path: Path) -> None:
    factors = "{'losses.contrastive.threshold': [10, 20]}"
    file = write_sweep(tmp_path / "mine.py", factors, baseline="{'losses.contrastive.threshold': 10}")
    code, out, _ = spt("--set", "losses.contrastive.enabled=false", file=file, command="plan")
    assert code == 0
    assert "2 cells x 1 seed = 2 trials, 1 of them the same as another; 0 finished before, 1 to run" in out
    assert out.splitlines()[2].endswith("is threshold=10")


def test_settings_reach_the_plan(spt: Spt) -> None:
    plans = [spt(*options, command="plan")[1] for options in ([], ["--set", "optim.learning_rate=0.5"], ["--steps=3"])]
    assert len({plan.split(":")[0] for plan in plans}) == 3
    assert spt("--steps", "4", command="plan")[1] == plans[0]  # what the scale says already


def test_a_plan_gives_the_smallest_p_after_holm_too(spt: Spt) -> None:
    out = spt("--seeds", "5", command="plan")[1]
    assert "no p below 0.0625, before Holm; Holm over 2 cells makes it 0.125" in out
    plan = json.loads(spt("--seeds", "5", "--json", command="plan")[1])
    assert (plan["smallest_p"], plan["smallest_p_holm"]) == (0.0625, 0.125)


def test_a_plan_without_a_basis_for_an_estimate_says_how_to_get_one(spt: Spt) -> None:
    out = spt("--price-per-hour", "2", command="plan")[1]
    assert "No basis for an estimate" in out
    assert "--calibrate runs a few steps of each shape here" in out


def test_the_caveat_of_avg_is_in_the_plan_of_a_search_for_it(spt: Spt) -> None:
    out = spt("--objective", "dev/avg", file=JOINT_SEARCH, command="plan")[1]
    assert "18.0 points are DIST-1 and DIST-2" in out


def test_a_plan_as_json(spt: Spt) -> None:
    code, out, _ = spt("--json", command="plan")
    assert code == 0
    plan = json.loads(out)
    assert [(trial["levels"], trial["state"]) for trial in plan["trials"]] == [
        ({"prompts.num_prompts": k}, "to run") for k in (1, 2, 4)
    ]
    assert plan["smallest_p"] == 1
    code, out, _ = spt("--json", "--trials", "7", file=JOINT_SEARCH, command="plan")
    assert code == 0
    search = json.loads(out)["search"]
    assert search["num_trials"] == 7
    assert search["objectives"] == {"dev/nll": "minimize", "dev/dist_gap": "minimize"}
    assert search["space"]["prompts.num_prompts"] == {"kind": "int", "low": 1, "high": 8, "log": False, "step": 1}
    assert search["only_if"]["losses.fusion.weight"] == ["losses.fusion.enabled"]


def test_a_plan_shows_both_rounds_of_a_sweep_that_is_retuned(spt: Spt) -> None:
    code, out, _ = spt(file=TABLE1, command="plan")
    assert code == 0
    first, *lines = out.splitlines()
    assert "first 10 trials that retune optim.learning_rate in 0.003, 0.01, 0.03, 0.1, 0.3 within each cell" in first
    assert [line.split()[1:4] for line in lines[:5]] == [["tuning", "PT:", f"learning_rate={rate}"] for rate in RATES]
    assert "2 cells x 1 seed = 2 trials; 0 finished before, 2 to run" in lines[10]
    assert [line.split() for line in lines[11:13]] == [
        ["-", cell, "seed", "0", "after", "tuning"] for cell in ("PT", "SPT")
    ]


def test_a_plan_of_both_rounds_as_json(spt: Spt) -> None:
    plan = json.loads(spt("--json", file=TABLE1, command="plan")[1])
    assert plan["tuning"]["levels"] == {"optim.learning_rate": [float(rate) for rate in RATES]}
    assert {trial["seed"] for trial in plan["tuning"]["trials"]} == {1000}
    assert [(trial["key"], trial["state"]) for trial in plan["trials"]] == [(None, "after tuning")] * 2
    assert plan["estimate"]["device_hours"] is None
    assert plan["estimate"]["trials"] == 12


def test_no_retune_leaves_the_rate_at_the_base(spt: Spt) -> None:
    code, out, _ = spt("--no-retune", file=TABLE1, command="plan")
    assert code == 0
    assert "tuning" not in out
    assert "2 cells x 1 seed = 2 trials" in out
