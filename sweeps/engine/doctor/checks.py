"""What the facts of one machine mean for a sweep, and where two machines differ that must be alike."""

from collections.abc import Iterable

from sweeps.engine.doctor.facts import PACKAGES, Facts
from sweeps.engine.doctor.finding import Finding, Needs

_DISK_GIB, _DISK_GIB_A_TRIAL = 5.0, 0.05
"""A model with its cache and the packages' own files; checkpoint, adapter and predictions of a trial."""
_MEMORY_GIB = 3.0
_CLOCK_SECONDS = 15.0
"""A quarter of the ledger's lease."""
_PYTHON = (3, 11)


def examine_machine(facts: Facts, request: Needs) -> list[Finding]:
    """What one machine's facts say about a sweep."""
    return [
        _python(facts),
        *_packages(facts),
        _dashboard(facts),
        *_gpus(facts),
        _precision(facts),
        _disk(facts, request),
        _memory(facts),
        _token(facts),
        *_sources(facts, request),
    ]


def _python(facts: Facts) -> Finding:
    if facts.python[:2] < _PYTHON:
        return Finding(
            "python",
            "error",
            f"Python {'.'.join(map(str, facts.python))}",
            "the project needs 3.11 or later, and all nodes the same",
            "install Python 3.11, remove .venv and run make setup again",
            facts.node,
        )
    return Finding("python", "ok", f"Python {'.'.join(map(str, facts.python))}", node=facts.node)


def _packages(facts: Facts) -> Iterable[Finding]:
    missing = [name for name in PACKAGES if facts.packages.get(name) is None]
    if missing:
        yield Finding(
            "packages",
            "error",
            f"not installed: {', '.join(missing)}",
            "trials import them",
            "make setup",
            facts.node,
        )
    else:
        shown = ", ".join(f"{name} {facts.packages[name]}" for name in ("torch", "ray", "mlflow"))
        yield Finding("packages", "ok", shown, node=facts.node)


def _dashboard(facts: Facts) -> Finding:
    if facts.without_dashboard:
        return Finding(
            "dashboard",
            "error",
            f"ray is installed without its dashboard ({facts.without_dashboard} is missing)",
            "it is what gives back the resources of a trial that was stopped: without it a sweep deadlocks",
            "pip install -c constraints.txt 'ray[default,tune,train]'",
            facts.node,
        )
    return Finding("dashboard", "ok", "ray[default] is installed", node=facts.node)


def _gpus(facts: Facts) -> Iterable[Finding]:
    if facts.gpus_of_driver and not facts.gpus:
        built = "is built for the CPU alone" if facts.cuda is None else f"(CUDA {facts.cuda}) cannot use them"
        yield Finding(
            "gpu",
            "error",
            f"the driver shows {facts.gpus_of_driver} GPUs and torch {facts.packages.get('torch')} {built}",
            "trials would run on the CPU",
            "install a torch wheel with CUDA that the driver supports (nvidia-smi shows its CUDA version)",
            facts.node,
        )
    for gpu in facts.gpus:
        if gpu.is_served_by(facts.architectures):
            yield Finding("gpu", "ok", f"{gpu.name}, {gpu.architecture}", node=facts.node)
            continue
        cure = "install a torch build that has it"
        if gpu.capability == (7, 0):
            cure = "pip install 'torch==2.10.*': the last release whose wheels carry sm_70 (clusters/v100.yaml does it)"
        yield Finding(
            "gpu",
            "error",
            f"{gpu.name} is {gpu.architecture}; torch {facts.packages.get('torch')} has kernels for "
            f"{', '.join(facts.architectures)}",
            "the first kernel would fail: no kernel image is available for execution on the device",
            cure,
            facts.node,
        )
    if not facts.gpus and not facts.gpus_of_driver:
        yield Finding("gpu", "ok", "no GPU: trials run on the CPU", node=facts.node)


def _precision(facts: Facts) -> Finding:
    half = {gpu.has_bfloat16 for gpu in facts.gpus}
    if len(half) > 1:
        return Finding(
            "precision",
            "warning",
            f"bfloat16 is native to some of the GPUs only: {', '.join(sorted({gpu.name for gpu in facts.gpus}))}",
            "with auto, a trial's arithmetic would depend on where it runs",
            "--set backbone.precision=float16",
            facts.node,
        )
    if facts.gpus:
        found = "bfloat16" if half == {True} else "float16 with a gradient scaler, since bfloat16 is not native"
    else:
        found = facts.cpu_precision
    return Finding("precision", "ok", f"auto means {found}", node=facts.node)


