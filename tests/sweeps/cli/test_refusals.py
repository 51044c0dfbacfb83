"""What the command line refuses, each in one line with the field and the remedy."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.engine.cli.main import app
from tests.sweeps.cli.sweep_commands import JOINT_SEARCH, K_SWEEP, Spt, write_sweep
from tests.sweeps.command_line import assert_refused, invoke

PERSONA, TURN = "1 your persona: i like tea.\n", "2 hello\thi there\n"


@pytest.mark.parametrize(
    ("arguments", "field", "remedy"),
    [
        (["--set", "optim.lerning_rate=1"], "unknown field 'optim.lerning_rate'", "did you mean optim.learning_rate"),
        (["--set", "learning_rate=1"], "unknown field 'learning_rate'", "did you mean optim.learning_rate?"),
        (["--set", "optim.learning_rate"], "--set optim.learning_rate", "FIELD=VALUE, for example"),
        (["--set", "optim.learning_rate=fast"], "optim.learning_rate = 'fast'", "it should be a valid number"),
        (["--set", "optim.learning_rate=NaN"], "optim.learning_rate = nan", "it should be a finite number"),
        (["--set", "losses.contrastive.threshold=300"], "losses.contrastive.threshold = 300", "less than or equal to"),
        (["--set", "losses.selection.tau_g=0"], "losses.selection.tau_g = 0", "it should be greater than 0"),
        (["--set", "prompts.num_prompts=0"], "--set prompts.num_prompts", "a factor of k_sweep, which varies it; drop"),
        (["--set", "seed=3"], "--set seed", "say how many with --seeds"),
        (["--set", "backbone.precision=float16"], "backbone.precision = 'float16' on a CPU", "use 'auto'"),
        (["--set", "data.dev_dialogues=9999"], "data.dev_dialogues", "expected 1 to "),
        (["--scale", "huge"], "--scale huge", "it should be one of tiny, demo, full, paper"),
        (["--seeds", "0"], "--seeds 0", "it should be at least 1"),
        (["--steps", "0"], "optim.max_steps = 0", "greater than or equal to 1"),
        (["--workers", "-1"], "--workers -1", "it should be 0 (in process) or more"),
        (["--workers", "2", "--set", "backbone.dropout=true"], "backbone.dropout with 2 workers", "use one"),
        (["--cpus-per-worker", "0"], "--cpus-per-worker 0", "it should be at least 1"),
        (["--concurrency", "0"], "--concurrency 0", "it should be at least 1"),
        (["--train", "nosuch.txt"], "nosuch.txt: there is no such file", "looked for /"),
        (["--train", "dialogues.csv"], "dialogues.csv", "a .txt (ParlAI) or .jsonl file"),
        (["--test", "sample:tset"], "sample:tset", "sample:valid"),
        (["--model", "bundled:gpt"], "backbone.name = 'bundled:gpt'", "bundled:smollm2-135m"),
        (["--tracking-uri", "http://127.0.0.1:9"], "--tracking-uri http://127.0.0.1:9", "mlflow server"),
        (["--tracking-uri", "ftp://somewhere"], "--tracking-uri ftp://somewhere", "sqlite:///mlflow.db"),
        (["--no-retune"], "--no-retune: k_sweep has no nuisance factors", "drop it"),
        (["--budget-hours", "0"], "--budget-hours 0", "above 0"),
        (["--price-per-hour", "-1"], "--price-per-hour -1", "above 0"),
        (["--study", "postgresql://me:secret@127.0.0.1:9/db"], "--study postgresql://127.0.0.1:9/db", "Give the URL"),
        (["--json"], "--json", "use it with --dry-run, or with spt plan"),
        (["--objective", "dev/f1"], "--objective", "k_sweep states its cells: drop them"),
        (["--trials", "3"], "--trials", "k_sweep states its cells: drop them"),
    ],
)
def test_an_invalid_option_is_refused_with_the_field_and_the_remedy(
    spt: Spt, arguments: list[str], field: str, remedy: str
) -> None:
    answer = spt(*arguments)
    assert_refused(answer, field, remedy)
    assert "secret" not in answer[2]


def test_a_gpu_that_is_not_there_is_refused(spt: Spt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert_refused(spt("--gpus-per-worker", "1"), "--gpus-per-worker 1: no GPU was found", "use --gpus-per-worker 0")


def test_a_search_for_a_test_metric_is_refused(spt: Spt) -> None:
    answer = spt("--objective", "test/f1", file=JOINT_SEARCH, command="plan")
    assert_refused(answer, "test/f1", "a search reads dev alone")


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (PERSONA + TURN + "4 what\tno\n", ":3", "expected number 3"),
        (PERSONA + "2 hello and no reply\n", ":2", "<utterance> TAB <reply>"),
        (PERSONA + TURN + "not a dialogue\n", ":3", "a number, a space and text"),
        ("", "", "at least one dialogue"),
    ],
)
def test_a_malformed_file_is_refused_with_the_line(
    spt: Spt, tmp_path: Path, text: str, line: str, expected: str
) -> None:
    path = tmp_path / "dialogues.txt"
    path.write_text(text)
    for option in ("--train", "--test"):
        assert_refused(spt(option, str(path)), f"error: {path}{line}: ", expected)


@pytest.mark.parametrize(
    ("factors", "field", "remedy"),
    [
        ("{'prompts.num_prompts': [1, 0]}", "prompts.num_prompts = 0", "greater than or equal to 1"),
        ("{'losses.contrastive.threshold': [20, 300]}", "losses.contrastive.threshold = 300", "less than or equal to"),
        ("{'prompts.num_prompt': [1, 2]}", "unknown field 'prompts.num_prompt'", "did you mean prompts.num_prompts"),
        ("{}", "Grid has no factors", "name at least one"),
    ],
)
def test_a_sweep_file_with_invalid_factors_is_refused(
    spt: Spt, tmp_path: Path, factors: str, field: str, remedy: str
) -> None:
    assert_refused(spt(file=write_sweep(tmp_path / "mine.py", factors)), field, remedy)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such sweep file; those of this project are in sweeps/"),
        ("'A question.'\n", "it defines no SWEEP; sweeps/k_sweep.py shows how"),
        ("SWEEP = 'k_sweep'\n", "it defines no SWEEP; sweeps/k_sweep.py shows how"),
        ("# A title\n\nSome words.\n", "line 3: this is not Python"),
        ("from sweeps.engine.design import Grid\n", "Sweep, the designs and main come from sweeps.engine"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(spt: Spt, tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    assert_refused(spt(file=path), str(path), problem)


@pytest.fixture
def broken_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A Hub that answers every request with 503, which its client would ask again; the paths asked for."""
    asked: list[str] = []

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield asked
    server.shutdown()
    server.server_close()


