"""Tiny random models with a real tokenizer, made once a session, so that tests run in seconds without a network."""

import signal
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from spt_core.config import TrialConfig
from spt_core.conversations import load

PROJECT = Path(__file__).parents[1]
CONVAI2 = PROJECT.parent / "shared" / "data" / "convai2"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A background shell ignores SIGINT, and the commands that tests stop by SIGINT would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens, trained on the sample set."""
    texts = [f"Q: {turn.query} R: {turn.response}" for c in load("sample:valid")[:40] for turn in c.turns]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>")


def _saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama: D = 32, two layers, grouped-query attention, untied head."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # at the usual 0.02 a random model hardly depends on its prompts
        bos_token_id=0,
        eos_token_id=1,
    )
    return _saved(LlamaForCausalLM(config), tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random OPT with dropout, learned positions, and embeddings narrower than its layers."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=400,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        init_std=0.3,
        dropout=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return _saved(OPTForCausalLM(config), tmp_path_factory.mktemp("tiny-opt"))


@pytest.fixture(params=["tiny_llama", "tiny_opt"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """Each architecture in turn."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def tiny_config(folder: Path, **settings: object) -> TrialConfig:
    """A config of a trial of a few seconds, in float32; `settings` are config fields with `__` in place of the dot."""
    return TrialConfig().override(
        {
            "backbone.name": str(folder),
            "backbone.precision": "float32",
            "prompts.num_prompts": 3,
            "prompts.prompt_length": 4,
            "optim.batch_size": 4,
            "optim.max_steps": 6,
            "data.dev_dialogues": 20,
            "data.max_dev_responses": 16,
            "data.max_test_responses": 12,
            "data.max_tokens": 96,
            "evaluation.every_steps": 3,
            "evaluation.batch_size": 6,
            "evaluation.max_new_tokens": 6,
            "evaluation.bert_encoder": None,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
    )
