"""Baselines behind the interface of SPT: prompt tuning, LoRA, in-context learning, and replies of a server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from spt_core import backbone as backbones
from spt_core import checkpoint, endpoint, recipes
from spt_core.baselines import LoraModel, matched_rank, shown_examples
from spt_core.batching import collate
from spt_core.build import build
from spt_core.config import TrialConfig
from spt_core.evaluation import evaluate
from spt_core.fields import PromptsConfig
from spt_core.gradient import backward
from spt_core.splits import load_splits, prepare
from spt_core.training import fit
from tests.conftest import tiny_config


def test_prompt_tuning_is_spt_with_one_prompt(tiny_llama: Path) -> None:
    """It is the same trial: the same key and the same bits, for any settings that SPT alone uses."""
    spt = tiny_config(tiny_llama, prompts__num_prompts=4)
    one = spt.override({"prompts.num_prompts": 1, "losses.selection.tau_g": 0.3, "retriever.projections": "shared"})
    tuned = recipes.prompt_tuning(spt)
    assert tuned.key() == one.key() != spt.key()
    first, second = fit(tuned, device="cpu"), fit(one, device="cpu")
    assert torch.equal(first.model.prompts(), second.model.prompts())
    assert first.metrics["dev/nll"] == second.metrics["dev/nll"]
    assert recipes.prompt_tuning(spt, prompt_length=9).prompts == PromptsConfig(num_prompts=1, prompt_length=9)


def test_lora_starts_at_the_backbone_and_trains_its_updates_alone(tiny_model: Path) -> None:
    config = recipes.lora(tiny_config(tiny_model, optim__max_steps=8, optim__learning_rate=0.02))
    model, tokenizer = build(config, device="cpu")
    bare, _ = build(recipes.in_context(config), device="cpu")
    dev = prepare(config, tokenizer).dev
    batch = collate(dev[:4])
    prompt_41 = torch.zeros(4, 1, dtype=torch.long)
    with torch.no_grad():
        torch.testing.assert_close(model.token_logp(batch, prompt_41), bare.token_logp(batch, prompt_41))
    fitted = fit(config, device="cpu")
    assert isinstance(fitted.model, LoraModel)
    assert fitted.metrics["dev/nll"] < fitted.metrics["dev/nll_start"]
    trained = {id(parameter) for parameter in fitted.model.parameters()}
    frozen = {name: value for name, value in fitted.model.backbone.model.named_parameters() if id(value) not in trained}
    original = dict(bare.backbone.model.named_parameters())
    assert len(frozen) == len(original)
    for name, value in frozen.items():
        assert torch.equal(value, original[name.replace(".base_layer", "")])
    answer = evaluate(fitted.model, tokenizer, dev, config=config.evaluation, dev=dev)
    assert answer.metrics["test/nll"] == pytest.approx(fitted.metrics["dev/nll"], rel=1e-5)
    assert not any(name.startswith("routing/") for name in answer.metrics)


def test_a_lora_adapter_can_be_loaded(tiny_llama: Path, tmp_path: Path) -> None:
    config = recipes.lora(tiny_config(tiny_llama, optim__max_steps=2, optim__learning_rate=0.05))
    fitted = fit(config, device="cpu")
    checkpoint.save_adapter(tmp_path, tensors=fitted.model.state_dict(), config=config)
    read, tensors = checkpoint.load_adapter(tmp_path)
    again, tokenizer = build(read, device="cpu")
    batch = collate(prepare(read, tokenizer).dev[:3])
    prompt_31 = torch.zeros(3, 1, dtype=torch.long)
    with torch.no_grad():
        before = again.token_logp(batch, prompt_31)
        again.load_state_dict(tensors)
        after = again.token_logp(batch, prompt_31)
        assert torch.equal(after, fitted.model.token_logp(batch, prompt_31))
    assert not torch.allclose(before, after)


def test_a_trial_of_lora_does_not_change_the_shared_backbone(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama)
    spt, _ = build(config, device="cpu")
    lora, _ = build(recipes.lora(config), device="cpu")
    again, _ = build(config, device="cpu")
    assert again.backbone is spt.backbone
    assert lora.backbone is not spt.backbone
    assert not any("lora" in name for name, _ in spt.backbone.named_parameters())


def test_the_matched_rank_is_the_nearest_in_parameters() -> None:
    prompts = PromptsConfig(num_prompts=4, prompt_length=8)
    width, shapes = 576, [(576, 576), (192, 576)] * 30
    of_spt = 4 * 8 * width + 2 * (width * width + width)
    of_rank_one = 30 * (576 + 576 + 192 + 576)
    rank = matched_rank(shapes, prompts, width=width)
    assert rank == 12
    assert min(range(1, 30), key=lambda r: abs(r * of_rank_one - of_spt)) == rank
    assert matched_rank(shapes, PromptsConfig(num_prompts=1, prompt_length=1), width=width) == 1


def test_unknown_layers_are_named(tiny_llama: Path) -> None:
    config = recipes.lora(tiny_config(tiny_llama)).override({"lora.target_modules": ["query"]})
    with pytest.raises(ValueError, match=r"lora.target_modules = \['query'\].*down_proj.*v_proj"):
        build(config, device="cpu")


def test_lora_with_parts_and_checkpointing_has_the_same_gradient(tiny_llama: Path) -> None:
    gradients = []
    for layout in ({}, {"compute__micro_batch_size": 1}, {"compute__gradient_checkpointing": True}):
        config = recipes.lora(tiny_config(tiny_llama, backbone__precision="float64", **layout)).canonical()
        config = config.override({name.replace("__", "."): value for name, value in layout.items()})
        model, tokenizer = build(config, device="cpu")
        with torch.no_grad():  # at the start half of the gradient is 0
            for k, parameter in enumerate(model.updates.parameters()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k)))
        backward(model, collate(prepare(config, tokenizer).train[:3]), config=config)
        gradients.append([p.grad for p in model.updates.parameters()])
    for other in gradients[1:]:
        for gradient, expected in zip(other, gradients[0], strict=True):
            assert expected is not None
            assert expected.abs().max() > 0
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_lora_trains_in_bfloat16_with_padding_that_sees_no_key(tiny_llama: Path) -> None:
    totals = {}
    for precision in ("float32", "bfloat16"):
        config = tiny_config(tiny_llama, method="lora", backbone__precision=precision)
        model, tokenizer = build(config, device="cpu")
        batch = collate(load_splits(config.data, tokenizer).train[:4])
        assert not batch.mask_BT.all()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
        for _ in range(3):
            optimizer.zero_grad()
            totals[precision] = backward(model, batch, config=config)["total"]
            optimizer.step()
    assert totals["bfloat16"] == pytest.approx(totals["float32"], rel=1e-2)


def test_in_context_reads_instruction_and_examples_and_trains_nothing(tiny_llama: Path) -> None:
    config = recipes.in_context(tiny_config(tiny_llama), num_examples=2)
    model, tokenizer = build(config, device="cpu")
    splits = prepare(config, tokenizer)
    plain = prepare(config.override({"method": "spt"}), tokenizer)
    shown = shown_examples(plain.train, num_examples=2, seed=config.seed)
    assert len({example.dialogue for example in shown}) == 2
    read = tokenizer.decode(splits.test[0].context_ids)
    assert read.startswith("<bos>" + config.in_context.instruction)
    for example in shown:
        assert f"R: {example.reference}" in read
    assert read.endswith(tokenizer.decode(plain.test[0].context_ids[1:]))
    assert splits.test[0].response_ids == plain.test[0].response_ids
    rows: list[dict[str, float]] = []
    fitted = fit(config, report=lambda row, _: rows.append(row), device="cpu")
    assert [row["step"] for row in rows] == [0]
    assert fitted.metrics["trainable_parameters"] == 0
    assert fitted.metrics["dev/nll"] == fitted.metrics["dev/nll_start"]
    assert model.num_prompts == 1


def test_what_a_method_does_not_use_is_not_in_its_key(tiny_llama: Path) -> None:
    base = tiny_config(tiny_llama)
    varied = {"losses.contrastive.threshold": 55, "retriever.masked": False, "losses.selection.enabled": False}
    for config in (recipes.lora(base, rank=4), recipes.in_context(base)):
        assert config.override(varied).key() == config.key()
    zero, few = recipes.in_context(base), recipes.in_context(base, num_examples=1)
    assert zero.override({"seed": 5, "optim.learning_rate": 0.5}).key() == zero.key()
    assert few.override({"seed": 5}).key() != few.key()
    assert recipes.lora(base).override({"prompts.num_prompts": 2}).key() != recipes.lora(base).key()  # another rank
    assert recipes.lora(base, rank=4).override({"prompts.num_prompts": 2}).key() == recipes.lora(base, rank=4).key()
    assert len({c.key() for c in (base, recipes.lora(base), zero, few)}) == 4


class _Server(BaseHTTPRequestHandler):
    """A server with the chat completions protocol: replies with the number of messages, or fails on request."""

    asked: ClassVar[list[dict[str, Any]]] = []
    failures: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.failures:
            self.send_error(self.failures.pop())
            return
        self.asked.append(body)
        content = f"  you said {len(body['messages'])} things: and more "
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    _Server.asked.clear()
    _Server.failures.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()
        thread.join()


def served(folder: Path, url: str, **settings: object) -> TrialConfig:
    config = recipes.in_context(tiny_config(folder, **settings), num_examples=1)
    return config.override({"in_context.endpoint": url, "in_context.endpoint_model": "some-model"})


def test_a_server_replies_instead_of_the_backbone(tiny_llama: Path, server: str) -> None:
    config = served(tiny_llama, server)
    shares: list[float] = []
    answer = endpoint.evaluate(config, on_progress=shares.append)
    assert len(answer.predictions) == len(_Server.asked) == config.data.max_test_responses
    assert shares[-1] == 1
    first = answer.predictions[0]
    assert first.raw_prediction == "you said 4 things: and more"
    assert (first.prediction, first.cut_by, first.nll) == ("you said 4 things", "colon", None)
    asked = _Server.asked[0]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("some-model", 0, 6)
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
    assert asked["messages"][0]["content"] == config.in_context.instruction
    assert all(request["messages"][-1]["content"].endswith("R:") for request in _Server.asked)
    assert answer.metrics["test/num_responses"] == 12
    assert "test/f1" in answer.metrics
    assert "test/nll" not in answer.metrics


def test_a_request_to_a_busy_server_is_retried(tiny_llama: Path, server: str) -> None:
    _Server.failures.extend([429, 500])
    assert len(endpoint.evaluate(served(tiny_llama, server)).predictions) == 12


def test_the_error_of_a_server_is_reported(tiny_llama: Path, server: str) -> None:
    _Server.failures.extend([401] * 12)
    with pytest.raises(ValueError, match=r"in_context.endpoint = 'http://127.*AuthenticationError.*OPENAI_API_KEY"):
        endpoint.evaluate(served(tiny_llama, server))


def test_an_endpoint_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoint_model is not"):
        TrialConfig().override({"in_context.endpoint": "http://127.0.0.1:1/v1"})


def test_the_backbone_is_not_loaded_for_a_server(
    tiny_llama: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(backbones, "load", refuse)
    monkeypatch.setattr(backbones, "load_own", refuse)
    assert endpoint.evaluate(served(tiny_llama, server)).predictions
