"""What is wrong with a cluster's YAML, seen from the machine that would launch it, and what its head says of itself."""

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeps.engine.doctor.finding import Finding

_EXEC_SECONDS = 300
_TO_EDIT = ("YOUR-", "ami-00000000", "sg-00000000")
"""What the files in clusters/ hold where only a person knows better."""


def read(path: Path) -> Mapping[str, Any]:
    """A cluster's YAML, as Ray's own validator takes it.

    Raises:
        ValueError: it is not there, no YAML, or Ray refuses it; says why.
    """
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        config = yaml.safe_load(path.read_text())
    except OSError:
        raise ValueError(f"--cluster {path}: no such file; those of this project are in clusters/") from None
    except yaml.YAMLError as error:
        raise ValueError(f"--cluster {path}: this is not YAML: {' '.join(str(error).split())}") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it chats
            validate_config(prepare_config(config))
    except Exception as error:  # of jsonschema, ValueError, KeyError, TypeError: whatever the file makes Ray stumble on
        reason = getattr(error, "message", None) or str(error) or type(error).__name__
        raise ValueError(f"--cluster {path}: Ray refuses it: {reason}") from None
    checked: Mapping[str, Any] = config
    return checked


def examine(path: Path) -> list[Finding]:
    """The file itself.

    Args:
        path: of the YAML, relative paths in which are relative to the current folder, as for `ray up`.
    """
    try:
        config = read(path)
    except ValueError as error:
        return [Finding("cluster file", "error", str(error), "ray up would not start", "compare it with clusters/")]
    findings = [Finding("cluster file", "ok", f"{path}: Ray takes it")]
    return findings + [
        finding
        for finding in (*_left_to_edit(path), _key(config), *_mounts(config), _lock(config), *_open_ports(config))
        if finding is not None
    ]


def _left_to_edit(path: Path) -> Iterable[Finding]:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines() if any(m in line for m in _TO_EDIT)]
    if lines:
        yield Finding(
            "cluster edits",
            "error",
            f"{path} still has {'; '.join(lines)}",
            "they stand for what only you know",
            "replace them: docs/clusters.md goes through it",
        )


def _key(config: Mapping[str, Any]) -> Finding | None:
    given = config.get("auth", {}).get("ssh_private_key")
    if given and not Path(given).expanduser().is_file():
        return Finding(
            "ssh key",
            "error",
            f"auth.ssh_private_key: {given} is not there",
            "ray up reaches no node",
            f"ssh-keygen -t ed25519 -f {given}, and its .pub into the nodes' ~/.ssh/authorized_keys",
        )
    return None


def _mounts(config: Mapping[str, Any]) -> Iterable[Finding]:
    missing = [local for local in config.get("file_mounts", {}).values() if not Path(local).expanduser().exists()]
    if missing:
        yield Finding(
            "file mounts",
            "error",
            f"not there: {', '.join(missing)}",
            "the nodes would lack them, and ray up stops",
            "run it in the project's root, or mend file_mounts",
        )


def _commands(config: Mapping[str, Any]) -> str:
    names = ("head_start_ray_commands", "worker_start_ray_commands", "setup_commands", "head_setup_commands")
    return "\n".join(str(command) for name in names for command in config.get(name, []))


def _lock(config: Mapping[str, Any]) -> Finding | None:
    commands = _commands(config)
    if "environment.sh" in commands or "RAY_AUTH_MODE=token" in commands:
        return None
    return Finding(
        "cluster token",
        "error",
        "no node sets RAY_AUTH_MODE=token",
        "whoever reaches the cluster's ports can run programs on it",
        "source clusters/environment.sh on every node, as the files in clusters/ do",
    )


def _open_ports(config: Mapping[str, Any]) -> Iterable[Finding]:
    opened = re.findall(r"--(?:dashboard-)?host[ =](0\.0\.0\.0|::)", _commands(config))
    if opened:
        yield Finding(
            "open ports",
            "warning",
            f"a server is told to listen on {opened[0]}: on every interface",
            "it can be reached from wherever the machine can",
            "--dashboard-host=127.0.0.1, and ray dashboard FILE to look at it",
        )
    provider = config.get("provider", {})
    types = config.get("available_node_types", {})
    own = all("SecurityGroupIds" in kind.get("node_config", {}) for kind in types.values())
    if provider.get("type") == "aws" and not own:
        yield Finding(
            "open ports",
            "warning",
            "a node type has no SecurityGroupIds",
            "the group that Ray then makes opens ssh to the whole world",
            "make one of your own (docs/clusters.md) and name it in node_config",
        )


def ask_head(path: Path, options: list[str]) -> list[Finding]:
    """What `spt doctor` says on the head of a running cluster, of itself and its nodes."""
    command = ["exec", str(path), f"spt doctor --json {' '.join(options)}".strip()]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", *command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_EXEC_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        said = f"no answer in {_EXEC_SECONDS} s"
    document = re.search(r'^\{"findings": .*\}\s*$', said, re.MULTILINE)
    if document is None:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        return [
            Finding(
                "head",
                "error",
                f"its head did not answer: {lines[-1].strip() if lines else 'nothing was said'}",
                "nothing can be submitted to it",
                f"ray up -y {path} starts it, or brings it up to date",
            )
        ]
    return [Finding(**finding) for finding in json.loads(document[0])["findings"]]
