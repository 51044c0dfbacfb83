"""Scores of the model, what they depend on (invariants 1, 4, 5 and 7), and decoding."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoModelForCausalLM

from spt_core.batching import Batch, Example, collate
from spt_core.build import build
from spt_core.fields import PromptsConfig
from spt_core.model import SelectivePromptModel
from spt_core.prompts import initial_embedding
from spt_core.seeding import generator
from spt_core.splits import load_splits
from tests.conftest import tiny_config

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def made(tiny_model: Path) -> tuple[SelectivePromptModel, list[Example]]:
    config = tiny_config(tiny_model, data__max_tokens=400)
    model, tokenizer = build(config, device="cpu")
    return model, load_splits(config.data, tokenizer).dev


def widened(batch: Batch, left: int, right: int) -> Batch:
    """The same rows with more padding: masked columns of token 5."""
    ids_BT = F.pad(batch.token_ids_BT, (left, right), value=5)
    return Batch(ids_BT, F.pad(batch.mask_BT, (left, right)), batch.num_context + left, batch.examples)


def test_scores_are_those_of_a_plain_forward_of_each_row_and_prompt(
    made: tuple[SelectivePromptModel, list[Example]], tiny_model: Path
) -> None:
    model, examples = made
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    embedding = plain.get_input_embeddings()
    scores = model(collate(examples[:4]))
    for row, example in enumerate(examples[:4]):
        context_MD = embedding(torch.tensor(example.context_ids))
        everything_TD = embedding(torch.tensor(example.context_ids + example.response_ids))
        for k in range(model.num_prompts):
            prompt_LD = model.prompts.embedding_KLD[k]
            logits_TV = plain(inputs_embeds=torch.cat([prompt_LD, everything_TD]).unsqueeze(0)).logits[0]
            start = len(prompt_LD) + len(example.context_ids)
            expected = [logits_TV[start + r - 1].log_softmax(-1)[token] for r, token in enumerate(example.response_ids)]
            ours_R = scores.token_logp_BKR[row, k, : len(example.response_ids)]
            torch.testing.assert_close(ours_R, torch.stack(expected), **CLOSE)
            # Eq. 1 as the paper writes it: project each position, then average over length.
            v_context = model.retriever.context_projection(context_MD).mean(0)
            v_prompt = model.retriever.prompt_projection(prompt_LD).mean(0)
            cosine = F.cosine_similarity(v_context, v_prompt, dim=0)
            torch.testing.assert_close(scores.cosine_BK[row, k], cosine, **CLOSE)
            torch.testing.assert_close(scores.similarity_BK[row, k], torch.log1p(torch.exp(cosine)), **CLOSE)


@pytest.mark.parametrize(("left", "right"), [(1, 0), (0, 3), (9, 5)])
def test_padding_changes_no_score_and_no_choice(
    made: tuple[SelectivePromptModel, list[Example]], left: int, right: int
) -> None:
    model, examples = made
    batch = collate(examples[:5])
    with torch.no_grad():
        bare, padded = model(batch), model(widened(batch, left, right))
    num_response = batch.response_mask_BR.shape[1]
    kept = batch.response_mask_BR.bool().unsqueeze(1).expand_as(bare.token_logp_BKR)
    padded_BKR = padded.token_logp_BKR[:, :, :num_response]
    torch.testing.assert_close(padded_BKR[kept], bare.token_logp_BKR[kept], **CLOSE)
    assert torch.equal(padded.cosine_BK, bare.cosine_BK)
    assert torch.equal(padded.similarity_BK.argmax(-1), bare.similarity_BK.argmax(-1))


def test_other_rows_of_a_batch_change_no_score_and_no_choice(
    made: tuple[SelectivePromptModel, list[Example]],
) -> None:
    model, examples = made
    together_examples = sorted(examples, key=lambda example: example.num_tokens)[::5]
    assert together_examples[0].num_tokens < together_examples[-1].num_tokens
    with torch.no_grad():
        together = model(collate(together_examples))
        for row, example in enumerate(together_examples):
            alone = model(collate([example]))
            count = len(example.response_ids)
            torch.testing.assert_close(together.token_logp_BKR[row, :, :count], alone.token_logp_BKR[0], **CLOSE)
            torch.testing.assert_close(together.cosine_BK[row], alone.cosine_BK[0], rtol=1e-6, atol=1e-6)
            assert together.similarity_BK[row].argmax() == alone.similarity_BK[0].argmax()


def test_prompts_taken_in_parts_score_as_all_at_once(made: tuple[SelectivePromptModel, list[Example]]) -> None:
    model, examples = made
    batch = collate(examples[:4])
    with torch.no_grad():
        whole = model(batch).token_logp_BKR
        for k in range(model.num_prompts):
            part = model.token_logp(batch, torch.full((4, 1), k))
            torch.testing.assert_close(part[:, 0], whole[:, k], **CLOSE)


def test_each_row_decodes_under_its_own_prompt_as_if_alone(made: tuple[SelectivePromptModel, list[Example]]) -> None:
    model, examples = made
    chosen = torch.tensor([2, 0, 1, 2, 0])
    batch = collate(examples[:5])
    together = model.generate(batch, chosen, max_new_tokens=6, eos_id=1).tolist()
    for row, example in enumerate(examples[:5]):
        alone = model.generate(collate([example]), chosen[row : row + 1], max_new_tokens=6, eos_id=1)[0].tolist()
        length = min(len(alone), len(together[row]))
        assert together[row][:length] == alone[:length]
        assert all(token == 1 for token in together[row][length:])


def test_scores_depend_on_the_prompt(made: tuple[SelectivePromptModel, list[Example]]) -> None:
    model, examples = made
    with torch.no_grad():
        logp_BKR = model(collate(examples[:2])).token_logp_BKR
    assert (logp_BKR[:, 0] - logp_BKR[:, 1]).abs().max() > 1e-3


def start(num_prompts: int, *, seed: int, **settings: Any) -> torch.Tensor:
    config = PromptsConfig(num_prompts=num_prompts, prompt_length=3, **settings)
    return initial_embedding(
        config, vocabulary_VD=torch.randn(50, 8, generator=generator(0)), tokenizer=None, seed=seed
    )


def test_prompt_k_starts_at_the_same_values_for_every_number_of_prompts() -> None:
    groups = [start(k, seed=5) for k in (1, 2, 8)]
    for group in groups:
        torch.testing.assert_close(group, groups[-1][: len(group)], rtol=0, atol=0)
    other = start(2, seed=6)
    assert not torch.equal(other, groups[1])
    assert not torch.equal(groups[1][0], groups[1][1])


def test_prompts_start_as_standard_gaussians() -> None:
    config = PromptsConfig(num_prompts=8, prompt_length=8)
    values = initial_embedding(config, vocabulary_VD=torch.zeros(5, 512), tokenizer=None, seed=0).flatten()
    assert values.mean().abs() < 0.02
    assert values.std().item() == pytest.approx(1, abs=0.02)


def test_the_backbone_is_no_part_of_the_adapter(made: tuple[SelectivePromptModel, list[Example]]) -> None:
    assert set(made[0].state_dict()) == {
        "prompts.embedding_KLD",
        "retriever.context_projection.weight",
        "retriever.context_projection.bias",
        "retriever.prompt_projection.weight",
        "retriever.prompt_projection.bias",
    }


def test_prompts_can_start_at_tokens(tiny_model: Path) -> None:
    configs = [tiny_config(tiny_model, prompts__init="vocabulary", prompts__num_prompts=k) for k in (2, 3)]
    few, many = (build(config, device="cpu")[0] for config in configs)
    vocabulary_VD = many.backbone.vocabulary
    assert torch.equal(many.prompts()[:2], few.prompts())
    rows = many.prompts().flatten(0, 1)
    assert all(any(torch.equal(row, token) for token in vocabulary_VD) for row in rows)
    assert len({tuple(prompt.flatten().tolist()) for prompt in many.prompts()}) == 3


def test_prompts_can_start_at_a_text(tiny_model: Path) -> None:
    text = "hello, i am a person who likes dogs and tea"
    config = tiny_config(tiny_model, prompts__init="text", prompts__init_text=text)
    model, tokenizer = build(config, device="cpu")
    ids = tokenizer(text)["input_ids"]
    for k, prompt_LD in enumerate(model.prompts()):
        for i, row in enumerate(prompt_LD):
            assert torch.equal(row, model.backbone.vocabulary[ids[(4 * k + i) % len(ids)]])
    with pytest.raises(ValueError, match=r"init_text = 'hi'.*the same start; use a longer text"):
        build(config.override({"prompts.init_text": "hi"}), device="cpu")
    with pytest.raises(ValueError, match="init_text is empty"):
        config.override({"prompts.init_text": " "})


def test_other_ways_to_decode_pass_through(made: tuple[SelectivePromptModel, list[Example]]) -> None:
    model, examples = made
    batch, chosen_4 = collate(examples[:4]), torch.zeros(4, dtype=torch.long)
    greedy = model.generate(batch, chosen_4, max_new_tokens=6, eos_id=1)
    beams = model.generate(batch, chosen_4, max_new_tokens=6, eos_id=1, num_beams=3)
    assert greedy.shape[0] == beams.shape[0] == 4
    assert not torch.equal(greedy[:, : beams.shape[1]], beams[:, : greedy.shape[1]])
