"""Talking to an adapter: in process, from the command line, and fetched from MLflow."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from spt_core import recipes
from spt_core.batching import collate, tokenise
from spt_core.build import build
from spt_core.chat import Chat
from spt_core.checkpoint import save_adapter
from spt_core.config import TrialConfig
from spt_core.dialogues import Conversation, Conversations, Turn
from sweeps.engine.cli.main import app
from tests.conftest import tiny_config


def saved(config: TrialConfig, folder: Path) -> Path:
    model, _ = build(config, device="cpu")
    save_adapter(folder, tensors=model.state_dict(), config=config)
    return folder


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    """In the folder of a trial, below an output folder."""
    return saved(tiny_config(tiny_llama), tmp_path / "runs" / "trials" / "abc" / "adapter")


def test_a_dialogue_is_the_context_that_training_would_have_seen(adapter: Path) -> None:
    talk = Chat(adapter, persona=["i have two dogs."])
    first = talk.say("hi, how are you?")
    talk.say("what do you do?")
    model, tokenizer = build(talk.config, device="cpu")
    turns = (Turn("hi, how are you?", first.text), Turn("what do you do?", "x"))
    whole = Conversations((Conversation("0", ("i have two dogs.",), turns),), "test")
    examples = tokenise(whole, tokenizer, max_tokens=talk.config.data.max_tokens)
    for example, turn in zip(examples, talk.turns, strict=True):
        batch = collate([example])
        tokens = model.generate(batch, model.select(batch), max_new_tokens=6, eos_id=1)
        expected = tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
        assert turn.response == expected.split(":")[0].split("\n")[0].strip()
    assert first.similarity == pytest.approx(model.activate(model.cosine(collate(examples[:1])))[0].tolist())
    assert first.prompt == max(range(3), key=lambda k: first.similarity[k])
    talk.clear()
    assert talk.turns == []
    assert talk.say("hi, how are you?") == first
    assert talk.persona == ("i have two dogs.",)


@pytest.mark.parametrize("method", ["lora", "in_context"])
def test_other_methods_talk_too(tiny_llama: Path, tmp_path: Path, method: str) -> None:
    config = tiny_config(tiny_llama)
    varied = recipes.lora(config) if method == "lora" else recipes.in_context(config, num_examples=1)
    reply = Chat(saved(varied, tmp_path / method)).say("hi")
    assert reply.prompt == 0
    assert len(reply.similarity) == 1  # there is nothing to choose


def test_the_command_says_once_and_names_the_prompt(adapter: Path) -> None:
    arguments = ["chat", "--adapter", str(adapter), "--persona", "i have two dogs."]
    shown = CliRunner().invoke(app, [*arguments, "--say", "hi, how are you?"])
    assert shown.exit_code == 0
    reply = Chat(adapter, persona=["i have two dogs."]).say("hi, how are you?")
    assert f"[prompt {reply.prompt + 1} of 3; similarity 1: {reply.similarity[0]:.3f}" in shown.stdout
    assert shown.stdout.startswith(reply.text or "(nothing)")
    as_json = CliRunner().invoke(app, [*arguments, "--json", "--say", "hi, how are you?", "--say", "and you?"])
    first, second = (json.loads(line) for line in as_json.stdout.splitlines())
    assert (first["text"], first["prompt"]) == (reply.text, reply.prompt)
    assert set(second) == {"text", "raw", "prompt", "similarity"}


def test_a_dialogue_on_the_terminal(adapter: Path) -> None:
    said = (
        "i like tea. i am a cook.\nhi\n/scores\nhi\n/nonsense\n/clear\n/persona i am old.\n/scores\nhi\n/exit\nunread\n"
    )
    result = CliRunner().invoke(app, ["chat", "--adapter", str(adapter)], input=said)
    assert result.exit_code == 0
    assert result.stdout.count("[prompt ") == 2
    assert result.stdout.count("/persona TEXT, /scores, /clear, /exit") == 2  # at the start, and for /nonsense
    ended = CliRunner().invoke(app, ["chat", "--adapter", str(adapter), "--persona", "i am old."], input="hi\n")
    assert ended.exit_code == 0
    assert ended.stdout.count("[prompt ") == 1


def test_a_trial_s_key_and_an_mlflow_run_lead_to_the_adapter(adapter: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    direct = CliRunner().invoke(app, ["chat", "--adapter", str(adapter), "--say", "hi"])
    by_key = CliRunner().invoke(app, ["chat", "--adapter", "abc", "--output", str(runs), "--say", "hi"])
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.create_experiment("k_sweep", artifact_location=(runs / "mlartifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(adapter), "adapter")
    by_run = CliRunner().invoke(app, ["chat", "--adapter", run, "--output", str(runs), "--say", "hi"])
    assert by_key.exit_code == by_run.exit_code == 0
    assert direct.stdout == by_key.stdout == by_run.stdout


def test_what_leads_nowhere_is_refused(tmp_path: Path, adapter: Path) -> None:
    result = CliRunner().invoke(app, ["chat", "--adapter", "nothing", "--output", str(tmp_path), "--say", "hi"])
    assert result.exit_code == 2
    assert "--adapter nothing: no folder with an adapter, no trial of that key" in result.stderr
    result = CliRunner().invoke(app, ["chat", "--adapter", str(adapter), "--json"])
    assert (result.exit_code, result.stderr.strip()) == (2, "error: --json: it goes with --say")
