"""A search through Ray Tune, ASHA and Optuna, killed in the middle and run again."""

import signal
from collections import Counter
from pathlib import Path

import optuna
import pytest

from sweeps.engine.search.study import is_abandoned
from tests.sweeps.end_to_end.as_a_user import EXACT, Folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SWEEP = '''"""Which of these?"""
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from spt_core import recipes
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.design.search import Asha, Search
ON, GAMMA = "losses.contrastive.enabled", "losses.contrastive.threshold"
SPACE = {
    "prompts.num_prompts": IntDistribution(1, 4),
    "optim.learning_rate": FloatDistribution(0.0001, 0.5, log=True),
    ON: CategoricalDistribution([True, False]),
    GAMMA: FloatDistribution(1, 80),
}
SEARCH = Search(
    SPACE,
    only_if={GAMMA: (ON,)},
    objectives=("dev/nll", "dev/dist_gap"),
    num_trials=12,
    pruner=Asha(grace_percent=50, reduction_factor=2),
    confirm=2,
)
SWEEP = Sweep("mine", recipes.smollm2_135m(), SEARCH)
'''


def test_a_search_that_was_killed_goes_on_and_ends_as_one(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(SWEEP)
    command = ["-m", "sweeps.engine.cli.main", "run", path, "--scale", "tiny", "--model", tiny_llama, *EXACT]

    first = folder.start(*command, "--workers", "0")
    for _ in range(3):
        first.until(r"search \w+ seed 1000: (finished|pruned)")
    first.signal(signal.SIGKILL)
    first.wait()
    ended = folder.run(*command, "--workers", "0")
    assert ended.code == 0, ended.output

    sweep = folder.results["sweep"]
    study = optuna.load_study(study_name=sweep["id"], storage=f"sqlite:///{folder.out / 'optuna.db'}")
    left_by_the_dead = [trial for trial in study.trials if is_abandoned(trial)]
    told = [trial for trial in study.trials if trial not in left_by_the_dead]
    states = Counter(trial.state.name for trial in told)
    keys = {trial.user_attrs["key"] for trial in told}
    assert len(keys) == 12
    assert states.keys() <= {"COMPLETE", "PRUNED"}
    assert states["COMPLETE"] >= 2
    assert states["PRUNED"] >= 1
    entries = folder.ledger(*keys)
    assert {entry.state for entry in entries.values()} == {"finished", "pruned"}
    for trial in told:
        if trial.state.name == "COMPLETE":
            metrics = entries[trial.user_attrs["key"]].metrics
            assert trial.values == [metrics["dev/nll"], metrics["dev/dist_gap"]]
            assert metrics["train/steps"] == 4, "only full budgets have a value"
            assert "test/nll" not in metrics

    assert [trial["cell"] for trial in folder.results["trials"]] == ["base", "best 1", "best 2"]
    assert all(trial["metrics"]["test/nll"] > 0 for trial in folder.results["trials"])
    assert {trial["seed"] for trial in folder.results["trials"]} == {0}
    shown = folder.mlflow()
    assert len(shown.children) == 12 + 3
    tags = Counter(child.data.tags["spt.state"] for child in shown.children.values())
    assert tags == {"finished": states["COMPLETE"] + 3, "pruned": 15 - states["COMPLETE"] - 3}
    page = (folder.out / sweep["id"] / "report.html").read_text()
    assert "Pareto front" in page
    assert "12 distinct trials were explored on dev" in page

    again = folder.run(*command, "--workers", "0")
    assert again.code == 0, again.output
    assert "starting" not in again.output
    assert len(folder.mlflow().children) == 15
