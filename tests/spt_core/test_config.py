"""The config as a value: invalid settings are refused, the canonical form, and the key."""

import pytest

from spt_core import recipes
from spt_core.config import TrialConfig, flatten, parse

BASE = TrialConfig()
OFF = {"losses.contrastive.enabled": False}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompts.num_prompts": 0}, ["prompts.num_prompts = 0", "greater than or equal to 1"]),
        ({"losses.contrastive.threshold": 300}, ["losses.contrastive.threshold = 300", "less than or equal to 100"]),
        ({"losses.selection.tau_g": 0}, ["losses.selection.tau_g = 0", "greater than 0"]),
        ({"optim.learning_rate": "fast"}, ["optim.learning_rate = 'fast'", "number"]),
        ({"optim.learning_rate": float("nan")}, ["optim.learning_rate", "finite"]),
        ({"backbone.precision": "int8"}, ["backbone.precision = 'int8'", "bfloat16"]),
        ({"learning_rate": 1}, ["unknown field 'learning_rate'", "optim.learning_rate"]),
        ({"optim.learning_rte": 1}, ["unknown field 'optim.learning_rte'", "optim.learning_rate"]),
        ({"losses.selection": 1}, ["is a group of fields", "losses.selection.tau_g"]),
        ({"losses.soft_prompt.weight": 0, "losses.fusion.enabled": False}, ["nothing would train the prompts"]),
    ],
)
def test_invalid_settings_are_refused_with_field_value_and_remedy(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the words are checked below)
        BASE.override(values)
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_parse_refuses_unknown_fields() -> None:
    with pytest.raises(ValueError, match=r"unknown field 'optim\.momentum'"):
        parse({"optim": {"momentum": 0.9}})


def test_override_changes_what_it_names_and_nothing_else() -> None:
    changed = flatten(BASE.override({"losses.selection.tau_g": 2.0, "seed": 7}))
    assert {path for path, value in flatten(BASE).items() if changed[path] != value} == {
        "losses.selection.tau_g",
        "seed",
    }


def test_a_config_is_read_back_from_its_json() -> None:
    config = recipes.llama2_7b().override({"data.max_dev_responses": 3})
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"losses.fusion.weight": 0}, {"losses.fusion.enabled": False}),
        ({**OFF, "losses.contrastive.threshold": 40}, OFF),
        (
            {"losses.selection.enabled": False, "losses.selection.tau_g": 3},
            {"losses.selection.weight": 0, "losses.selection.tau_s": 2},
        ),
        ({"prompts.num_prompts": 1, "losses.selection.tau_g": 9}, {"prompts.num_prompts": 1, **OFF}),
        ({"prompts.num_prompts": 1, "losses.fusion.enabled": False}, {"prompts.num_prompts": 1}),
        ({"compute.prompts_per_pass": 1, "compute.micro_batch_size": 2, "compute.threads": 1}, {}),
        ({"data.train": "elsewhere.txt", "backbone.name": "a/copy", "backbone.precision": "float32"}, {}),
    ],
)
def test_configs_that_compute_the_same_have_the_same_key(first: dict[str, object], second: dict[str, object]) -> None:
    assert BASE.override(first).key(data="d") == BASE.override(second).key(data="d")


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"prompts.num_prompts": 2},
        {"losses.contrastive.threshold": 40},
        {"losses.selection.tau_g": 2},
        {"losses.fusion.weight": 0.5},
        {"optim.max_steps": 5},
        {"evaluation.max_new_tokens": 8},
        {"data.split_seed": 1},
    ],
)
def test_what_can_change_a_result_changes_the_key(values: dict[str, object]) -> None:
    assert BASE.override(values).key(data="d") != BASE.key(data="d")


def test_identity_is_part_of_the_key() -> None:
    assert BASE.key(data="one") != BASE.key(data="two")


def test_the_canonical_form_is_idempotent() -> None:
    for values in ({}, {"prompts.num_prompts": 1}, OFF):
        canonical = BASE.override(values).canonical()
        assert canonical.canonical() == canonical


@pytest.mark.parametrize(
    ("recipe", "length", "rate", "epochs"),
    [("opt_125m", 8, 0.01, 15), ("opt_1_3b", 8, 0.01, 1), ("opt_2_7b", 8, 0.001, 1), ("llama2_7b", 1, 0.01, 1)],
)
def test_recipes_have_the_values_of_table_6(recipe: str, length: int, rate: float, epochs: int) -> None:
    config = recipes.RECIPES[recipe]()
    assert (config.prompts.num_prompts, config.prompts.prompt_length) == (4, length)
    assert (config.optim.learning_rate, config.optim.epochs) == (rate, epochs)
    assert config.losses.selection.tau_g == 1.0
    terms = (config.losses.soft_prompt, config.losses.contrastive, config.losses.selection, config.losses.fusion)
    assert all(term.enabled and term.weight == 1.0 for term in terms)


def test_options_of_generation_are_one_field() -> None:
    config = TrialConfig().override({"evaluation.generation": {"num_beams": 4}})
    assert config.evaluation.generation == {"num_beams": 4}
    assert config.key() != TrialConfig().key()
    again = config.override({"evaluation.generation": {"num_beams": 2}})
    assert again.evaluation.generation == {"num_beams": 2}


def test_choosing_by_bertscore_needs_an_encoder() -> None:
    with pytest.raises(ValueError, match="bert_encoder is None: name an encoder"):
        TrialConfig().override({"evaluation.select_by": "bert_f1", "evaluation.bert_encoder": None})
