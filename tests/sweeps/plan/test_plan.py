import functools
import pkgutil
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spt_core.conversations import load
from sweeps.engine.design.designs import Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.plan.plan import Plan, expand
from sweeps.engine.plan.trial import check_splits
from tests.conftest import PROJECT, tiny_config

K = "prompts.num_prompts"
CONTRASTIVE, SELECTION, FUSION = (f"losses.{term}" for term in ("contrastive", "selection", "fusion"))

Expand = Callable[..., Plan]


@pytest.fixture
def plan_of(tiny_llama: Path) -> Expand:
    """Expands a grid over K = 1, 2, 4, or over other factors, on the tiny model; `settings` are `--set`."""

    def expanded(factors: dict[str, list[Any]] | None = None, *, seeds: int = 1, **settings: Any) -> Plan:
        factors = factors or {K: [1, 2, 4]}
        sweep = Sweep(
            name="some_sweep",
            base=tiny_config(tiny_llama),
            design=Grid(factors),
            baseline={path: levels[0] for path, levels in factors.items()},
            seeds=seeds,
        )
        named = {name.replace("__", "."): value for name, value in settings.items()}
        return expand(sweep, scale="full", device_type="cpu", settings=named)

    return expanded


def one_key(plan: Plan) -> str:
    (key,) = plan.distinct
    return key


def test_a_plan_has_a_trial_for_each_cell_and_seed(plan_of: Expand) -> None:
    plan = plan_of(seeds=2)
    assert [(trial.cell, trial.seed) for trial in plan.trials] == [
        ({K: num_prompts}, seed) for num_prompts in (1, 2, 4) for seed in (0, 1)
    ]
    assert len(plan.distinct) == 6
    for trial in plan.trials:
        assert trial.config.prompts.num_prompts == trial.cell[K]
        assert trial.config.seed == trial.seed
    assert plan.trials[3].label == "num_prompts=2 seed 1"


@pytest.mark.parametrize(
    ("factors", "settings"),
    [
        # Gamma and a weight without their term
        ({f"{CONTRASTIVE}.threshold": [10, 20, 90]}, {f"{CONTRASTIVE}.enabled": False}),
        ({f"{CONTRASTIVE}.threshold": [10, 20, 90]}, {f"{CONTRASTIVE}.weight": 0}),
        ({f"{SELECTION}.tau_g": [0.1, 1, 10]}, {f"{SELECTION}.enabled": False}),
        ({f"{SELECTION}.tau_s": [0.1, 1, 10]}, {f"{SELECTION}.weight": 0.0}),
        ({f"{FUSION}.weight": [0.5, 2]}, {f"{FUSION}.enabled": False}),
        # with one prompt there is nothing to select
        ({f"{SELECTION}.tau_g": [0.1, 1, 10]}, {K: 1}),
        ({f"{SELECTION}.enabled": [True, False], f"{CONTRASTIVE}.enabled": [True, False]}, {K: 1}),
        ({f"{CONTRASTIVE}.threshold": [10, 90], f"{SELECTION}.weight": [0, 5]}, {K: 1}),
        # an integer where a float is meant
        ({f"{CONTRASTIVE}.threshold": [20, 20.0]}, {}),
        # how the arithmetic is laid out
        ({"compute.prompts_per_pass": [None, 1, 2], "compute.threads": [None, 2]}, {}),
        ({"compute.micro_batch_size": [None, 1]}, {}),
    ],
)
def test_cells_that_compute_the_same_are_one_trial(
    plan_of: Expand, factors: dict[str, list[Any]], settings: dict[str, Any]
) -> None:
    plan = plan_of(factors, **settings)
    assert len(plan.trials) == len(plan.cells)
    assert len(plan.distinct) == 1


def test_a_weight_of_zero_is_the_term_turned_off(plan_of: Expand) -> None:
    off = plan_of({K: [2]}, **{f"{SELECTION}.enabled": False})
    weightless = plan_of({K: [2]}, **{f"{SELECTION}.weight": 0})
    assert one_key(off) == one_key(weightless) != one_key(plan_of({K: [2]}))


