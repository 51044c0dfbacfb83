"""What the filled sheets of a human evaluation say: means, paired differences, and how far the raters agree."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from sweeps.engine.analysis.stats import Interval, holm, paired_delta, t_interval
from sweeps.engine.human_eval.sheets import CRITERIA, KEY, SIDES, Criterion, Key, Side

MONTE_CARLO_FLIPS = 99_999
_FLIPS_AT_ONCE = 10_000
_DECIMALS_THAT_COUNT = 9
_RATINGS = {"0": 0.0, "1": 1.0, "2": 2.0, "": math.nan}
_RATED = [criterion.column for criterion in CRITERIA]

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CriterionResult:
    """What the raters say on one criterion; intervals and p are over dialogues.

    Attributes:
        criterion: which.
        num_examples: examples whose two responses are both rated.
        num_dialogues: that they come from.
        means: of each run: dialogues count alike, each with the mean of its examples.
        response_means: of each run, all responses alike: what Table 7 prints, without an interval.
        difference: A minus B, paired within dialogues.
        p: two-sided sign-flip p of the difference, exact up to 40 dialogues and Monte Carlo above.
        p_is_exact: which of the two.
        p_holm: adjusted for the three criteria.
        alpha: Krippendorff's, ordinal, over all responses; None with one rater.
    """

    criterion: Criterion
    num_examples: int
    num_dialogues: int
    means: dict[Side, Interval]
    response_means: dict[Side, float]
    difference: Interval
    p: float
    p_is_exact: bool
    p_holm: float
    alpha: float | None


@dataclass(frozen=True)
class Results:
    """A human evaluation, read and computed.

    Attributes:
        runs: name of each run.
        raters: name of each filled sheet.
        num_missing: ratings that were left out, of all raters together.
        criteria: in the order of the sheet.
        notes: what a reader should know before believing it.
    """

    runs: dict[Side, str]
    raters: tuple[str, ...]
    num_missing: int
    criteria: tuple[CriterionResult, ...]
    notes: tuple[str, ...]


def read_key(folder: Path) -> Key:
    """The key that the export left in its folder.

    Raises:
        ValueError: there is none, or it is not what the export wrote.
    """
    path = folder / KEY
    if not path.is_file():
        raise ValueError(f"{folder}: there is no {KEY} in it; name the folder that spt human-eval export wrote")
    try:
        return Key.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: this is not a key that spt human-eval export wrote; restore it") from error


def read_sheet(path: Path, items: Sequence[str], *, allow_missing: bool = False) -> _Floats:
    """The ratings of one filled sheet; its texts are not looked at.

    Args:
        path: CSV with commas, semicolons or tabs, as spreadsheet programs save it.
        items: names of all items.
        allow_missing: an empty cell, or an item that is not there, is a missing rating and no fault.

    Returns:
        [items, criteria], in their orders, NaN where a rating is missing.

    Raises:
        ValueError: a rating that is none, an unknown or repeated item, a missing column or rating.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such sheet; name a filled copy of the exported one")
    # Item names and ratings are ASCII, so a sheet saved in some other character set is as good.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    index_of = {item: index for index, item in enumerate(items)}
    ratings = np.full((len(items), len(CRITERIA)), math.nan)
    row_of: dict[str, int] = {}
    for number_of_row, row in _rows(path, text):
        item, where = row["item"], f"{path}, row {number_of_row}"
        if item not in index_of:
            raise ValueError(f"{where}: unknown item {item!r}; the sheet should be a copy of this folder's, unmixed")
        if item in row_of:
            raise ValueError(f"{where}: item {item} is in row {row_of[item]} already; leave one of the two")
        row_of[item] = number_of_row
        for column, name in enumerate(_RATED):
            if row[name] not in _RATINGS:
                raise ValueError(f"{where}, column {name}: {row[name]!r} is no rating; it should be 0, 1 or 2")
            ratings[index_of[item], column] = _RATINGS[row[name]]
    missing = [
        (row_of.get(items[index]), items[index], _RATED[column]) for index, column in np.argwhere(np.isnan(ratings))
    ]
    if missing and not allow_missing:
        first, item, name = min(missing, key=lambda one: one[0] or math.inf)
        where = f"row {first}, column {name}" if first else f"column {name} of item {item}, which is not there"
        raise ValueError(
            f"{path}, {where}: no rating, and {len(missing)} are missing in all; each should be 0, 1 or 2, or pass "
            "--allow-missing"
        )
    return ratings


