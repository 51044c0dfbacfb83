"""The claims ledger: each claim of the paper as a test over results, with what decided it.

A claim is a conjunction: SPT beats prompt tuning on *every* metric. Each part is a difference per seed whose sign is
positive where the claim holds. The claim is

- supported where every part holds at the 5% level by the exact sign-flip test (an intersection-union test, Berger 1982,
  which needs no correction);
- contradicted where all parts hold the other way, or some part does after Holm over the parts, or some part is shown to
  be no difference that matters by two one-sided tests, after Holm too;
- undecided otherwise: too few seeds, a part that was not measured, or data that are no evidence about the paper.

It speaks of the model, scale and data that ran, and of no others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sweeps.engine.analysis import stats
from sweeps.engine.analysis.cells import CellSummary, is_number
from sweeps.engine.design import metrics
from sweeps.engine.paper import claim_measures, published
from sweeps.engine.paper.beside import beside, model_of, tables_of
from sweeps.engine.paper.published import CLAIMS, DIST_AVG, Claim
from sweeps.engine.plan.plan import Plan
from sweeps.engine.report.table import Table, TableEntry, TableRow, interval_text, number

ClaimState = Literal["supported", "contradicted", "undecided"]
LEAST_SEEDS = 3
"""Below which no equality is shown, however equal the values."""

SweepsFound = Mapping[str, tuple[Plan, Sequence[CellSummary]]]
"""What ran: name of the sweep to its plan and cells."""


@dataclass(frozen=True)
class Part:
    """One difference that a claim is about.

    Attributes:
        label: what is compared.
        differences: one a seed, positive where the claim holds; empty where it was not measured.
        margin: the largest difference that does not matter.
        decimals: of the numbers shown.
    """

    label: str
    differences: tuple[float, ...]
    margin: float
    decimals: int = 2

    @property
    def delta(self) -> stats.PairedDelta:
        """Mean, 95% t interval and exact sign-flip p of the differences."""
        return stats.paired_delta(self.differences, [0.0] * len(self.differences))

    @property
    def text(self) -> str:
        """The effect for people, positive as the claim has it."""
        if not self.differences:
            return f"{self.label}: not measured"
        delta = self.delta
        interval = interval_text(delta.low, delta.high, self.decimals, sign=True)
        return f"{self.label} {number(delta.mean, self.decimals, sign=True)} {interval}".strip()


@dataclass(frozen=True)
class JudgedClaim:
    """What results say of a claim.

    Attributes:
        claim: the claim.
        state: the verdict.
        why: what decided it, or why nothing did.
        parts: every difference that it is about.
        seeds: of each cell.
        scale: scale, model and data of the trials.
    """

    claim: Claim
    state: ClaimState
    why: str
    parts: tuple[Part, ...]
    seeds: int
    scale: str


def judge(found: SweepsFound) -> list[JudgedClaim]:
    """Every claim, in order; those whose sweeps did not run are undecided.

    Args:
        found: what ran, by the name of the sweep.
    """
    return [_judge(claim, found) for claim in CLAIMS]


def _judge(claim: Claim, found: SweepsFound) -> JudgedClaim:
    sweep, parts_of = _TESTS[claim.number]
    if sweep not in found:
        return JudgedClaim(claim, "undecided", f"{sweep} did not run", (), 0, "")
    plan, summaries = found[sweep]
    parts = tuple(parts_of(beside(tables_of(plan)[0], [(plan, summaries)]).ours))
    state, why = decide(parts)
    sources = {source for trial in plan.trials for source in (trial.config.data.train, trial.config.data.test)}
    is_sample = any(source.startswith("sample:") for source in sources)
    if is_sample:
        state, why = "undecided", "the bundled sample set is no evidence about the paper"
    config = plan.trials[0].config
    model = model_of(config) or config.backbone.name.rsplit("/", 1)[-1]
    is_convai2 = plan.trials[0].identity.get("data", {}).get("test") == published.TEST_FINGERPRINT
    data = "sample set" if is_sample else "ConvAI2" if is_convai2 else "other data"
    where = f"{plan.scale}, {model}, {data}"
    return JudgedClaim(claim, state, why, parts, len(plan.seeds), where)


def decide(parts: Sequence[Part]) -> tuple[ClaimState, str]:
    """The verdict on a conjunction, and why.

    Args:
        parts: what all has to hold.
    """
    measured = [part for part in parts if part.differences]
    if not measured:
        return "undecided", "nothing of it was measured"
    if against := _against(measured, is_whole=len(measured) == len(parts)):
        return "contradicted", against
    missing = [part.label for part in parts if not part.differences]
    if missing:
        return "undecided", f"not measured: {', '.join(missing)}"
    hold = [part for part in measured if part.delta.mean > 0]
    weakest = max(measured, key=lambda part: (part.delta.mean <= 0, part.delta.p, -part.delta.mean))
    if len(hold) == len(parts) and all(part.delta.p <= stats.LEVEL for part in parts):
        whole = f"all {len(parts)} parts hold; the weakest: " if len(parts) > 1 else ""
        return "supported", f"{whole}{weakest.text}, p = {weakest.delta.p:.2g}"
    seeds = min(len(part.differences) for part in measured)
    smallest = math.ldexp(2.0, -seeds)
    few = f"; {seeds} seed{'s' * (seeds > 1)} cannot give a p below {smallest:.2g}" if smallest > stats.LEVEL else ""
    counted = f"{len(hold)} of {len(parts)} parts point its way, the weakest: " if len(parts) > 1 else ""
    return "undecided", f"{counted}{weakest.text}{few}"


def _against(parts: Sequence[Part], *, is_whole: bool) -> str:
    """What contradicts a claim; empty where nothing does."""
    against = [part.delta.p if part.delta.mean < 0 else 1.0 for part in parts]
    if is_whole and max(against) <= stats.LEVEL:
        whole = f"all {len(parts)} parts the other way round" if len(parts) > 1 else "the other way round"
        return f"{whole}, p <= {max(against):.2g}; {parts[0].text}"
    for part, p in zip(parts, stats.holm(against), strict=True):
        if p <= stats.LEVEL:
            return f"the other way round: {part.text}, p = {p:.2g} after Holm"
    equal = [
        stats.equivalence_p(part.differences, part.margin) if len(part.differences) >= LEAST_SEEDS else 1.0
        for part in parts
    ]
    for part, p in zip(parts, stats.holm(equal), strict=True):
        if p <= stats.LEVEL:
            return f"no difference that matters: {part.text}, within {part.margin:.2g} (p = {p:.2g})"
    return ""


def ledger_table(findings: Sequence[JudgedClaim]) -> Table:
    """The claims ledger, a row a claim."""
    rows = [
        TableRow(
            f"{one.claim.number}. {one.claim.text} ({one.claim.source})",
            (
                TableEntry(one.state),
                TableEntry(one.why),
                TableEntry(str(one.seeds), value=one.seeds),
                TableEntry(one.scale),
            ),
        )
        for one in findings
    ]
    return Table("claim", ("verdict", "what decided it", "seeds", "scale, model, data"), tuple(rows))


def document(findings: Sequence[JudgedClaim]) -> list[dict[str, object]]:
    """The ledger for programs: each claim with every part's differences, mean, interval and p."""
    return [
        {
            "claim": one.claim.number,
            "text": one.claim.text,
            "source": one.claim.source,
            "verdict": one.state,
            "why": one.why,
            "seeds": one.seeds,
            "scale": one.scale,
            "parts": [
                {"label": part.label, "differences": list(part.differences), "margin": part.margin}
                | ({name: _finite(value) for name, value in part.delta._asdict().items()} if part.differences else {})
                for part in one.parts
            ],
        }
        for one in findings
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


Cells = Mapping[str, CellSummary]
"""The cells of a sweep by the row of the paper's table that each stands for."""


def _difference(cells: Cells, better: str, worse: str, metric: str, *, rises: bool = True) -> Part:
    """That one cell has more of a metric than another, or less where it does not rise."""
    names = [cells[row].label if row in cells else row for row in (better, worse)]
    label = f"{metrics.title(metric)}, {names[0]} {'over' if rises else 'under'} {names[1]}"
    at_worse = cells[worse].mean(metric) if worse in cells else None
    if better not in cells or not is_number(cells[better].mean(metric)) or not is_number(at_worse):
        return Part(label, (), 1.0)
    first, second = cells[better].by_seed(metric), cells[worse].by_seed(metric)
    same_n = cells[better].mean("test/num_responses") == cells[worse].mean("test/num_responses")
    if first.keys() != second.keys() or (metrics.of(metric).needs_equal_n and not same_n):
        return Part(label, (), 1.0)
    sign = 1 if rises else -1
    differences = tuple(sign * (first[seed] - second[seed]) for seed in first)
    return Part(label, differences, metrics.margin(metric, at_worse) or 1e-9, metrics.of(metric).decimals)


def _per_seed(label: str, values: Sequence[float], allowed: float) -> Part:
    return Part(label, tuple(values), allowed, 3)


def _beats_prompt_tuning(cells: Cells) -> list[Part]:
    return [_difference(cells, "SPT", "PT", metric) for metric in published.ALL]


def _without_contrastive(cells: Cells) -> list[Part]:
    return [_difference(cells, "SPT", "w/o contrastive", metric) for metric in published.FIVE]


def _without_fusion(cells: Cells) -> list[Part]:
    pair = ("SPT", "w/o fusion")
    return [_difference(cells, *pair, metric, rises=metric != DIST_AVG) for metric in published.FIVE]


def _without_selection(cells: Cells) -> list[Part]:
    others = ("SPT", "w/o contrastive", "w/o fusion")
    parts = [_difference(cells, other, "w/o selection", DIST_AVG) for other in others]
    summary = cells.get("w/o selection")
    shares = [] if summary is None or not summary.is_whole else list(claim_measures.largest_shares(summary))
    return [*parts, _per_seed("share of the most chosen prompt over 95%", [s - 95.0 for s in shares], 1.0)]


def _best_is_at_most_4(cells: Cells) -> list[Part]:
    """Per seed: the share of metrics whose best K is at most 4, over one half."""
    label = "share of metrics whose best K is at most 4, over one half"
    counts = {summary.trials[0].config.prompts.num_prompts: summary for summary in cells.values() if summary.is_whole}
    metrics = [m for m in published.FIVE if all(is_number(summary.mean(m)) for summary in counts.values())]
    if not metrics or not any(k > 4 for k in counts) or not any(k <= 4 for k in counts):
        return [Part(label, (), 0.1)]
    seeds = next(iter(counts.values())).by_seed(metrics[0])

    def share(seed: int) -> float:
        best = [max(counts, key=lambda k: counts[k].by_seed(metric)[seed]) for metric in metrics]
        return float(sum(k <= 4 for k in best) / len(best))

    return [_per_seed(label, [share(seed) - 0.5 for seed in seeds], 0.1)]


def _longer_prompts(cells: Cells) -> list[Part]:
    some = (published.BLEU, published.ROUGE_1, published.ROUGE_2, published.ROUGE_L, DIST_AVG)
    return [
        *(_difference(cells, "SPT", "one prompt of 4", metric) for metric in published.ALL),
        *(_difference(cells, "SPT", "one prompt of 8", metric) for metric in some),
    ]


def _beats_lora(cells: Cells) -> list[Part]:
    return [_difference(cells, "SPT", "LoRA", metric) for metric in published.ALL]


def _persona(cells: Cells) -> list[Part]:
    parts = [_difference(cells, "SPT", "PT", metric, rises=False) for metric in published.PERSONA]
    label, pairs = "persona BLEU at equal length, SPT under PT", []
    if {"SPT", "PT"} <= cells.keys() and cells["SPT"].is_whole and cells["PT"].is_whole:
        pairs = claim_measures.equal_length_persona_bleu(cells["SPT"], cells["PT"])
    allowed = 0.02 * sum(pt for _, pt in pairs) / len(pairs) if pairs else 1.0
    return [*parts, _per_seed(label, [pt - spt for spt, pt in pairs], allowed or 1e-9)]


def _stages(cells: Cells) -> list[Part]:
    summary = cells.get("SPT")
    values = [] if summary is None or not summary.is_whole else claim_measures.excess_association(summary)
    return [_per_seed("association of prompt and stage (Cramer's V) over chance", values, 0.05)]


def _narrows(cells: Cells) -> list[Part]:
    summary = cells.get("SPT")
    values: list[float] = []
    if summary is not None and summary.is_whole and is_number(summary.mean("test/usage_entropy")):
        half = summary.trials[0].config.num_choices / 2
        values = [half - math.exp(entropy) for entropy in summary.by_seed("test/usage_entropy").values()]
    return [_per_seed("prompts in use (exp of the entropy) under K / 2", values, 0.1)]


_CONTROLS = {
    "a random prompt": "routing/random/nll",
    "shuffled contexts": "routing/shuffled/nll",
    "a rule by turn": "routing/turn/nll",
}


def _selection(cells: Cells) -> list[Part]:
    """NLL under the retriever's choice against K = 1 and each control; the best fixed prompt is the best on test."""
    parts = [_difference(cells, "SPT", "PT", "test/nll", rises=False)]
    summary = cells.get("SPT")
    own = {} if summary is None or not summary.is_whole else summary.by_seed("test/nll")
    for name, metric in _CONTROLS.items():
        control = {} if summary is None else summary.by_seed(metric)
        values = [control[seed] - own[seed] for seed in own if seed in control]
        parts.append(_per_seed(f"test NLL under {name}", values if len(values) == len(own) else [], 0.01))
    fixed = [] if summary is None else [_best_fixed(summary, seed) for seed in own]
    known = [best - own[seed] for best, seed in zip(fixed, own, strict=True) if best is not None]
    return [*parts, _per_seed("test NLL under the best fixed prompt", known if len(known) == len(own) else [], 0.01)]


def _best_fixed(summary: CellSummary, seed: int) -> float | None:
    metrics = (f"routing/fixed_{k}/nll" for k in range(summary.trials[0].config.num_choices))
    return min((values[seed] for m in metrics if seed in (values := summary.by_seed(m))), default=None)


_TESTS: Mapping[int, tuple[str, Callable[[Cells], list[Part]]]] = {
    1: ("table1", _beats_prompt_tuning),
    2: ("loss_ablation", _without_contrastive),
    3: ("loss_ablation", _without_fusion),
    4: ("loss_ablation", _without_selection),
    5: ("k_sweep", _best_is_at_most_4),
    6: ("longer_prompts", _longer_prompts),
    7: ("baselines", _beats_lora),
    8: ("table1", _persona),
    9: ("table1", _stages),
    10: ("table1", _narrows),
    11: ("table1", _selection),
}
"""By number of the claim: the sweep that it is tested on, and its parts from that sweep's cells."""
