"""The command line without Ray: what it refuses, what it explains, what it plans."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from sweeps.engine.cli.main import app
from tests.conftest import PROJECT

K_SWEEP = PROJECT / "sweeps" / "k_sweep.py"
PERSONA, TURN = "1 your persona: i like tea.\n", "2 hello\thi there\n"

Spt = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def spt(tiny_llama: Path, tmp_path: Path) -> Spt:
    """Runs `spt COMMAND FILE ...` on the tiny model; its exit status, standard output and standard error."""

    def run(*arguments: str, file: Path = K_SWEEP, command: str = "run") -> tuple[int, str, str]:
        quick = ["--scale", "tiny", "--model", str(tiny_llama), "--output", str(tmp_path / "out")]
        result = CliRunner().invoke(app, [command, str(file), *quick, *arguments])
        return result.exit_code, result.stdout, result.stderr

    return run


def write_sweep(path: Path, factors: str, *, baseline: str = "{}") -> Path:
    path.write_text(
        "from spt_core import recipes\n"
        "from sweeps.engine import Grid, Sweep\n"
        f"SWEEP = Sweep('mine', recipes.smollm2_135m(), Grid({factors}), {baseline})\n"
    )
    return path


def assert_refused(answer: tuple[int, str, str], *needles: str) -> None:
    code, _, error = answer
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1, "one line"
    for needle in needles:
        assert needle in error


@pytest.mark.parametrize(
    ("arguments", "field", "cure"),
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
    ],
)
def test_what_cannot_be_run_is_refused_with_the_field_and_the_cure(
    spt: Spt, arguments: list[str], field: str, cure: str
) -> None:
    assert_refused(spt(*arguments), field, cure)


def test_a_gpu_that_is_not_there_is_refused(spt: Spt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert_refused(spt("--gpus-per-worker", "1"), "--gpus-per-worker 1: no GPU was found", "use --gpus-per-worker 0")


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
    ("factors", "field", "cure"),
    [
        ("{'prompts.num_prompts': [1, 0]}", "prompts.num_prompts = 0", "greater than or equal to 1"),
        ("{'losses.contrastive.threshold': [20, 300]}", "losses.contrastive.threshold = 300", "less than or equal to"),
        ("{'prompts.num_prompt': [1, 2]}", "unknown field 'prompts.num_prompt'", "did you mean prompts.num_prompts"),
        ("{}", "Grid has no factors", "name at least one"),
    ],
)
def test_a_sweep_file_that_asks_the_impossible_is_refused(
    spt: Spt, tmp_path: Path, factors: str, field: str, cure: str
) -> None:
    assert_refused(spt(file=write_sweep(tmp_path / "mine.py", factors)), field, cure)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such sweep file; those of this project are in sweeps/"),
        ("'A question.'\n", "it defines no SWEEP; sweeps/k_sweep.py shows how"),
        ("SWEEP = 'k_sweep'\n", "it defines no SWEEP; sweeps/k_sweep.py shows how"),
        ("# A title\n\nSome words.\n", "line 3: this is not Python"),
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


def test_an_unknown_model_is_refused_after_one_question_to_the_hub(spt: Spt, broken_hub: list[str]) -> None:
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


def test_a_refused_request_leaves_no_trace_in_the_output_folder(spt: Spt, tmp_path: Path) -> None:
    assert_refused(spt("--set", "losses.selection.tau_g=0"), "tau_g")
    assert not (tmp_path / "out").exists()


def test_verbose_gives_the_traceback(tiny_llama: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(K_SWEEP), "--model", str(tiny_llama), "--seeds", "0", "--verbose"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_help_of_a_sweep_has_its_question_its_options_and_examples(spt: Spt, command: str) -> None:
    code, out, _ = spt("--help", command=command)
    assert code == 0
    assert out.startswith(f"Usage: spt run {K_SWEEP} [OPTIONS]")
    assert "How many soft prompts does the group need?" in out
    assert "Prediction: most metrics peak at K <= 4" in out
    for needle in ("--set FIELD=VALUE", "--dry-run", "Examples:", f"spt run {K_SWEEP} --scale full", "130 interrupted"):
        assert needle in out


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_command_without_its_file_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "FILE" in result.stdout
    assert "Example: spt" in result.stdout


@pytest.mark.parametrize(("command", "options"), [("run", ["--dry-run"]), ("plan", [])])
def test_a_plan_names_every_trial_and_runs_none(spt: Spt, tmp_path: Path, command: str, options: list[str]) -> None:
    code, out, _ = spt(*options, "--seeds", "2", command=command)
    assert code == 0
    first, *lines = out.splitlines()
    assert first.startswith("k_sweep-tiny-")
    assert "3 cells x 2 seeds = 6 trials; 0 finished before, 6 to run" in first
    trials = [line.split() for line in lines[:6]]
    assert [words[1:] for words in trials] == [
        [f"num_prompts={num_prompts}", "seed", str(seed), "to", "run"] for num_prompts in (1, 2, 4) for seed in (0, 1)
    ]
    assert len({words[0] for words in trials}) == 6
    assert "no p below 0.5" in lines[6]
    assert not (tmp_path / "out").exists()


def test_a_plan_says_which_cells_are_the_same_trial(spt: Spt, tmp_path: Path) -> None:
    factors = "{'losses.contrastive.threshold': [10, 20]}"
    file = write_sweep(tmp_path / "mine.py", factors, baseline="{'losses.contrastive.threshold': 10}")
    code, out, _ = spt("--set", "losses.contrastive.enabled=false", file=file, command="plan")
    assert code == 0
    assert "2 cells x 1 seed = 2 trials, 1 of them the same as another; 0 finished before, 1 to run" in out
    assert out.splitlines()[2].endswith("is threshold=10")


def test_settings_reach_the_plan(spt: Spt) -> None:
    plans = [spt(*options, command="plan")[1] for options in ([], ["--set", "optim.learning_rate=0.5"], ["--steps=3"])]
    assert len({plan.split(":")[0] for plan in plans}) == 3
    assert spt("--steps", "4", command="plan")[1] == plans[0]  # what the scale says already


def test_the_ui_needs_a_sweep_first(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ui", "--output", str(tmp_path)])
    assert_refused((result.exit_code, result.stdout, result.stderr), "mlflow.db", "run a sweep first")


def test_a_plan_is_there_for_programs(spt: Spt) -> None:
    code, out, _ = spt("--json", command="plan")
    assert code == 0
    plan = json.loads(out)
    assert [(trial["levels"], trial["state"]) for trial in plan["trials"]] == [
        ({"prompts.num_prompts": k}, "to run") for k in (1, 2, 4)
    ]
    assert plan["smallest_p"] == 1
    code, out, _ = spt("--json", "--trials", "7", file=PROJECT / "sweeps" / "joint_search.py", command="plan")
    assert code == 0
    search = json.loads(out)["search"]
    assert search["num_trials"] == 7
    assert search["objectives"] == {"dev/nll": "minimize", "dev/dist_gap": "minimize"}
    assert search["space"]["prompts.num_prompts"] == {"kind": "int", "low": 1, "high": 8, "log": False, "step": 1}
    assert search["only_if"]["losses.fusion.weight"] == ["losses.fusion.enabled"]


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["--json"], "use it with --dry-run, or with spt plan"),
        (["--objective", "dev/f1"], "k_sweep states its cells: drop them"),
        (["--trials", "3"], "k_sweep states its cells: drop them"),
    ],
)
def test_options_that_have_no_meaning_here_are_refused(spt: Spt, arguments: list[str], needle: str) -> None:
    assert_refused(spt(*arguments), needle)


def test_a_search_for_a_test_metric_is_refused(spt: Spt) -> None:
    answer = spt("--objective", "test/f1", file=PROJECT / "sweeps" / "joint_search.py", command="plan")
    assert_refused(answer, "test/f1", "a search reads dev alone")


TABLE1 = PROJECT / "sweeps" / "table1.py"
RATES = ["0.003", "0.01", "0.03", "0.1", "0.3"]


def test_a_plan_shows_both_rounds_of_a_sweep_that_is_retuned(spt: Spt) -> None:
    code, out, _ = spt(file=TABLE1, command="plan")
    assert code == 0
    first, *lines = out.splitlines()
    assert "first 10 trials that retune optim.learning_rate in 0.003, 0.01, 0.03, 0.1, 0.3 within each cell" in first
    assert [line.split()[1:4] for line in lines[:5]] == [["tuning", "PT:", f"learning_rate={rate}"] for rate in RATES]
    assert "2 cells x 1 seed = 2 trials; 0 finished before, 2 to run" in lines[10]
    assert [line.split() for line in lines[11:13]] == [
        ["-", cell, "seed", "0", "after", "tuning"] for cell in ("PT", "SPT")
    ]


def test_a_plan_of_both_rounds_is_there_for_programs(spt: Spt) -> None:
    plan = json.loads(spt("--json", file=TABLE1, command="plan")[1])
    assert plan["tuning"]["levels"] == {"optim.learning_rate": [float(rate) for rate in RATES]}
    assert {trial["seed"] for trial in plan["tuning"]["trials"]} == {1000}
    assert [(trial["key"], trial["state"]) for trial in plan["trials"]] == [(None, "after tuning")] * 2
    assert plan["estimate"]["device_hours"] is None
    assert plan["estimate"]["trials"] == 12


def test_no_retune_leaves_the_rate_at_the_base(spt: Spt) -> None:
    code, out, _ = spt("--no-retune", file=TABLE1, command="plan")
    assert code == 0
    assert "tuning" not in out
    assert "2 cells x 1 seed = 2 trials" in out


def test_a_plan_without_a_basis_says_so_and_how_to_get_one(spt: Spt) -> None:
    out = spt("--price-per-hour", "2", command="plan")[1]
    assert "No basis for an estimate" in out
    assert "--calibrate runs a few steps of each shape here" in out


def test_a_plan_gives_the_smallest_p_after_holm_too(spt: Spt) -> None:
    out = spt("--seeds", "5", command="plan")[1]
    assert "no p below 0.0625, before Holm; Holm over 2 cells makes it 0.125" in out
    plan = json.loads(spt("--seeds", "5", "--json", command="plan")[1])
    assert (plan["smallest_p"], plan["smallest_p_holm"]) == (0.0625, 0.125)


def test_the_caveat_of_avg_is_in_the_plan_of_a_search_for_it(spt: Spt) -> None:
    out = spt("--objective", "dev/avg", file=PROJECT / "sweeps" / "joint_search.py", command="plan")[1]
    assert "18.0 points are DIST-1 and DIST-2" in out


@pytest.mark.parametrize(
    ("arguments", "field", "cure"),
    [
        (["--no-retune"], "--no-retune: k_sweep has no nuisance factors", "drop it"),
        (["--budget-hours", "0"], "--budget-hours 0", "above 0"),
        (["--price-per-hour", "-1"], "--price-per-hour -1", "above 0"),
        (["--study", "postgresql://me:secret@127.0.0.1:9/db"], "--study postgresql://127.0.0.1:9/db", "Give the URL"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(spt: Spt, arguments: list[str], field: str, cure: str) -> None:
    answer = spt(*arguments)
    assert_refused(answer, field, cure)
    assert "secret" not in answer[2]


@pytest.mark.parametrize("command", ["resume", "report", "status"])
def test_what_goes_on_from_an_output_folder_explains_itself(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"spt {command}" in result.stdout[result.stdout.index("Examples:") :]
    arguments = [] if command == "status" else ["k_sweep"]
    result = CliRunner().invoke(app, [command, *arguments, "--output", str(tmp_path)])
    assert_refused((result.exit_code, result.stdout, result.stderr), str(tmp_path))
