"""What is wrong with this machine or cluster, before it costs an hour: what was seen, why it matters, what cures it."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from sweeps.engine.doctor.checks import compare, examine_machine
from sweeps.engine.doctor.facts import Facts, look
from sweeps.engine.doctor.finding import Finding, Level, Needs
from sweeps.engine.store.redact import redact


def examine_tracking(uri: str) -> Finding:
    """Whether MLflow can be reached and written to: a run is made and deleted again."""
    from sweeps.engine.tracking import mlflow_runs
    from sweeps.engine.tracking.uri import check

    shown = redact(uri)
    try:
        check(uri)
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
            return Finding("mlflow", "ok", f"{shown} is made by the first sweep")
        mlflow_runs.try_writing(uri)
    except (ValueError, OSError, mlflow_runs.StoreError) as error:
        reason = str(error).strip().partition("\n")[0]
        denied = any(mark in reason for mark in ("401", "403", "authenticate", "ermission"))
        cure = (
            "put the user and password into ~/.mlflow/credentials (mode 600)"
            if denied
            else "start it, or give its address: --tracking-uri http://HOST:5000"
        )
        return Finding("mlflow", "error", f"{shown}: {reason}", "nothing of a sweep would be recorded there", cure)
    return Finding("mlflow", "ok", f"{shown} takes runs")


def examine_storage(request: Needs) -> Finding:
    """Whether trials' files have somewhere to go, seen from here."""
    from sweeps.engine.store import shared_storage

    option, place = ("--storage", request.storage) if request.storage else ("--output", str(request.output))
    try:
        shared_storage.probe(place, option=option)
    except ValueError as error:
        return Finding("storage", "error", str(error), "no result or checkpoint could be kept", f"another {option}")
    return Finding("storage", "ok", f"{place} can be written and read")


def examine_sharing(request: Needs, unseen: Iterable[str], *, may_grow: bool) -> Finding:
    """Whether what one node writes is there on the others.

    Args:
        request: its storage or output folder.
        unseen: nodes that did not see a file that was just written.
        may_grow: the autoscaler may add nodes, which cannot be asked yet.
    """
    from sweeps.engine.cluster import nodes as cluster
    from sweeps.engine.store import shared_storage

    place = request.storage or str(request.output)
    if shared_storage.is_remote(place):
        return Finding("sharing", "ok", f"{place}: a bucket")
    if named := sorted(unseen):
        what = f"{place}: written here and not there on {', '.join(named)}"
    elif may_grow and not cluster.is_on_network(Path(place)):
        what = f"{place} is on this machine's own disk, and the autoscaler may add nodes"
    else:
        return Finding("sharing", "ok", f"{place}: what is written here is there on every node")
    return Finding(
        "sharing",
        "error",
        what,
        "a trial that runs on another node could not hand over its results",
        "--storage s3://BUCKET/FOLDER, or a folder on a network mount of all nodes",
    )


def examine(request: Needs) -> list[Finding]:
    """This machine and, where this process is connected to a cluster, every node of it."""
    import ray

    here = look(*request.sources)
    findings = examine_machine(here, request)
    findings += [examine_storage(request)]
    if ray.is_initialized():
        findings += _examine_nodes(request, here)
    return [*findings, examine_tracking(request.tracking_uri)]


def _examine_nodes(request: Needs, here: Facts) -> list[Finding]:
    import ray

    from sweeps.engine.cluster import nodes as cluster

    own = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]
    findings = []
    asked = time.time()
    answers = cluster.on_nodes(look, *request.sources, nodes=others)
    answered = time.time()
    for address, there in answers:
        if there is None:
            findings.append(silent(address))
        else:
            findings += examine_machine(there, request) + compare(here, there, asked=asked, answered=answered)
    available = cluster.connected()
    if available.has_several_nodes:
        folder = Path(request.storage or request.output)
        unseen = cluster.nodes_without(folder) if folder.is_dir() else []
        findings.append(examine_sharing(request, unseen, may_grow=not all(nodes.alive for nodes in available.nodes)))
    return findings


def silent(address: str) -> Finding:
    """A node that did not answer."""
    return Finding(
        "node",
        "error",
        "did not answer in half a minute",
        "trials placed there would wait",
        "ray status, and the raylet's log on that node",
        address,
    )


def worst(findings: Iterable[Finding]) -> Level:
    """The gravest level of some findings."""
    order: Mapping[Level, int] = {"ok": 0, "warning": 1, "error": 2}
    return max((finding.level for finding in findings), key=lambda level: order[level], default="ok")