@pytest.mark.parametrize(
    ("path", "levels"),
    [
        (K, [1, 2, 4]),
        (f"{CONTRASTIVE}.threshold", [10, 20, 90]),
        (f"{SELECTION}.tau_g", [0.5, 1]),
        (f"{SELECTION}.enabled", [True, False]),
        (f"{FUSION}.weight", [0, 1, 2]),
        ("prompts.prompt_length", [2, 4]),
        ("optim.learning_rate", [0.01, 0.02]),
        ("optim.batch_size", [4, 8]),
        ("optim.max_steps", [6, 7]),
        ("data.max_tokens", [64, 96]),
        ("data.split_seed", [0, 1]),
        ("data.max_test_responses", [12, None]),
        ("data.test", ["sample:valid", "sample:train"]),
        ("evaluation.max_new_tokens", [6, 7]),
        ("backbone.precision", ["float32", "bfloat16"]),
    ],
)
def test_what_changes_a_number_changes_the_key(plan_of: Expand, path: str, levels: list[Any]) -> None:
    assert len(plan_of({path: levels}).distinct) == len(levels)


def test_seeds_are_trials_of_their_own_and_paired_across_cells(plan_of: Expand) -> None:
    plan = plan_of({f"{SELECTION}.tau_g": [0.5, 1.0]}, seeds=3, **{K: 1})
    assert len(plan.distinct) == 3
    by_cell = [[trial.key for trial in plan.trials if trial.cell == cell] for cell in plan.cells]
    assert by_cell[0] == by_cell[1]


def test_the_device_is_part_of_the_key(plan_of: Expand) -> None:
    plan = plan_of({K: [2]})
    on_gpu = expand(plan.sweep, scale="full", device_type="cuda", settings={})
    assert on_gpu.trials[0].config == plan.trials[0].config
    assert one_key(on_gpu) != one_key(plan)


def test_a_key_knows_the_data_by_their_content_and_not_by_their_path(plan_of: Expand, tmp_path: Path) -> None:
    lines = PROJECT.joinpath("spt_core", "sample", "train.txt").read_text().splitlines(keepends=True)
    texts = {
        "a/train.txt": lines[:2000],
        "b/elsewhere.txt": lines[:2000],
        "c/train.txt": [*lines[:1999], lines[1999].replace("\t", "\tactually ")],
    }
    keys = []
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text("".join(text))
        keys.append(one_key(plan_of({K: [2]}, data__train=str(path))))
    assert load(tmp_path / "a" / "train.txt").fingerprint != load(tmp_path / "c" / "train.txt").fingerprint
    assert keys[0] == keys[1] != keys[2]