def test_an_unknown_model_is_refused_after_one_request_to_the_hub(spt: Spt, broken_hub: list[str]) -> None:
    answer = spt("--model", "nobody/nothing")
    assert_refused(answer, "backbone.name = 'nobody/nothing'", "Use a folder, 'bundled:smollm2-135m', or a Hub id")
    assert [path for path in broken_hub if "nobody" in path] == ["/api/models/nobody/nothing"]


def test_a_folder_that_is_no_model_is_refused(spt: Spt, tmp_path: Path) -> None:
    assert_refused(spt("--model", str(tmp_path)), f"backbone.name = '{tmp_path}'", "no config.json")


def test_a_cluster_that_is_not_there_is_refused(spt: Spt, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again below: nobody listens
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert_refused(spt(), f"RAY_ADDRESS=127.0.0.1:{port}: ", "unset RAY_ADDRESS to run on this machine")


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["ui"], ["mlflow.db", "run a sweep first"]),
        (["status"], []),
        (["resume", "k_sweep"], []),
        (["report", "k_sweep"], []),
    ],
)
def test_an_output_folder_without_a_sweep_is_refused(arguments: list[str], needles: list[str], tmp_path: Path) -> None:
    assert_refused(invoke(*arguments, "--output", tmp_path), str(tmp_path), *needles)


def test_a_refused_request_leaves_no_trace_in_the_output_folder(spt: Spt, tmp_path: Path) -> None:
    assert_refused(spt("--set", "losses.selection.tau_g=0"), "tau_g")
    assert not (tmp_path / "out").exists()


def test_verbose_gives_the_traceback(tiny_llama: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(K_SWEEP), "--model", str(tiny_llama), "--seeds", "0", "--verbose"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)
