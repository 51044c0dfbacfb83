"""The similarity of contexts by embeddings, against transformers one text at a time, and the cache of embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from spt_core import text_similarity
from spt_core.metrics import BUNDLED_ENCODER, load_encoder
from spt_core.text_similarity import clear_caches, embedding_matrix, similarity_matrix
from tests.spt_core.texts import SENTENCES


@pytest.fixture
def encoded(minilm_folder: str, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The batches that are encoded in the test, which starts with empty caches."""
    batches: list[list[str]] = []

    class Recording:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer
            self.model_max_length = tokenizer.model_max_length

        def __call__(self, texts: list[str], **options: Any) -> Any:
            batches.append(texts)
            return self.tokenizer(texts, **options)

    def load(name: str, device: str) -> tuple[Any, Any]:
        tokenizer, model = load_encoder(name, device)
        return Recording(tokenizer), model

    monkeypatch.setattr(text_similarity, "load_encoder", load)
    clear_caches()
    return batches


def test_it_is_the_cosine_of_mean_hidden_states_computed_one_text_at_a_time(minilm_folder: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
    model = AutoModel.from_pretrained(minilm_folder, dtype=torch.float32).eval()
    means = []
    for text in SENTENCES:
        ids = tokenizer.encode(text, return_tensors="pt")
        with torch.no_grad():
            means.append(model(input_ids=ids).last_hidden_state[0].mean(0))
    cosine_BB = torch.tensor([[functional.cosine_similarity(a, b, dim=0).item() for b in means] for a in means])
    assert cosine_BB.min() < 0  # so that the clamp has an effect
    clear_caches()
    torch.testing.assert_close(embedding_matrix(SENTENCES), 100 * cosine_BB.clamp(0), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("minilm_folder")
def test_an_embedding_does_not_depend_on_its_batch() -> None:
    clear_caches()
    together_BB = embedding_matrix([f"{i} {text}" for i in range(9) for text in SENTENCES])[:5, :5]
    clear_caches()
    alone_BB = embedding_matrix([f"0 {text}" for text in SENTENCES[:2]])
    torch.testing.assert_close(together_BB[:2, :2], alone_BB, rtol=0, atol=1e-4)
    clear_caches()
    embedding_matrix([f"0 {SENTENCES[0]}"])
    embedding_matrix([f"0 {SENTENCES[4]}"])
    apart_BB = embedding_matrix([f"0 {text}" for text in SENTENCES])
    torch.testing.assert_close(together_BB, apart_BB, rtol=0, atol=1e-4)


def test_a_text_is_encoded_once(encoded: list[list[str]]) -> None:
    first_BB = embedding_matrix(["hi", "hello there", "hi"])
    assert sorted(encoded[0]) == ["hello there", "hi"]
    again_BB = embedding_matrix(["hello there", "good morning", "hi"])
    assert encoded[1:] == [["good morning"]]
    assert torch.equal(again_BB[[2, 0]][:, [2, 0]], first_BB[:2, :2])
    embedding_matrix(["hi", "good morning"])
    assert len(encoded) == 2


def test_each_encoder_has_its_own_cache(minilm_folder: str, encoded: list[list[str]]) -> None:
    bundled_BB = embedding_matrix(["hi", "hello"])
    assert torch.equal(embedding_matrix(["hi", "hello"], minilm_folder), bundled_BB)
    assert encoded == [["hi", "hello"], ["hi", "hello"]]


def test_the_least_recently_used_embedding_is_dropped_first(
    encoded: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_similarity, "CACHED_EMBEDDINGS", 2)
    assert embedding_matrix(["a", "b", "c"]).shape == (3, 3)  # more than the cache holds
    embedding_matrix(["b"])
    embedding_matrix(["d"])
    embedding_matrix(["b", "c"])
    assert encoded == [["a", "b", "c"], ["d"], ["c"]]


def test_many_texts_are_encoded_in_batches_of_like_length(encoded: list[list[str]]) -> None:
    texts = ["hi " * (1 + i * 7 % 50) for i in range(50)]
    embedding_matrix(texts)
    assert [len(batch) for batch in encoded] == [32, 18]
    assert [text for batch in encoded for text in batch] == sorted(texts, key=len)


@pytest.mark.usefixtures("minilm_folder")
def test_a_text_that_is_too_long_for_the_encoder_is_cut_at_the_end() -> None:
    long = "dog " * 600
    similarity_BB = embedding_matrix([long, f"{long} cat", f"cat {long}"])
    assert similarity_BB[0, 1] == 100
    assert similarity_BB[0, 2] < 99.999


@pytest.mark.usefixtures("minilm_folder")
def test_embeddings_are_float32_and_without_gradient_in_any_context() -> None:
    clear_caches()
    plain_BB = embedding_matrix(SENTENCES)
    clear_caches()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        surrounded_BB = embedding_matrix(SENTENCES)
    assert torch.equal(surrounded_BB, plain_BB)
    assert not surrounded_BB.requires_grad


def test_an_embedding_may_name_its_encoder(minilm_folder: str) -> None:
    expected_BB = embedding_matrix(SENTENCES)
    for measure in ("embedding", f"embedding:{BUNDLED_ENCODER}", f"embedding:{minilm_folder}"):
        assert torch.equal(similarity_matrix(SENTENCES, measure=measure), expected_BB)


def test_an_unknown_bundled_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'bundled:bert' is not bundled.*'bundled:minilm-l6'"):
        similarity_matrix(["hi"], measure="embedding:bundled:bert")