def test_a_key_knows_the_model_by_its_content_and_not_by_its_path(
    plan_of: Expand, tiny_llama: Path, tmp_path: Path
) -> None:
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(tiny_llama, moved)
    shutil.copytree(tiny_llama, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    keys = [one_key(plan_of({K: [2]}, backbone__name=str(folder))) for folder in (tiny_llama, moved, other)]
    assert keys[0] == keys[1] != keys[2]


def test_another_version_of_the_numerics_is_another_trial(plan_of: Expand, monkeypatch: pytest.MonkeyPatch) -> None:
    before = one_key(plan_of({K: [2]}))
    monkeypatch.setattr("sweeps.engine.plan.trial.NUMERICS_VERSION", 1_000_000)
    assert one_key(plan_of({K: [2]})) != before


def test_what_runs_is_the_canonical_config_with_the_layout_that_was_asked_for(plan_of: Expand) -> None:
    plan = plan_of({K: [1, 2]}, compute__threads=2, **{f"{CONTRASTIVE}.threshold": 55})
    alone, pair = (trial.config for trial in plan.trials)
    assert not alone.losses.contrastive.enabled
    assert pair.losses.contrastive.threshold == 55
    assert alone.compute.threads == pair.compute.threads == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({K: 3}, r"--set prompts\.num_prompts: it is a factor of some_sweep, which varies it; drop the setting"),
        ({"seed": 3}, r"--set seed: a sweep runs paired seeds 0, 1, \.\.\.; say how many with --seeds"),
        ({"optim.learning_rates": 1}, r"unknown field 'optim\.learning_rates': did you mean optim\.learning_rate"),
        ({"optim": 1}, r"'optim' is a group of fields: set one of optim\.learning_rate"),
        ({f"{CONTRASTIVE}.threshold": 300}, r"losses\.contrastive\.threshold = 300: it should be .* 100"),
        ({"backbone.precision": "float16"}, r"backbone\.precision = 'float16' on a CPU: use 'auto'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(plan_of: Expand, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(**settings)


def test_fewer_than_one_seed_is_refused(plan_of: Expand) -> None:
    with pytest.raises(ValueError, match=r"--seeds 0: it should be at least 1"):
        expand(plan_of().sweep, scale="full", device_type="cpu", seeds=0)


def test_the_sweep_id_is_that_of_the_set_of_trials(plan_of: Expand) -> None:
    sweep_id = plan_of().sweep_id
    assert sweep_id.startswith("some_sweep-full-")
    assert plan_of().sweep_id == sweep_id
    assert plan_of({K: [4, 1, 2]}).sweep_id == sweep_id
    assert plan_of(compute__threads=3).sweep_id == sweep_id
    others = [plan_of({K: [1, 2]}), plan_of(seeds=2), plan_of(optim__learning_rate=0.5)]
    assert len({sweep_id, *(plan.sweep_id for plan in others)}) == 4


@pytest.mark.parametrize(("seeds", "smallest"), [(1, 1.0), (2, 0.5), (3, 0.25), (6, 0.03125)])
def test_the_smallest_p_is_that_of_all_seeds_agreeing(plan_of: Expand, seeds: int, smallest: float) -> None:
    """Of 2^n equally likely assignments of signs, two are as extreme: all plus and all minus."""
    assert plan_of(seeds=seeds).smallest_p == smallest


def test_a_dev_split_that_leaves_nothing_to_train_on_is_refused(tiny_llama: Path) -> None:
    data = tiny_config(tiny_llama).data
    check_splits(data)
    with pytest.raises(ValueError, match=r"^data\.dev_dialogues: expected 1 to \d+; got 100000"):
        check_splits(data.model_copy(update={"dev_dialogues": 100_000}))


def test_a_large_plan_asks_for_data_and_model_once(plan_of: Expand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads files or package metadata, which took most of the time of a plan of thousands of cells."""
    asked: list[str] = []
    for where in ("weights.resolve", "importlib.metadata.version", "_data_fingerprints"):

        def counted(*args: Any, original: Callable[..., Any], where: str, **options: Any) -> Any:
            asked.append(where)
            return original(*args, **options)

        owner, _, name = f"sweeps.engine.plan.trial.{where}".rpartition(".")
        original = getattr(pkgutil.resolve_name(owner), name)
        monkeypatch.setattr(f"{owner}.{name}", functools.partial(counted, original=original, where=where))
    plan = plan_of({K: [2, 4], "optim.learning_rate": [0.01, 0.02, 0.03], "compute.threads": [1, 2]}, seeds=2)
    assert len(plan.trials) == 24
    assert len(plan.distinct) == 12
    assert sorted(asked) == ["_data_fingerprints", *["importlib.metadata.version"] * 2, "weights.resolve"]
    assert plan.distinct is plan.distinct


@pytest.mark.parametrize("scale", ["demo", "full"])
@pytest.mark.parametrize("path", sorted((PROJECT / "sweeps").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_question_has_a_plan(path: Path, scale: str, tiny_llama: Path) -> None:
    module = runpy.run_path(str(path))
    question, sweep = module["__doc__"], module["SWEEP"]
    assert question.partition("\n")[0].endswith("?")
    assert "Prediction" in question
    assert sweep.name == path.stem
    plan = expand(sweep, scale=scale, device_type="cpu", settings={"backbone.name": str(tiny_llama)})
    assert sum(cell == sweep.baseline for cell in plan.cells) == 1
    assert len(plan.distinct) > 1 or plan.search
    assert all(set(plan.factors) >= set(cell) for cell in plan.cells)
