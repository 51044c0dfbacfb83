"""The reproducibility checklist of a report, filled in from what was logged and from nothing else."""

from collections import Counter
from collections.abc import Mapping, Sequence

from spt_core.config import flatten
from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.plan.plan import Plan
from sweeps.engine.store import trial_folder
from sweeps.engine.store.trial_folder import TrialResult

NOT_LOGGED = "not logged"


def fill(
    plan: Plan, summaries: Sequence[CellSummary], results: Mapping[str, TrialResult], facts: Mapping[str, str]
) -> dict[str, str]:
    """What a reviewer asks (Pineau et al. 2021; ACL's responsible NLP checklist), with the answer.

    Args:
        plan: what was to run.
        summaries: its cells.
        results: what ended, by trial key.
        facts: of the driver: command, commit, versions, machine.
    """
    finished = [result for result in results.values() if result.state == "finished"]
    config = plan.trials[0].config
    metrics = [result.metrics for result in finished]
    flat = [flatten(trial.config) for trial in plan.distinct.values()]

    def varied(path: str) -> str:
        values = dict.fromkeys(str(one[path]) for one in flat)
        return ", ".join(value.rsplit("/", 1)[-1] if value.startswith("/") else value for value in values)

    return {
        "Model": varied("backbone.name") + f"; precision {_identity(plan, 'precision')}",
        "Parameters trained": _span([m["trainable_parameters"] for m in metrics if "trainable_parameters" in m], 0),
        "Data": f"{varied('data.train')} to train and for dev, {varied('data.test')} to test; the "
        "fingerprints are under Provenance",
        "Data statistics": _data(summaries, config.data.dev_dialogues),
        "Preprocessing": f"at most {varied('data.max_tokens')} tokens, cut from the left; dev is carved from "
        f"the training dialogues by seed {config.data.split_seed}, with personas disjoint from the rest",
        "Hyperparameters": f"under Config; {'; '.join(_levels(plan)) or 'none varied'}",
        "Bounds of a search": _space(plan),
        "Number of trials": _trials(plan, results),
        "Seeds": f"{', '.join(map(str, plan.seeds))}, paired across cells: initialisation and order of batches",
        "Selection of checkpoints": f"on dev, by {varied('evaluation.select_by')}; test is read once, at the end",
        "Metrics": "F1 on white-space tokens; sacrebleu corpus BLEU (13a, exp, cased); rouge-score F without stemming; "
        f"BERTScore by {varied('evaluation.bert_encoder')}; DIST over the whole set; NLL in nats a response "
        f"token. sacrebleu {facts.get('sacrebleu', NOT_LOGGED)}, rouge-score {facts.get('rouge-score', NOT_LOGGED)}",
        "Infrastructure": _infrastructure(finished) or facts.get("machine", NOT_LOGGED),
        "Run time": f"{_span([m['seconds'] for m in metrics if 'seconds' in m], 0)} seconds a trial; "
        f"{sum(m.get('seconds', 0) for m in metrics) / 3600:.2f} hours in all",
        "Software": ", ".join(f"{name} {facts[name]}" for name in ("python", "torch", "transformers") if name in facts)
        or NOT_LOGGED,
        "Code": facts.get("git_commit", NOT_LOGGED) + "; each trial keeps the diff that it ran with",
        "Statistics": f"95% intervals; smallest attainable p {plan.smallest_p:.2g}; Holm over cells; primary metric "
        f"{plan.sweep.primary_metric}, stated before the sweep ran",
    }


def commands(plan: Plan, results: Mapping[str, TrialResult], facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """How to get these numbers again: what each command does, and the command."""
    commit = facts.get("git_commit", "").split(" ")[0]
    steps = []
    if len(commit) == 40:
        steps.append(("the code", f"git checkout {commit}"))
    if facts.get("command"):
        steps.append(("this sweep; what has finished is reused", facts["command"]))
    finished = next((key for key in plan.distinct if key in results and results[key].state == "finished"), None)
    if finished is not None:
        steps.append((f"one trial, from its run id (tag spt.trial_key = {finished} in MLflow)", "spt verify RUN_ID"))
    return steps


def _identity(plan: Plan, name: str) -> str:
    return ", ".join(dict.fromkeys(str(trial.identity.get(name, NOT_LOGGED)) for trial in plan.distinct.values()))


def _span(values: Sequence[float], decimals: int) -> str:
    if not values:
        return NOT_LOGGED
    low, high = (f"{value:,.{decimals}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _data(summaries: Sequence[CellSummary], dev_dialogues: int) -> str:
    replies = {summary.mean("test/num_responses") for summary in summaries}
    numbers = sorted(value for value in replies if is_number(value))
    length = next(
        (one.mean("human/mean_length") for one in summaries if is_number(one.mean("human/mean_length"))), None
    )
    scored = " or ".join(f"{value:.0f}" for value in numbers) or NOT_LOGGED
    words = "" if length is None else f", human replies of {length:.1f} words on average"
    return f"{dev_dialogues} dialogues for dev; {scored} test replies scored{words}"


def _levels(plan: Plan) -> list[str]:
    levels: dict[str, dict[str, None]] = {}
    for cell in plan.cells:
        for path, value in cell.items():
            levels.setdefault(path, {})[str(value)] = None
    return [f"{path}: {', '.join(values)}" for path, values in levels.items()][:20]


def _space(plan: Plan) -> str:
    if plan.search is None:
        return "no search: every cell was stated before"
    space = plan.search.design.space
    return "; ".join(f"{path}: {distribution}" for path, distribution in space.items())


def _trials(plan: Plan, results: Mapping[str, TrialResult]) -> str:
    states = Counter(results[key].state if key in results else "not run" for key in plan.distinct)
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{len(plan.cells)} cells x {len(plan.seeds)} seeds, {len(plan.distinct)} distinct trials: {told}"


def _infrastructure(finished: Sequence[TrialResult]) -> str:
    """What the arithmetic of the trials ran on, as they recorded it; the first hundred are asked."""
    found: dict[str, None] = {}
    for result in finished[:100]:
        execution = trial_folder.read_environment(result.folder).get("execution")
        if execution:
            of = f"{execution['workers']} worker(s) of {execution['threads']} thread(s), torch {execution['torch']}"
            found[f"{execution['processor']}, {of}"] = None
    return "; ".join(found)
