"""The hand-written Llama layers equal those of transformers, value and gradient, also in bfloat16."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from spt_core.batching import Batch, collate
from spt_core.build import build
from spt_core.cpu import attention, llama
from spt_core.gradient import backward
from spt_core.model import SelectivePromptModel
from spt_core.splits import load_splits
from spt_core.weights import BUNDLED_SMOLLM2
from tests.conftest import tiny_config


def prepared(folder: Path | str, **settings: Any) -> tuple[SelectivePromptModel, Batch]:
    config = tiny_config(Path(folder), **settings).override({"backbone.name": str(folder)})
    model, tokenizer = build(config, device="cpu")
    examples = sorted(load_splits(config.data, tokenizer).train, key=lambda example: example.num_tokens)
    return model, collate([examples[0], examples[len(examples) // 2], examples[-1]])


def value_and_gradient(model: SelectivePromptModel, batch: Batch, prompt_BC: Tensor) -> tuple[Tensor, Tensor]:
    model.zero_grad(set_to_none=True)
    logp_BCR = model.token_logp(batch, prompt_BC) * batch.response_mask_BR.unsqueeze(1)
    weights = torch.rand(logp_BCR.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (logp_BCR * weights.to(logp_BCR.dtype)).sum().backward()
    assert model.prompts.embedding_KLD.grad is not None
    return logp_BCR.detach(), model.prompts.embedding_KLD.grad


def by_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "is_supported", lambda model: False)


@pytest.mark.parametrize("prompt_BC", [[[0, 1, 2]] * 3, [[2], [0], [2]]], ids=["all", "chosen"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_value_and_gradient_are_those_of_transformers(
    prompt_BC: list[list[int]], checkpointing: bool, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "KEYS_A_BLOCK", 32)
    model, batch = prepared(tiny_llama, backbone__precision="float64", compute__gradient_checkpointing=checkpointing)
    assert batch.mask_BT.shape[1] > 2 * attention.KEYS_A_BLOCK
    for lengths in zip(*((len(each.context_ids), len(each.response_ids)) for each in batch.examples), strict=True):
        assert len(set(lengths)) > 1
    assert llama.is_supported(model.backbone.model)
    ours = value_and_gradient(model, batch, torch.tensor(prompt_BC))
    by_transformers(monkeypatch)
    expected = value_and_gradient(model, batch, torch.tensor(prompt_BC))
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-9, atol=1e-9)
    assert not torch.equal(ours[0], expected[0])  # equal bits would mean that both ran the same code


def test_the_gradient_is_that_of_finite_differences(tiny_llama: Path) -> None:
    """Finite differences share no backward pass with the layers."""
    model, batch = prepared(tiny_llama, backbone__precision="float64", data__max_tokens=24)
    prompt_BC = torch.tensor([[0, 1, 2]] * 3)
    _, gradient_KLD = value_and_gradient(model, batch, prompt_BC)
    direction_KLD = torch.randn(gradient_KLD.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.rand(
        3, 3, batch.response_mask_BR.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def along(distance: float) -> float:
        with torch.no_grad():
            model.prompts.embedding_KLD += distance * direction_KLD
            logp_BCR = model.token_logp(batch, prompt_BC) * batch.response_mask_BR.unsqueeze(1)
            model.prompts.embedding_KLD -= distance * direction_KLD
        return float((logp_BCR * weights).sum())

    difference = (along(1e-4) - along(-1e-4)) / 2e-4
    assert float((gradient_KLD * direction_KLD).sum()) == pytest.approx(difference, rel=1e-5)


def test_packed_sequences_are_split_by_run_and_cut_at_their_ends() -> None:
    mask_NT = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    rows, last = llama._runs(mask_NT.sum(-1), torch.tensor([1, 1, 3]))
    assert (rows.runs, last.runs) == (((2, 3), (1, 5)), ((2, 1), (1, 3)))
    packed_P = torch.arange(11)
    assert [each.tolist() for each in rows.split(packed_P)] == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8, 9, 10]]]
    assert last.of(packed_P).tolist() == [2, 5, 8, 9, 10]
    assert last.spread(last.of(packed_P), 11).tolist() == [0, 0, 2, 0, 0, 5, 0, 0, 8, 9, 10]
    assert rows.of(packed_P) is packed_P
    assert rows.spread(packed_P, 11) is packed_P


def test_a_sequence_does_not_depend_on_its_batch(tiny_llama: Path) -> None:
    """It depends neither on the length of the longest context nor on that of the longest response."""
    model, batch = prepared(tiny_llama, backbone__precision="float64")
    prompt_BC = torch.tensor([[0, 1, 2]] * 3)
    together = model.token_logp(batch, prompt_BC)
    for row, example in enumerate(batch.examples):
        alone = model.token_logp(collate([example]), prompt_BC[:1])
        torch.testing.assert_close(together[row, :, : alone.shape[2]], alone[0], rtol=1e-12, atol=1e-12)
        assert not together[row, :, alone.shape[2] :].any()


@pytest.mark.parametrize("num_rows", [0, 1, 33])
def test_a_product_in_float32_is_as_exact_as_torch_s(num_rows: int) -> None:
    source = torch.Generator().manual_seed(0)
    left, weight = torch.randn(num_rows, 48, generator=source), torch.randn(80, 48, generator=source)
    for given, by in ((left, weight), (left @ weight.T, weight.T)):
        found = llama._product(given, by)
        torch.testing.assert_close(found.double(), F.linear(given.double(), by.double()), rtol=1e-5, atol=1e-4)


def test_other_models_and_adapters_are_not_supported(tiny_llama: Path, tiny_opt: Path) -> None:
    assert not llama.is_supported(prepared(tiny_opt)[0].backbone.model)
    lora, batch = prepared(tiny_llama, method="lora")
    assert not llama.is_supported(lora.backbone.model)
    assert lora(batch).token_logp_BKR.isfinite().all()


def test_bfloat16_keeps_the_direction_of_each_prompt_s_gradient(tiny_llama: Path) -> None:
    exact, batch = prepared(tiny_llama)
    rounded, _ = prepared(tiny_llama, backbone__precision="bfloat16")
    prompt_BC = torch.tensor([[0, 1, 2]] * 3)
    expected, found = (value_and_gradient(model, batch, prompt_BC) for model in (exact, rounded))
    torch.testing.assert_close(found[0].sum(), expected[0].sum(), rtol=5e-3, atol=0)
    assert F.cosine_similarity(found[1].flatten(1), expected[1].flatten(1)).min() > 0.99


@pytest.mark.slow
def test_bfloat16_keeps_the_direction_of_the_gradient_of_a_real_model() -> None:
    settings = {"data__max_tokens": 48, "data__dev_dialogues": 2}
    prompt_BC = torch.tensor([[0, 1, 2]] * 3)
    exact, batch = prepared(BUNDLED_SMOLLM2, **settings)
    rounded, _ = prepared(BUNDLED_SMOLLM2, backbone__precision="bfloat16", **settings)
    _, expected = value_and_gradient(exact, batch, prompt_BC)
    _, found = value_and_gradient(rounded, batch, prompt_BC)
    assert F.cosine_similarity(found.flatten(1), expected.flatten(1)).min() > 0.97


def test_a_step_in_parts_has_the_same_gradient(tiny_llama: Path) -> None:
    gradients = []
    for parts in ({}, {"compute__prompts_per_pass": 1}, {"compute__micro_batch_size": 1}):
        config = tiny_config(tiny_llama, backbone__precision="float64", **parts)
        model, batch = prepared(tiny_llama, backbone__precision="float64", **parts)
        backward(model, batch, config=config)
        gradients.append(model.prompts.embedding_KLD.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)
