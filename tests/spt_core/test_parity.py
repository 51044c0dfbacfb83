"""Golden parity: the whole objective and its gradients against an oracle written from the method's description.

The oracle takes one context and one prompt at a time, without padding or batches. It uses nothing of `spt_core` but the
tokens. It computes the paper's equations, or the released code's where the two differ.
"""

import functools
import itertools
import math
from pathlib import Path

import pytest
import torch
from sacrebleu import sentence_bleu
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from spt_core import recipes
from spt_core.batching import Example, collate
from spt_core.build import build
from spt_core.gradient import backward
from spt_core.model import SelectivePromptModel
from tests.conftest import tiny_config
from tests.spt_core.gradients import examples_of_two_dialogues


class Oracle:
    """The terms of the objective in float64, as functions of copies of the trained parameters."""

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
        """Logits of each response token, [R, V]."""
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
    examples = examples_of_two_dialogues(config)
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