def _rows(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    """Rows with something in them, by name of column, with the number that a spreadsheet shows beside each."""
    columns = ["item", *_RATED]
    header: list[str] = []
    for delimiter in ",;\t":
        try:
            header, *rows = list(csv.reader(io.StringIO(text), delimiter=delimiter)) or [[]]
        except csv.Error as error:
            raise ValueError(f"{path}: this is not CSV ({error}); save the sheet as CSV (UTF-8)") from error
        header = [name.strip() for name in header]
        if all(header.count(name) == 1 for name in columns):
            places = {name: header.index(name) for name in columns}
            return [
                (
                    number_of_row,
                    {name: row[place].strip() if place < len(row) else "" for name, place in places.items()},
                )
                for number_of_row, row in enumerate(rows, start=2)
                if any(cell.strip() for cell in row)
            ]
    raise ValueError(
        f"{path}, row 1: it should name each of the columns {', '.join(columns)} once; save the sheet as CSV (UTF-8)"
    )


def krippendorff_alpha(ratings: _Floats) -> float:
    """Krippendorff's alpha for ordinal ratings (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability).

    1 is perfect agreement, 0 is what chance would give. It counts how far apart two ratings of one item are in ranks,
    and takes any number of raters and missing ratings.

    Args:
        ratings: [raters, items], NaN where there is none.

    Returns:
        NaN where no item has two ratings, or all ratings are one value, which leaves nothing to agree on.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = np.stack([(ratings == value).sum(0) for value in values], axis=-1) if len(values) else np.zeros((0, 1))
    counts = counts[counts.sum(1) >= 2].astype(np.float64)  # [items, values]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    coincidences = (pairs / (counts.sum(1) - 1)[:, None, None]).sum(0)
    totals = coincidences.sum(0)
    ranks = totals.cumsum() - totals / 2
    distances = (ranks[:, None] - ranks) ** 2
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() - 1) if len(counts) else 0.0
    return float(1 - (coincidences * distances).sum() / expected) if expected else math.nan


def evaluate(key: Key, sheets: Sequence[Path], *, allow_missing: bool = False) -> Results:
    """Read the filled sheets and compare the runs.

    Ratings of an item are averaged over its raters. An example counts for a criterion where both of its responses
    have a rating; the examples of one dialogue, which share a persona and a history, are averaged first, so that the
    intervals and tests are over dialogues.

    Args:
        key: of the export.
        sheets: one a rater.
        allow_missing: see `read_sheet`.

    Raises:
        ValueError: a sheet that is refused or named twice, or a criterion on which no example is rated.
    """
    for index, sheet in enumerate(sheets):
        if sheet.resolve() in [earlier.resolve() for earlier in sheets[:index]]:
            raise ValueError(f"{sheet}: this sheet is named twice; name one sheet a rater")
    items = list(key.items)
    ratings = np.stack([read_sheet(sheet, items, allow_missing=allow_missing) for sheet in sheets])
    num_raters = np.isfinite(ratings).sum(0)
    means = np.where(num_raters > 0, np.nansum(ratings, axis=0) / np.maximum(num_raters, 1), math.nan)
    places = pd.MultiIndex.from_tuples([(item.dialogue, item.turn, item.run) for item in key.items.values()])
    found = [
        _unadjusted(criterion, pd.Series(means[:, column], index=places).unstack().dropna())
        for column, criterion in enumerate(CRITERIA)
    ]
    adjusted = holm([one["p"] for one in found])
    alphas = [krippendorff_alpha(ratings[:, :, column]) if len(sheets) > 1 else None for column in range(len(CRITERIA))]
    return Results(
        runs=key.runs,
        raters=tuple(str(sheet) for sheet in sheets),
        num_missing=int(np.isnan(ratings).sum()),
        criteria=tuple(
            CriterionResult(**one, p_holm=p_holm, alpha=alpha)
            for one, p_holm, alpha in zip(found, adjusted, alphas, strict=True)
        ),
        notes=_notes(sheets, ratings),
    )


def _unadjusted(criterion: Criterion, examples: pd.DataFrame) -> dict[str, Any]:
    """What one criterion shows by itself, of examples by run."""
    if examples.empty:
        raise ValueError(f"{criterion.column}: no example has both of its responses rated; rate at least one pair")
    dialogues = examples.groupby(level=0).mean()
    p, p_is_exact = sign_flip_p(dialogues["A"].to_numpy() - dialogues["B"].to_numpy())
    return {
        "criterion": criterion,
        "num_examples": len(examples),
        "num_dialogues": len(dialogues),
        "means": {side: t_interval(dialogues[side]) for side in SIDES},
        "response_means": {side: float(examples[side].mean()) for side in SIDES},
        "difference": t_interval(dialogues["A"] - dialogues["B"]),
        "p": p,
        "p_is_exact": p_is_exact,
    }


def sign_flip_p(differences: _Floats) -> tuple[float, bool]:
    """Two-sided p of the mean of paired differences when signs are flipped at random, and whether it is exact.

    Up to 40 differences it is the exact test of `stats.paired_delta`. Of more, 99,999 flips are drawn with a fixed
    seed, and p, which then counts the observed signs as one draw, does not fall under 0.00002 (Phipson and Smyth
    2010).
    """
    exact = paired_delta(differences, np.zeros_like(differences)).p
    if not math.isnan(exact):
        return exact, True
    answer = scipy_stats.permutation_test(
        (differences,),
        # Rounded, since equal sums of thirds come out unequal in the last bits, and ties must count as ties.
        lambda sample, axis: np.round(sample.mean(axis=axis), _DECIMALS_THAT_COUNT),
        permutation_type="samples",
        vectorized=True,
        n_resamples=MONTE_CARLO_FLIPS,
        batch=_FLIPS_AT_ONCE,
        random_state=np.random.default_rng(0),
    )
    return float(answer.pvalue), False


def _notes(sheets: Sequence[Path], ratings: _Floats) -> tuple[str, ...]:
    notes = []
    for index, sheet in enumerate(sheets):
        for earlier in range(index):
            if np.array_equal(ratings[index], ratings[earlier], equal_nan=True):
                notes.append(f"{sheets[earlier]} and {sheet} hold the same rating in every cell: is one a copy?")
    return tuple(notes)
