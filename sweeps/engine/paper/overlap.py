"""Overlap with the persona at equal length: the longer of two replies is cut to the words of the shorter."""

from spt_core.metrics import persona_overlap
from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.store import trial_folder


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
