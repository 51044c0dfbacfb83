"""`spt chat`: talk to a trained adapter, or say one thing to it from a script."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sweeps.engine.cli import options
from sweeps.engine.cli.exits import refusing_bad_input

if TYPE_CHECKING:
    from spt_core.chat import Chat, Reply

EPILOG = """\b
Examples:
  # a trial's key, its folder, its adapter's folder, or an MLflow run id
  spt chat --adapter 638453acfb6c1a65
  # once, for a script; --json for one that reads the scores
  spt chat --adapter runs/trials/638453acfb6c1a65 \\
      --persona "i have two dogs." --say "hi, how are you?"

\b
In the dialogue:
  /persona i am a cook. i like tea.   be somebody else, from the start
  /scores                             similarity to each prompt: on or off
  /clear                              forget the dialogue
  /exit                               or Ctrl-D
"""
_HELP = "/persona TEXT, /scores, /clear, /exit"


def chat(
    *,
    adapter: Annotated[str, typer.Option(help="A folder, a trial's key below OUTPUT, or an MLflow run id.")],
    persona: Annotated[list[str] | None, typer.Option(help="A sentence of the persona; may be repeated.")] = None,
    say: Annotated[list[str] | None, typer.Option(help="Say this, print the reply and exit; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --say: a JSON object a reply.")] = False,
    output: options.Output = options.RUNS,
    tracking_uri: options.TrackingUri = None,
) -> None:
    """Talk to a trained adapter and see which prompt each reply came from."""
    with refusing_bad_input():
        folder = _find(adapter, output=output, tracking_uri=tracking_uri)
        if say is None and as_json:
            raise ValueError("--json: it goes with --say")
        from spt_core.chat import Chat
        from spt_core.device import default_device

        talk = Chat(folder, persona=persona or [], device=default_device())
        if say is not None:
            for text in say:
                reply = talk.say(text)
                typer.echo(json.dumps(vars(reply)) if as_json else _shown(talk, reply))
            return
        _converse(talk)


def _find(adapter: str, *, output: Path, tracking_uri: str | None) -> Path:
    """The adapter's folder, wherever the name leads.

    Raises:
        ValueError: nowhere.
    """
    from sweeps.engine.store import trial_folder
    from sweeps.engine.store.layout import OutputLayout

    layout = OutputLayout(output.resolve())
    for folder in (Path(adapter), layout.trial(adapter)):
        for candidate in (folder, folder / trial_folder.ADAPTER):
            if (candidate / "adapter.json").is_file():
                return candidate
    from sweeps.engine.store.redact import redact
    from sweeps.engine.tracking import mlflow_runs

    uri = tracking_uri or layout.tracking
    if tracking_uri is not None or Path(layout.tracking.removeprefix("sqlite:///")).is_file():
        fetched = mlflow_runs.fetch(uri, adapter, trial_folder.ADAPTER)
        if fetched is not None:
            return fetched
    raise ValueError(
        f"--adapter {adapter}: no folder with an adapter, no trial of that key below {output}, and no MLflow run of "
        f"that id in {redact(uri)}"
    )


def _converse(talk: "Chat") -> None:
    """The dialogue on a terminal, until /exit or the end of input."""
    console = Console()
    if not talk.persona:
        talk.persona = _sentences(_ask(console, "persona> "))
    console.print(f"[dim]{talk.model.num_prompts} prompts; {_HELP}[/dim]")
    with_scores = True
    while True:
        try:
            text = _ask(console, "you> ")
        except EOFError:
            console.print()
            return
        command, _, argument = text.partition(" ")
        if command == "/exit":
            return
        if command == "/clear":
            talk.clear()
        elif command == "/scores":
            with_scores = not with_scores
        elif command == "/persona":
            talk.clear()
            talk.persona = _sentences(argument)
        elif command.startswith("/"):
            console.print(_HELP, markup=False)
        else:
            console.print(_shown(talk, talk.say(text), with_scores=with_scores), markup=False, highlight=False)


def _ask(console: Console, prompt: str) -> str:
    return console.input(prompt, markup=False).strip() if sys.stdin.isatty() else input().strip()


def _sentences(text: str) -> tuple[str, ...]:
    return tuple(f"{part.strip()}." for part in text.split(".") if part.strip())


def _shown(talk: "Chat", reply: "Reply", *, with_scores: bool = True) -> str:
    """The reply and, where there was a choice, the prompt that it came from."""
    lines: list[Any] = [reply.text or "(nothing)"]
    if with_scores and talk.model.num_prompts > 1:
        scores = "  ".join(f"{k + 1}: {score:.3f}" for k, score in enumerate(reply.similarity))
        lines.append(f"  [prompt {reply.prompt + 1} of {talk.model.num_prompts}; similarity {scores}]")
    return "\n".join(lines)
