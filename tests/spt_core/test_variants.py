"""Golden parity: the whole objective and its gradients against an oracle written from the method's description.

The oracle takes one context and one prompt at a time, with no padding, no batch and nothing of `spt_core` but the
tokens: the paper's equations, and the released code's in their place where the two differ.
"""

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu import sentence_bleu
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from spt_core import backbone as backbones
from spt_core import recipes
from spt_core.batching import Example, collate
from spt_core.build import build
from spt_core.config import TrialConfig
from spt_core.gradient import backward
from spt_core.losses import selection_loss
from spt_core.model import SelectivePromptModel
from spt_core.splits import load_splits
from spt_core.training import fit
from tests.conftest import tiny_config

NUM_EXAMPLES = 4


def examples_of(config: TrialConfig) -> list[Example]:
    """Replies of two dialogues, so that some pairs share their persona and some do not."""
    train = load_splits(config.data, build(config, device="cpu")[1]).train
    first, other = train[0].dialogue, next(e.dialogue for e in train if e.dialogue != train[0].dialogue)
    return [e for e in train if e.dialogue == first][:2] + [e for e in train if e.dialogue == other][:2]


class Oracle:
    """The terms of the objective in float64, from leaves of its own."""

    def __init__(self, folder: Path, model: SelectivePromptModel, padding_id: int) -> None:
        self.lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval().requires_grad_(False)
        for norm in (module for module in self.lm.modules() if hasattr(module, "variance_epsilon")):
            norm.forward = functools.partial(self.normalise, norm)  # transformers' is in float32
        self.embed = self.lm.get_input_embeddings()
        self.leaves = {name: value.clone().double().requires_grad_() for name, value in model.named_parameters()}
        self.padding_id = padding_id

    @staticmethod
    def normalise(norm: nn.Module, rows: Tensor) -> Tensor:
        return norm.weight * rows / torch.sqrt((rows * rows).mean(-1, keepdim=True) + norm.variance_epsilon)

    @property
    def prompts(self) -> Tensor:
        return self.leaves["prompts.embedding_KLD"]

    def project(self, which: str, rows: Tensor) -> Tensor:
        name = f"retriever.{which}_projection"
        return rows @ self.leaves[f"{name}.weight"].T + self.leaves[f"{name}.bias"]

    def logits(self, example: Example, prompt: Tensor) -> Tensor:
        """Of each response token, [R, V]."""
        ids = torch.tensor(example.context_ids + example.response_ids)
        whole = self.lm(inputs_embeds=torch.cat([prompt, self.embed(ids)]).unsqueeze(0)).logits[0]
        before = len(prompt) + len(example.context_ids) - 1
        return whole[before : before + len(example.response_ids)]

    def paper(self, examples: list[Example]) -> dict[str, Tensor]:
        scores, nlls, fused, counted = [], [], [], []
        for example in examples:
            v_c = self.project("context", self.embed(torch.tensor(example.context_ids))).mean(0)
            v_sp = [self.project("prompt", prompt).mean(0) for prompt in self.prompts]
            cosines = torch.stack([(v_c @ v) / (v_c.norm() * v.norm()) for v in v_sp])
            scores.append(torch.log(1 + torch.exp(cosines)))
            probabilities = [torch.softmax(self.logits(example, prompt), -1) for prompt in self.prompts]
            places, tokens = range(len(example.response_ids)), list(example.response_ids)
            nlls.append(torch.stack([-p[places, tokens].log().sum() for p in probabilities]))
            fused.append(-(sum(probabilities) / len(probabilities))[places, tokens].log().sum())
            counted.append(len(tokens))
        terms = {"soft_prompt": (torch.stack(nlls).sum(0) / sum(counted)).sum()}
        terms["selection"] = self.kl(scores, [nll / count for nll, count in zip(nlls, counted, strict=True)])
        terms["contrastive"] = self.contrast(
            scores, [e.context for e in examples], list(itertools.combinations(range(len(examples)), 2)), 20.0
        )
        terms["fusion"] = torch.stack(fused).sum() / sum(counted)
        terms["total"] = sum(terms.values())
        return terms

    def released(
        self, examples: list[Example], *, max_tokens: int, weight: float, gamma: float = 20.0
    ) -> dict[str, Tensor]:
        padding = self.embed(torch.tensor([self.padding_id]))
        scores, nlls, fused, counted = [], [], [], []
        for example in examples:
            ids = torch.tensor(example.context_ids + example.response_ids)
            right_padded = torch.cat([self.embed(ids), padding.expand(max_tokens - len(ids), -1)])
            v_c = self.project("context", right_padded).mean(0)
            v_sp = [self.project("context", prompt).mean(0) for prompt in self.prompts]
            cosines = torch.stack([(v_c @ v) / (v_c.norm() * v.norm()) for v in v_sp])
            scores.append(nn.Softplus(beta=10, threshold=1)(cosines))
            logits = [self.logits(example, prompt) for prompt in self.prompts]
            places, tokens = range(len(example.response_ids)), list(example.response_ids)
            nlls.append(torch.stack([-one.log_softmax(-1)[places, tokens].sum() for one in logits]))
            mixed = sum(score * one for score, one in zip(scores[-1], logits, strict=True))
            fused.append(-mixed.log_softmax(-1)[places, tokens].mean())
            counted.append(len(tokens))
        terms = {"soft_prompt": torch.stack(nlls).sum() / (sum(counted) * len(self.prompts))}
        terms["selection"] = self.kl(scores, [nll / count for nll, count in zip(nlls, counted, strict=True)])
        within_a_gpu = [(i, i + 1) for i in range(0, len(examples) - 1, 2)]
        terms["contrastive"] = self.contrast(scores, [e.persona for e in examples], within_a_gpu, 20.0)
        terms["fusion"] = torch.stack(fused).mean()
        terms["total"] = terms["soft_prompt"] + weight * (terms["selection"] + terms["contrastive"]) + terms["fusion"]
        return terms

    @staticmethod
    def kl(scores: list[Tensor], nlls: list[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for score, nll in zip(scores, nlls, strict=True):
            weights = [math.exp(-float(one.detach())) for one in nll]
            target = [one / sum(weights) for one in weights]
            chosen = torch.exp(score) / torch.exp(score).sum()
            total = total + sum(t * (math.log(t) - torch.log(c)) for t, c in zip(target, chosen, strict=True))
        return total / len(scores)

    @staticmethod
    def contrast(scores: list[Tensor], texts: list[str], pairs: list[tuple[int, int]], gamma: float) -> Tensor:
        losses = []
        for i, j in pairs:
            cosine = (scores[i] @ scores[j]) / (scores[i].norm() * scores[j].norm())
            alike = sentence_bleu(texts[i], [texts[j]], use_effective_order=True).score > gamma
            losses.append(1 - cosine if alike else torch.clamp(cosine, min=0))
        return torch.stack(losses).mean()


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_every_term_and_gradient_equals_the_oracle(tiny_model: Path, variant: str) -> None:
    config = tiny_config(tiny_model, backbone__precision="float64")
    if variant == "released":
        config = recipes.as_released(config).override({"backbone.dropout": False})  # its masks are random
    model, tokenizer = build(config, device="cpu")
    examples = examples_of(config)
    padding_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    oracle = Oracle(tiny_model, model, padding_id)
    if variant == "paper":
        expected = oracle.paper(examples)
    else:
        is_opt = "opt" in str(tiny_model)
        assert config.data.train_eos == is_opt
        expected = oracle.released(examples, max_tokens=config.data.max_tokens, weight=0.4 if is_opt else 1.0)
    found = backward(model, collate(examples), config=config)
    for name, term in expected.items():
        assert found[name] == pytest.approx(float(term.detach()), rel=1e-9, abs=1e-12), name
    gradients = torch.autograd.grad(expected["total"], list(oracle.leaves.values()))
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_the_released_choices_are_those_of_the_method_s_page(tiny_llama: Path) -> None:
    opt = recipes.as_released(recipes.opt_1_3b())
    llama = recipes.as_released(recipes.llama2_7b())
    assert (opt.losses.selection.weight, llama.losses.selection.weight) == (0.4, 1.0)
    assert (opt.losses.fusion.weight, llama.losses.fusion.weight) == (1.0, 1.0)
    assert (opt.data.train_eos, llama.data.train_eos) == (True, False)
    assert llama.backbone.name == "meta-llama/Llama-2-7b-chat-hf"
    assert recipes.as_released(tiny_config(tiny_llama)).key() != tiny_config(tiny_llama).key()


def terms_and_gradients(config: TrialConfig, **options: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    model, _ = build(config, device="cpu")
    found = backward(model, collate(examples_of(config)), config=config, **options)
    return found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


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


def test_the_vocabulary_in_parts_is_the_vocabulary_whole(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tiny_llama, backbone__precision="float64", losses__fusion__of="weighted_logits")
    whole = terms_and_gradients(config)
    monkeypatch.setattr(backbones, "_LOGITS_AT_ONCE", 1)
    parted = terms_and_gradients(config)
    assert parted[0] == pytest.approx(whole[0], rel=1e-12)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parted[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_gradient_checkpointing_keeps_less_and_gives_the_same(tiny_model: Path) -> None:
    saved: dict[bool, int] = {}
    found = {}
    for checkpointing in (False, True):
        config = tiny_config(tiny_model, compute__gradient_checkpointing=checkpointing)
        numbers: dict[int, int] = {}  # what is kept twice is in memory once

        def keep(tensor: Tensor, numbers: dict[int, int] = numbers) -> Tensor:
            numbers[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        model, _ = build(config, device="cpu")
        batch = collate(examples_of(config))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.token_logp(batch, torch.arange(3).expand(NUM_EXAMPLES, -1))
        saved[checkpointing] = sum(numbers.values())
        found[checkpointing] = terms_and_gradients(config)
    assert saved[True] < 0.6 * saved[False]
    assert found[True][0] == found[False][0]
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, rtol=1e-5, atol=1e-8)


def test_dropout_differs_by_prompt_and_step_and_leaves_the_random_state_alone(tiny_opt: Path) -> None:
    config = tiny_config(tiny_opt, backbone__dropout=True, backbone__precision="float64")
    model, _ = build(config, device="cpu")
    batch = collate(examples_of(config))
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


def test_what_needs_the_whole_batch_is_refused_in_parts(tiny_opt: Path) -> None:
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
        backward(model, collate(examples_of(config)), config=config)


def test_the_target_with_noise_is_still_a_distribution() -> None:
    similarity_BK = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    nll_BK = torch.rand(5, 4, dtype=torch.float64)
    noise_BK = 10 * torch.randn(5, 4, dtype=torch.float64)
    loss = selection_loss(similarity_BK, nll_BK, tau_g=1.0, noise_BK=noise_BK)
    target_BK = torch.softmax(noise_BK - nll_BK, -1)
    expected = (target_BK * (target_BK.log() - similarity_BK.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(loss, expected)
    assert loss >= 0


def test_both_directions_of_the_divergence() -> None:
    similarity_BK, nll_BK = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    p, q = torch.softmax(-nll_BK / 0.5, -1), torch.softmax(similarity_BK / 2, -1)
    forward = selection_loss(similarity_BK, nll_BK, tau_g=0.5, tau_s=2.0)
    back = selection_loss(similarity_BK, nll_BK, tau_g=0.5, tau_s=2.0, direction="scores_to_target")
    torch.testing.assert_close(forward, (p * (p / q).log()).sum(-1).mean())
    torch.testing.assert_close(back, (q * (q / p).log()).sum(-1).mean())
    with pytest.raises(ValueError, match="direction = 'sideways'"):
        selection_loss(similarity_BK, nll_BK, tau_g=1.0, direction="sideways")


def test_the_released_activation_is_not_monotone(tiny_llama: Path) -> None:
    model, _ = build(tiny_config(tiny_llama, retriever__activation="released_softplus"), device="cpu")
    below, above = model.activate(torch.tensor([0.1, 0.1001])).tolist()
    assert below == pytest.approx(0.131, abs=1e-3)
    assert above == pytest.approx(0.1001, abs=1e-6)


def test_without_a_mask_the_choice_depends_on_the_batch(tiny_llama: Path) -> None:
    """What the released code does at inference, shown: the same context, other company, other scores."""
    config = tiny_config(tiny_llama, retriever__masked=False)
    model, _ = build(config, device="cpu")
    examples = sorted(examples_of(config), key=lambda example: len(example.context_ids))
    with torch.no_grad():
        alone = model.cosine(collate(examples[:1]))[0]
        together = model.cosine(collate(examples))[0]
        in_training = [model.cosine(collate(some), training=True)[0] for some in (examples[:1], examples)]
    assert not torch.allclose(alone, together, atol=1e-4)
    torch.testing.assert_close(*in_training, rtol=1e-6, atol=1e-6)  # there it is padded to max_tokens in any company


def test_the_released_variant_trains_and_goes_on_to_the_same_bits(tiny_opt: Path, tmp_path: Path) -> None:
    import shutil

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
