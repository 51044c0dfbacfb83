"""The frozen model: its log-probabilities, its generation and its precision."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from spt_core import backbone
from spt_core.backbone import Backbone, positions, resolve_precision
from spt_core.fields import BackboneConfig
from spt_core.weights import resolve


def load(folder: Path) -> Backbone:
    return backbone.load(resolve(BackboneConfig(name=str(folder))), precision="float32", device="cpu")


def test_response_logp_equals_a_plain_forward_without_padding(tiny_model: Path) -> None:
    ours, plain = load(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    token_ids_1T = torch.randint(2, 400, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits_1TV = plain(input_ids=token_ids_1T).logits
        logp_1R = ours.response_logp(ours.embed(token_ids_1T), torch.ones(1, 12), token_ids_1T[:, -5:])
    expected = [logits_1TV[0, t - 1].log_softmax(-1)[token_ids_1T[0, t]] for t in range(7, 12)]
    torch.testing.assert_close(logp_1R[0], torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_masked_columns_inside_a_text_change_nothing(tiny_model: Path) -> None:
    ours = load(tiny_model)
    token_ids_1T = torch.randint(2, 400, (1, 10), generator=torch.Generator().manual_seed(1))
    embedded_1TD = ours.embed(token_ids_1T)
    hole_1PD = torch.full((1, 4, embedded_1TD.shape[2]), 7.0)
    holed_1TD = torch.cat([embedded_1TD[:, :3], hole_1PD, embedded_1TD[:, 3:]], dim=1)
    mask_1T = torch.tensor([[1] * 3 + [0] * 4 + [1] * 7])
    response_1R = token_ids_1T[:, -4:]
    with torch.no_grad():
        whole = ours.response_logp(embedded_1TD, torch.ones(1, 10), response_1R)
        holed = ours.response_logp(holed_1TD, mask_1T, response_1R)
    torch.testing.assert_close(holed, whole, rtol=1e-5, atol=1e-5)


def test_generation_is_the_argmax_step_by_step(tiny_model: Path) -> None:
    ours, plain = load(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    token_ids_1T = torch.randint(2, 400, (1, 9), generator=torch.Generator().manual_seed(2))
    expected, sequence = [], token_ids_1T
    with torch.no_grad():
        for _ in range(6):
            token = plain(input_ids=sequence).logits[0, -1].argmax()
            expected.append(int(token))
            if int(token) == 1:
                break
            sequence = torch.cat([sequence, token.view(1, 1)], dim=1)
    generated = ours.generate(ours.embed(token_ids_1T), torch.ones(1, 9), max_new_tokens=6, eos_id=1)
    assert generated[0].tolist()[: len(expected)] == expected


def test_positions_count_attended_columns() -> None:
    mask_NT = torch.tensor([[1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 0]])
    assert positions(mask_NT).tolist() == [[0, 1, 1, 1, 2, 3], [0, 0, 0, 1, 2, 2]]


def test_the_backbone_stays_frozen_and_in_eval_mode(tiny_opt: Path) -> None:
    ours = load(tiny_opt)
    ours.train()
    assert not any(module.training for module in ours.modules())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize(("asked", "device", "given"), [("float32", "cpu", "float32"), ("bfloat16", "cpu", "bfloat16")])
def test_an_explicit_precision_is_used(asked: str, device: str, given: str) -> None:
    assert resolve_precision(asked, device) == given


@pytest.mark.parametrize(("native", "given"), [(True, "bfloat16"), (False, "float16")])
def test_auto_on_cuda_is_bfloat16_only_if_it_is_native(
    native: bool, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: asked.append(options) or native)
    assert resolve_precision("auto", "cuda") == given
    assert asked == [{"including_emulation": False}]


@pytest.mark.parametrize(("native", "given"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_a_cpu(native: bool, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert resolve_precision("auto", "cpu") == given


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone\.precision = 'float16' on a CPU: use 'auto'"):
        resolve_precision("float16", "cpu")


def test_bfloat16_is_close_to_float32(tiny_llama: Path) -> None:
    source = resolve(BackboneConfig(name=str(tiny_llama)))
    token_ids = torch.randint(2, 400, (4, 20), generator=torch.Generator().manual_seed(3))
    nll = []
    for precision in ("float32", "bfloat16"):
        ours = backbone.load(source, precision=precision, device="cpu")
        with torch.no_grad():
            nll.append(float(-ours.response_logp(ours.embed(token_ids), torch.ones(4, 20), token_ids[:, -6:]).mean()))
    assert nll[0] == pytest.approx(nll[1], rel=5e-3)
    assert nll[0] != nll[1]
