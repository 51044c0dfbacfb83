"""The metrics of a trial: which exist, which way is better, how each is shown. No other module knows this.

A metric's name is a path: `test/f1`, `dev/nll`, `raw/bleu`, `routing/random/nll`. Its last part says what is measured,
and the registry is keyed by it. What comes before says on which replies.
"""

from dataclasses import dataclass
from typing import Literal

from spt_core.config import TrialConfig

Goal = Literal["lower", "higher", "human"]
"""Which way is better; `human`: nearer to the value of the human replies at the same number of replies."""


@dataclass(frozen=True)
class Metric:
    """What is known of a measured quantity, on whichever replies.

    Attributes:
        title: its name in tables and sentences.
        goal: which way is better; None for a quantity that only describes, which no cell can be better in.
        decimals: it is shown with.
        margin: the largest difference that does not matter, in its own unit; None is 2% of the baseline's value.
        needs_equal_n: it depends on the number of replies, so only sets of one size compare.
    """

    title: str
    goal: Goal | None = "higher"
    decimals: int = 2
    margin: float | None = None
    needs_equal_n: bool = False


def _nll(title: str) -> Metric:
    return Metric(title, "lower", decimals=3, margin=0.01)


def _dist(title: str, goal: Goal = "human") -> Metric:
    return Metric(title, goal, needs_equal_n=True)


REGISTRY: dict[str, Metric] = {
    "nll": _nll("NLL"),
    "oracle_nll": _nll("NLL under the least-NLL prompt"),
    "nll_start": _nll("NLL before training"),
    "objective": Metric("objective", "lower", decimals=3),
    "f1": Metric("F1"),
    "bleu": Metric("BLEU"),
    "rouge_1": Metric("ROUGE-1"),
    "rouge_2": Metric("ROUGE-2"),
    "rouge_l": Metric("ROUGE-L"),
    "bert_f1": Metric("BERT F1"),
    "bert_precision": Metric("BERT P"),
    "bert_recall": Metric("BERT R"),
    "dist_1": _dist("DIST-1"),
    "dist_2": _dist("DIST-2"),
    "dist_avg": _dist("DIST_AVG"),
    "dist_gap": _dist("distance of DIST_AVG from the human replies'", "lower"),
    "avg": Metric("AVG"),
    "persona_bleu": Metric("persona bleu", "lower"),
    **{f"persona_bleu_{n}": Metric(f"persona bleu {n}", "lower") for n in (1, 2, 3, 4)},
    "lm_agreement": Metric("LM agrees, %", decimals=1),
    "lm_rank_correlation": Metric("rank correlation with the LM"),
    "usage_entropy": Metric("usage entropy", None, decimals=3),
    "prompts_used": Metric("prompts used", None, decimals=1),
    "dead_prompts": Metric("never chosen", None, decimals=1),
    "mean_length": Metric("mean length", None, decimals=1),
    "emoji_rate": Metric("with emoji, %", None, decimals=1),
    "share_cut": Metric("shortened by the cut, %", None, decimals=1),
    "num_responses": Metric("replies", None, decimals=0),
    "seconds": Metric("seconds", "lower", decimals=0),
    "steps": Metric("steps", None, decimals=0),
    "trainable_parameters": Metric("trained parameters", "lower", decimals=0),
}

DEV_NLL, TEST_NLL = "dev/nll", "test/nll"
DEV_AVG = "dev/avg"
"""AVG (Table 1) of a search's dev replies, relative to its base; computed by the search, not by a trial."""
TABLE_1 = (
    *("f1", "bleu", "rouge_1", "rouge_2", "rouge_l"),
    *("bert_f1", "bert_precision", "bert_recall", "dist_1", "dist_2"),
)
"""The ten metrics of the paper's Table 1, in its order."""
MAIN = ("nll", "f1", "bleu", "rouge_l", "dist_avg", "bert_f1")
"""What every cell is compared in beside the primary metric, and what `spt verify` judges."""
COMPARED = tuple(f"test/{name}" for name in MAIN)

_DECODED = (*TABLE_1, "dist_avg", "dist_gap", *(name for name in REGISTRY if name.startswith(("persona", "lm_"))))
_ANSWERABLE = {
    "test": ("nll", "oracle_nll", *_DECODED),
    "dev": ("nll", "objective", "avg", "oracle_nll", *_DECODED),
    "raw": ("f1", "bleu", "rouge_1", "rouge_2", "rouge_l", "dist_1", "dist_2", "dist_avg"),
}
"""By split, the metrics that a person may ask a sweep or a search about."""


def of(name: str) -> Metric:
    """What is known of a metric; of one that is not registered, its own name, shown with two decimals."""
    last = name.rsplit("/", 1)[-1]
    return REGISTRY.get(last) or Metric(last.replace("_", " "))


def title(name: str) -> str:
    """A metric's name for people: `F1` for `test/f1`, `dev NLL` for `dev/nll`."""
    split, _, last = name.rpartition("/")
    names_its_split = split in {"dev", "raw"} or (split == "test" and last in {"nll", "oracle_nll"})
    return f"{split} {of(name).title}" if names_its_split else of(name).title


def direction(name: str) -> str:
    """Which way is better, in words."""
    goal = of(name).goal
    return "nearer to the human replies is better" if goal == "human" else f"{goal or 'higher'} is better"


def is_lower_better(name: str) -> bool:
    """Whether a search should minimise it."""
    return of(name).goal == "lower"


def badness(name: str, value: float, *, human: float | None) -> float:
    """A value as a number of which the lower is the better.

    Args:
        name: of the metric.
        value: of a cell.
        human: the human replies' value at the same number of replies, where there is one.
    """
    goal = of(name).goal
    if goal == "human" and human is not None:
        return abs(value - human)
    return value if goal == "lower" else -value


def margin(name: str, baseline_mean: float) -> float:
    """The largest difference from the baseline that does not matter."""
    fixed = of(name).margin
    return 0.02 * abs(baseline_mean) if fixed is None else fixed


def refuse_unknown(name: str, asked_by: str, *, splits: tuple[str, ...] = ("test", "dev", "raw")) -> None:
    """Refuse a metric that no trial has, before anything runs.

    Args:
        name: as a person gave it.
        asked_by: the option or field that it was given to.
        splits: whose metrics may be asked for.

    Raises:
        ValueError: the field, the value, and the metrics that may be asked for.
    """
    split, _, last = name.partition("/")
    if split not in splits or last not in _ANSWERABLE[split]:
        known = "; ".join(f"{one}/ {', '.join(_ANSWERABLE[one])}" for one in splits)
        raise ValueError(f"{asked_by} = {name!r}: no trial has this metric. The known ones are {known}")


def refuse_unmeasured(name: str, config: TrialConfig, asked_by: str) -> None:
    """Refuse a metric that trials of this config will not have.

    Raises:
        ValueError: the field, the value, and the config field that would let a trial have it.
    """
    split, _, last = name.partition("/")
    evaluation = config.evaluation
    if last.startswith("bert_") and evaluation.bert_encoder is None:
        raise ValueError(
            f"{asked_by} = {name!r}: evaluation.bert_encoder is None, so BERTScore is not computed; set it"
        )
    if split == "dev" and evaluation.split != "dev" and last not in {"nll", evaluation.select_by}:
        raise ValueError(
            f"{asked_by} = {name!r}: only dev/nll is measured while training; ask for test/{last}, or set "
            "evaluation.split=dev"
        )
    if split == "test" and evaluation.split != "test":
        raise ValueError(f"{asked_by} = {name!r}: evaluation.split = {evaluation.split!r} leaves test alone")
