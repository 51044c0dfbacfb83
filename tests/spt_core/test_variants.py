"""Variants of the method: a config field changes its own terms alone, and the released variant trains and resumes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spt_core import backbone as backbones
from spt_core import recipes
from spt_core.batching import collate
from spt_core.build import build
from spt_core.gradient import backward
from spt_core.training import fit
from tests.conftest import tiny_config
from tests.spt_core.gradients import examples_of_two_dialogues, terms_and_gradients


def test_the_released_choices_by_backbone(tiny_llama: Path) -> None:
    opt = recipes.as_released(recipes.opt_1_3b())
    llama = recipes.as_released(recipes.llama2_7b())
    assert (opt.losses.selection.weight, llama.losses.selection.weight) == (0.4, 1.0)
    assert (opt.losses.fusion.weight, llama.losses.fusion.weight) == (1.0, 1.0)
    assert (opt.data.train_eos, llama.data.train_eos) == (True, False)
    assert llama.backbone.name == "meta-llama/Llama-2-7b-chat-hf"
    assert recipes.as_released(tiny_config(tiny_llama)).key() != tiny_config(tiny_llama).key()


@pytest.mark.parametrize(
    ("setting", "value", "moved"),
    [
        ("retriever.projections", "shared", {"selection", "contrastive"}),
        ("retriever.reads", "sequence", {"selection", "contrastive"}),
        ("retriever.masked", False, {"selection", "contrastive"}),
        ("retriever.activation", "released_softplus", {"selection", "contrastive"}),
        ("retriever.activation", "none", {"selection", "contrastive"}),
        ("losses.soft_prompt.reduction", "mean", {"soft_prompt"}),
        ("losses.selection.direction", "scores_to_target", {"selection"}),
        ("losses.selection.tau_s", 0.1, {"selection"}),
        ("losses.selection.tau_g", 0.1, {"selection"}),
        ("losses.selection.nll", "sum", {"selection"}),
        ("losses.selection.target_noise", 0.5, {"selection"}),
        ("losses.fusion.of", "weighted_logits", {"fusion"}),
        ("losses.contrastive.scores", "raw", {"contrastive"}),
        ("losses.contrastive.text", "persona", {"contrastive"}),
        ("losses.contrastive.reduction", "sum", {"contrastive"}),
        ("losses.contrastive.group_size", 2, {"contrastive"}),
        ("losses.contrastive.threshold", 99.0, {"contrastive"}),
        ("data.train_eos", False, {"soft_prompt", "fusion", "selection"}),
    ],
)
def test_a_variant_moves_its_own_terms_and_no_other(
    tiny_llama: Path, setting: str, value: object, moved: set[str]
) -> None:
    config = tiny_config(tiny_llama, backbone__precision="float64", data__max_tokens=400)  # nothing is cut
    plain, _ = terms_and_gradients(config)
    varied, _ = terms_and_gradients(config.override({setting: value}))
    names = ("soft_prompt", "selection", "contrastive", "fusion")
    assert {name for name in names if varied[name] != pytest.approx(plain[name], rel=1e-12)} == moved
    assert config.override({setting: value}).key() != config.key()


@pytest.mark.parametrize("layout", [{"micro_batch_size": 1}, {"micro_batch_size": 3}, {"gradient_checkpointing": True}])
def test_the_layout_does_not_change_the_released_variant(tiny_model: Path, layout: dict[str, Any]) -> None:
    config = recipes.as_released(tiny_config(tiny_model, backbone__precision="float64"))
    config = config.override({"backbone.dropout": False})
    whole = terms_and_gradients(config)
    parted = terms_and_gradients(config.override({f"compute.{name}": value for name, value in layout.items()}))
    assert parted[0] == pytest.approx(whole[0], rel=1e-12)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parted[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_the_vocabulary_in_parts_gives_the_same_as_at_once(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tiny_llama, backbone__precision="float64", losses__fusion__of="weighted_logits")
    whole = terms_and_gradients(config)
    monkeypatch.setattr(backbones, "_LOGITS_AT_ONCE", 1)
    parted = terms_and_gradients(config)
    assert parted[0] == pytest.approx(whole[0], rel=1e-12)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parted[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_gradient_checkpointing_saves_less_and_gives_the_same_gradients(tiny_model: Path) -> None:
    saved: dict[bool, int] = {}
    found = {}
    for checkpointing in (False, True):
        config = tiny_config(tiny_model, compute__gradient_checkpointing=checkpointing)
        numbers: dict[int, int] = {}  # by storage, so that a tensor saved twice counts once

        def keep(tensor: Tensor, numbers: dict[int, int] = numbers) -> Tensor:
            numbers[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        model, _ = build(config, device="cpu")
        batch = collate(examples_of_two_dialogues(config))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.token_logp(batch, torch.arange(3).expand(len(batch), -1))
        saved[checkpointing] = sum(numbers.values())
        found[checkpointing] = terms_and_gradients(config)
    assert saved[True] < 0.6 * saved[False]
    assert found[True][0] == found[False][0]
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, rtol=1e-5, atol=1e-8)


def test_dropout_differs_by_prompt_and_step_and_keeps_the_random_state(tiny_opt: Path) -> None:
    config = tiny_config(tiny_opt, backbone__dropout=True, backbone__precision="float64")
    model, _ = build(config, device="cpu")
    batch = collate(examples_of_two_dialogues(config))
    with torch.no_grad():
        model.prompts.embedding_KLD[1:] = model.prompts.embedding_KLD[:1]
        state = torch.get_rng_state()
        with model.backbone.dropping_out(seed=3):
            dropped = model(batch).token_logp_BKR
        with model.backbone.dropping_out(seed=3):
            again = model(batch).token_logp_BKR
        plain = model(batch).token_logp_BKR
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(dropped, again)
    assert not torch.allclose(dropped[:, 0], dropped[:, 1])
    torch.testing.assert_close(plain[:, 0], plain[:, 1])
    first, second = (terms_and_gradients(config, step=step)[0] for step in (1, 2))
    assert first["soft_prompt"] != second["soft_prompt"]
    assert first == terms_and_gradients(config, step=1)[0]


def test_settings_that_need_the_whole_batch_are_refused_in_parts(tiny_opt: Path) -> None:
    for layout in ({"compute.micro_batch_size": 2}, {"compute.prompts_per_pass": 1}):
        with pytest.raises(ValueError, match=r"backbone.dropout .*unset compute.micro_batch_size"):
            tiny_config(tiny_opt).override({"backbone.dropout": True, **layout})
    with pytest.raises(ValueError, match=r"weighted_logits.*unset compute.prompts_per_pass"):
        tiny_config(tiny_opt).override({"losses.fusion.of": "weighted_logits", "compute.prompts_per_pass": 1})


def test_a_model_with_more_than_a_linear_head_is_refused(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tiny_llama, losses__fusion__of="weighted_logits")
    model, _ = build(config, device="cpu")
    monkeypatch.setattr(model.backbone, "_head_is_plain", None)
    whole = type(model.backbone.model).forward

    def soft_capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = whole(self, *args, **kwargs)
        output.logits = output.logits.tanh()
        return output

    monkeypatch.setattr(type(model.backbone.model), "forward", soft_capped)
    with pytest.raises(ValueError, match="more to its last hidden state"):
        backward(model, collate(examples_of_two_dialogues(config)), config=config)


def test_the_released_activation_is_not_monotone(tiny_llama: Path) -> None:
    model, _ = build(tiny_config(tiny_llama, retriever__activation="released_softplus"), device="cpu")
    below, above = model.activate(torch.tensor([0.1, 0.1001])).tolist()
    assert below == pytest.approx(0.131, abs=1e-3)
    assert above == pytest.approx(0.1001, abs=1e-6)


def test_without_a_mask_the_choice_depends_on_the_batch(tiny_llama: Path) -> None:
    """As in the released code, the scores of a context depend on the other rows of its batch at inference."""
    config = tiny_config(tiny_llama, retriever__masked=False)
    model, _ = build(config, device="cpu")
    examples = sorted(examples_of_two_dialogues(config), key=lambda example: len(example.context_ids))
    with torch.no_grad():
        alone = model.cosine(collate(examples[:1]))[0]
        together = model.cosine(collate(examples))[0]
        in_training = [model.cosine(collate(some), training=True)[0] for some in (examples[:1], examples)]
    assert not torch.allclose(alone, together, atol=1e-4)
    torch.testing.assert_close(*in_training, rtol=1e-6, atol=1e-6)  # in training every context is padded to max_tokens


def test_the_released_variant_trains_and_resumes_to_the_same_bits(tiny_opt: Path, tmp_path: Path) -> None:
    config = recipes.as_released(tiny_config(tiny_opt))
    whole = fit(config, device="cpu")

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(metrics: dict[str, float], folder: Path | None) -> None:
        if folder is not None and metrics["step"] == 3:
            shutil.copytree(folder, tmp_path / "kept")
            raise Stopped

    with pytest.raises(Stopped):
        fit(config, report=stop, device="cpu")
    resumed = fit(config, resume_from=tmp_path / "kept", device="cpu")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    assert resumed.metrics["dev/nll"] == whole.metrics["dev/nll"]
