"""With one seed: how far a difference between two trials depends on which dialogues the test split has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spt_core import metrics as text_metrics
from sweeps.engine.analysis import resampling
from sweeps.engine.analysis.stats import Interval
from sweeps.engine.store import trial_folder
from sweeps.engine.store.trial_folder import TrialResult

MOST_REPLIES = 100_000
"""Replies of a sweep beyond which metrics of their text have no such interval: scoring them again takes minutes."""

_ROUGE = {"test/rouge_1": "rouge1", "test/rouge_2": "rouge2", "test/rouge_l": "rougeL"}
_DIST = {"test/dist_1": (1,), "test/dist_2": (2,), "test/dist_avg": (1, 2)}
COVERED = ("test/nll", "test/f1", "test/bleu", *_ROUGE, *_DIST)
"""Metrics that can be computed anew for any choice of dialogues from what a trial leaves."""


@dataclass(frozen=True)
class Responses:
    """What one trial did with each test response, as far as one metric asks.

    Attributes:
        places: dialogue, turn and number of tokens, which two trials must share to be paired.
        statistics_NS: additive over responses; None for DIST.
        replies: after the cut; empty but for DIST.
    """

    places: list[tuple[str, int, int]]
    statistics_NS: NDArray[np.float64] | None
    replies: list[str]

    @property
    def dialogues(self) -> list[str]:
        """Of each response."""
        return [dialogue for dialogue, _, _ in self.places]


@dataclass(frozen=True)
class ExampleNoise:
    """The interval of a difference over test dialogues; p of the swap test for DIST, else NaN."""

    interval: Interval
    p: float
    num_dialogues: int


def read(result: TrialResult, metric: str) -> Responses | None:
    """A trial's responses as a metric needs them; None where they are not at hand or the metric is not `COVERED`."""
    if metric not in COVERED:
        return None
    columns = ["nll"] if metric == "test/nll" else ["prediction", "reference"]
    names = ["dialogue", "turn", "num_tokens", *columns]
    rows = trial_folder.read_predictions(result.folder, names)
    if rows is None:
        return None
    of: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in names}
    if None in of.get("nll", []):
        return None
    places = list(zip(of["dialogue"], of["turn"], of["num_tokens"], strict=True))
    if metric in _DIST:
        return Responses(places, None, of["prediction"])
    return Responses(places, _statistics(metric, of), [])


def compare(cell: Responses, baseline: Responses, metric: str) -> ExampleNoise | None:
    """Cell against baseline over the dialogues of the test split; None unless both answered the same contexts."""
    if cell.places != baseline.places:
        return None
    dialogues, p = cell.dialogues, math.nan
    if metric in _DIST:
        interval, p = resampling.compare_dist(cell.replies, baseline.replies, dialogues, orders=_DIST[metric])
    else:
        assert cell.statistics_NS is not None
        assert baseline.statistics_NS is not None
        score = resampling.bleu if metric == "test/bleu" else resampling.ratio
        interval = resampling.corpus_bootstrap(cell.statistics_NS, baseline.statistics_NS, dialogues, score=score)
    return ExampleNoise(interval, p, len(set(dialogues)))


def _statistics(metric: str, of: dict[str, list[Any]]) -> NDArray[np.float64]:
    if metric == "test/nll":
        tokens = np.array(of["num_tokens"], dtype=np.float64)
        return np.stack([tokens * np.array(of["nll"]), tokens], axis=1)
    replies, references = of["prediction"], of["reference"]
    if metric == "test/bleu":
        return resampling.bleu_statistics(replies, references)
    values = _f1(replies, references) if metric == "test/f1" else _rouge(replies, references, _ROUGE[metric])
    return np.stack([values, np.ones_like(values)], axis=1)


def _f1(replies: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    return 100 * np.array(list(map(text_metrics.unigram_f1, replies, references)))


def _rouge(replies: Sequence[str], references: Sequence[str], kind: str) -> NDArray[np.float64]:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    scorer = RougeScorer([kind], tokenizer=DefaultTokenizer(use_stemmer=False))
    return 100 * np.array([scorer.score(b, a)[kind].fmeasure for a, b in zip(replies, references, strict=True)])