def _disk(facts: Facts, request: Needs) -> Finding:
    needed = _DISK_GIB + _DISK_GIB_A_TRIAL * request.num_trials
    folder, free = min(facts.disk_gib.items(), key=lambda item: item[1])
    if free < needed:
        return Finding(
            "disk",
            "error",
            f"{free:.1f} GiB free at {folder}; {request.num_trials} trials need about {needed:.0f}",
            "checkpoints and results would be cut short",
            f"free some, or put it elsewhere: --output FOLDER, XDG_CACHE_HOME, HF_HOME (now {folder})",
            facts.node,
        )
    return Finding("disk", "ok", f"{free:.0f} GiB free, {needed:.0f} needed", node=facts.node)


def _memory(facts: Facts) -> Finding:
    if facts.memory_gib < _MEMORY_GIB:
        return Finding(
            "memory",
            "error",
            f"{facts.memory_gib:.1f} GiB of memory available; one trial of SmolLM2-135M at K = 4 takes about "
            f"{_MEMORY_GIB:g}",
            "the kernel ends the largest process when memory runs out",
            "stop what else runs there, or --set compute.prompts_per_pass=1",
            facts.node,
        )
    return Finding("memory", "ok", f"{facts.memory_gib:.0f} GiB available", node=facts.node)


def _token(facts: Facts) -> Finding:
    if facts.on_cluster and not facts.token_mode_on:
        return Finding(
            "token",
            "error",
            "RAY_ADDRESS is set and RAY_AUTH_MODE is not token",
            "whoever reaches the cluster's ports can run programs on it",
            "ray get-auth-token --generate on the head, copy ~/.ray/auth_token to every node, and export "
            "RAY_AUTH_MODE=token there before ray start",
            facts.node,
        )
    if facts.token_mode_on and facts.token_permissions is None:
        return Finding(
            "token",
            "error",
            f"RAY_AUTH_MODE is token and there is no token at {facts.token}",
            "this node cannot join or use the cluster",
            f"copy the head's ~/.ray/auth_token to {facts.token}",
            facts.node,
        )
    if facts.token_permissions is not None and facts.token_permissions & 0o077:
        return Finding(
            "token",
            "warning",
            f"{facts.token} can be read by others (mode {facts.token_permissions:o})",
            "whoever reads it can run programs on the cluster",
            f"chmod 600 {facts.token}",
            facts.node,
        )
    return Finding(
        "token", "ok", "set" if facts.token_permissions is not None else "made when Ray starts", node=facts.node
    )


def _sources(facts: Facts, request: Needs) -> Iterable[Finding]:
    for name, given in (("model", request.model), ("train", request.train), ("test", request.test)):
        if why := facts.unresolved.get(name):
            yield Finding(
                name,
                "error",
                why,
                "every trial reads it",
                f"--{name} with a name that resolves here; a file on one machine goes into file_mounts",
                facts.node,
            )
        else:
            yield Finding(name, "ok", given, node=facts.node)


def compare(here: Facts, there: Facts, *, asked: float, answered: float) -> list[Finding]:
    """How another node differs from this one where they must be alike.

    Args:
        here: of this node.
        there: of the other, which looked at its clock between the next two.
        asked: this node's clock when it asked, in seconds since the epoch.
        answered: likewise when the answer was here.
    """
    findings = []
    differing = {
        name: (here.packages.get(name), there.packages.get(name))
        for name in PACKAGES
        if here.packages.get(name) != there.packages.get(name)
    }
    if here.python != there.python:
        differing["Python"] = (".".join(map(str, here.python)), ".".join(map(str, there.python)))
    if differing:
        said = ", ".join(f"{name} {theirs} (here {ours})" for name, (ours, theirs) in differing.items())
        findings.append(
            Finding(
                "same versions",
                "error",
                said,
                "versions are part of a trial's key, and Ray refuses nodes of another version",
                "install the same constraints.txt on every node: ray up with the cluster's YAML does it",
                there.node,
            )
        )
    else:
        findings.append(Finding("same versions", "ok", "as on this node", node=there.node))
    off = max(asked - there.clock, there.clock - answered, 0.0)
    if off > _CLOCK_SECONDS:
        findings.append(
            Finding(
                "clock",
                "error",
                f"its clock is {off:.0f} s off",
                "a claim on a trial is alive as long as its heartbeat is young",
                "sudo timedatectl set-ntp true",
                there.node,
            )
        )
    else:
        findings.append(Finding("clock", "ok", "agrees", node=there.node))
    return findings
