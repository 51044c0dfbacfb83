"""What the claims of the paper are measured by: overlap with the persona at equal length, and prompts by stage."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spt_core.metrics import persona_overlap
from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.store import trial_folder

PERMUTATIONS = 500
"""Of the prompts within each dialogue, for the association that chance gives."""


def equal_length_persona_bleu(first: CellSummary, second: CellSummary) -> list[tuple[float, float]]:
    """Persona BLEU (Table 5) of two cells whose replies to each context have as many words, a pair a seed.

    Published BLEU against a whole persona is mostly brevity; at equal length the penalty is the same on both sides.

    Args:
        first: a cell whose predictions are at hand.
        second: another, of the same seeds and contexts; else there are no pairs.
    """
    columns = ["dialogue", "turn", "persona", "prediction"]
    pairs = []
    for (trial, one), (other_trial, other) in zip(first.finished, second.finished, strict=False):
        rows, other_rows = (trial_folder.read_predictions(of.folder, columns) for of in (one, other))
        if trial.seed != other_trial.seed or not rows or not other_rows:
            return []
        replies = {(row["dialogue"], row["turn"]): row["prediction"].split() for row in other_rows}
        if replies.keys() != {(row["dialogue"], row["turn"]) for row in rows}:
            return []
        cut: tuple[list[str], list[str]] = ([], [])
        for row in rows:
            words, others = row["prediction"].split(), replies[row["dialogue"], row["turn"]]
            length = min(len(words), len(others))
            cut[0].append(" ".join(words[:length]))
            cut[1].append(" ".join(others[:length]))
        personas = [row["persona"] for row in rows]
        pairs.append(
            (persona_overlap(cut[0], personas)["persona_bleu"], persona_overlap(cut[1], personas)["persona_bleu"])
        )
    return pairs


def largest_shares(summary: CellSummary) -> Iterator[float]:
    """The share of the most chosen prompt of each seed, in percent."""
    for _, result in summary.finished:
        shares = [value for name, value in result.metrics.items() if name.startswith("test/usage/prompt_")]
        if shares:
            yield max(shares)


def excess_association(summary: CellSummary, *, seed: int = 0) -> list[float]:
    """Cramer's V of prompt and stage over what it is by chance, for each seed whose predictions are at hand.

    Chance is the mean of V over permutations of the prompts within each dialogue, which keeps what a dialogue as a
    whole prefers. V is 0 where a single prompt is chosen.

    Args:
        summary: a cell.
        seed: of the permutations.
    """
    found = []
    for _, result in summary.finished:
        rows = trial_folder.read_predictions(result.folder, ["dialogue", "stage", "prompt"])
        if not rows:
            return []
        stages = np.unique([row["stage"] for row in rows], return_inverse=True)[1]
        prompts = np.unique([row["prompt"] for row in rows], return_inverse=True)[1]
        dialogues = np.unique([row["dialogue"] for row in rows], return_inverse=True)[1]
        found.append(_excess(stages, prompts, dialogues, np.random.default_rng(seed)))
    return found


def _excess(
    stages: NDArray[np.intp], prompts: NDArray[np.intp], dialogues: NDArray[np.intp], generator: np.random.Generator
) -> float:
    order = np.argsort(dialogues, kind="stable")
    stages, prompts, dialogues = stages[order], prompts[order], dialogues[order]
    observed = cramers_v(stages, prompts)
    by_chance = []
    for _ in range(PERMUTATIONS):
        within = np.lexsort((generator.random(len(dialogues)), dialogues))
        by_chance.append(cramers_v(stages, prompts[within]))
    return observed - float(np.mean(by_chance))


def cramers_v(first: NDArray[np.intp], second: NDArray[np.intp]) -> float:
    """Cramer's V of two labellings, 0 to 1 (Cramer 1946); 0 where either has a single label."""
    num = (int(first.max()) + 1, int(second.max()) + 1)
    if min(num) == 1:
        return 0.0
    counts = np.bincount(first * num[1] + second, minlength=num[0] * num[1]).reshape(num).astype(float)
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi_squared / counts.sum() / (min(num) - 1)))
