"""The figures of a search: each value lies where it should on its axis, and the best trials are marked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from sweeps.engine.design.search import Search
from sweeps.engine.report import search_figures
from sweeps.engine.search.study import KEY
from tests.sweeps.report.test_figures import assert_linear, lines, marks, parsed, texts, vertices

K, ON, GAMMA = "prompts.num_prompts", "losses.contrastive.enabled", "losses.contrastive.threshold"
SPACE: Mapping[str, BaseDistribution] = {
    K: IntDistribution(1, 4),
    ON: CategoricalDistribution([True, False]),
    GAMMA: FloatDistribution(1, 100, log=True),
}
DESIGN = Search(space=SPACE, only_if={GAMMA: (ON,)}, objectives=("dev/nll", "dev/dist_gap"))


def trial(number: int, params: dict[str, Any], values: Sequence[float]) -> FrozenTrial:
    distributions = {path: SPACE[path] for path in params}
    attributes = {KEY: f"trial{number}"}
    one = create_trial(params=params, distributions=distributions, values=values, user_attrs=attributes)
    one.number = number
    return one


def test_objectives_are_points_and_the_front_is_joined() -> None:
    values = [(0.5, 9.5), (1.0, 9.0), (2.0, 5.0), (4.0, 1.0), (3.0, 6.0), (4.0, 2.0)]
    trials = [trial(number, {K: 1}, pair) for number, pair in enumerate(values)]
    svg = parsed(search_figures.scatter(trials, DESIGN, trials[:4]))
    found = marks(svg)
    tips = [f"trial{n}: dev/nll {x:.3f}, dev/dist_gap {y:.2f}" for n, (x, y) in enumerate(values)]
    assert set(found) == set(tips)
    assert assert_linear([found[tip][0] for tip in tips], [x for x, _ in values]) > 0
    assert assert_linear([found[tip][1] for tip in tips], [y for _, y in values]) < 0
    (front,) = [vertices(one) for one in svg.iter("path") if "stroke-dasharray" in one.attrib["style"]]
    np.testing.assert_allclose(front, [found[tip] for tip in tips[:4]], atol=0.11)
    hues = {one.findtext("title", ""): re.findall(r"0\.13 (\d+)", one.attrib["style"]) for one in svg.iter("use")}
    assert [hues[tip] for tip in tips] == [["28"]] * 4 + [["262"]] * 2


def test_one_objective_has_no_plane() -> None:
    design = replace(DESIGN, objectives=("dev/nll",))
    assert search_figures.scatter([trial(0, {K: 1}, [3.0])], design, []) is None


def test_parallel_coordinates_put_each_value_on_its_axis() -> None:
    best = trial(0, {K: 4, ON: True, GAMMA: 10.0}, [3.0, 9.0])
    other = trial(1, {K: 1, ON: False}, [4.0, 9.0])
    svg = parsed(search_figures.coordinates([best, other], DESIGN, [best]))
    axes = [vertices(one) for one in svg.iter("path") if "var(--soft)" in one.attrib.get("style", "")]
    assert [len(one) for one in axes] == [2] * 5
    (left, _), (right, _) = axes[0]
    drawn = lines(svg)
    assert list(drawn) == [
        "num_prompts 1, contrastive off, dev/nll 4, dev/dist_gap 9",
        "num_prompts 4, contrastive on, contrastive.threshold 10, dev/nll 3, dev/dist_gap 9",
    ]  # the best above the rest
    shares = [[(x - left) / (right - left) for x, _ in line] for line in drawn.values()]
    np.testing.assert_allclose(shares, [[0, 0.75, 1.1, 1, 0.5], [1, 0.25, 0.5, 0, 0.5]], atol=0.001)
    for line in drawn.values():
        np.testing.assert_allclose([y for _, y in line], [axis[0][1] for axis in axes], atol=0.11)
    names = ["num_prompts", "contrastive", "contrastive.threshold", "dev/nll", "dev/dist_gap"]
    assert texts(svg) == [*names, "none", "1", "4", "on", "off", "1", "100", "3", "4", "9"]


def test_nothing_is_absent_where_every_trial_has_every_parameter() -> None:
    design = replace(DESIGN, space={K: SPACE[K]}, only_if={})
    trials = [trial(number, {K: number + 1}, [3.0, 9.0]) for number in range(3)]
    assert "none" not in texts(parsed(search_figures.coordinates(trials, design, trials[:1])))
    assert search_figures.coordinates(trials[:1], design, trials[:1]) is None


def test_of_a_long_search_the_best_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_figures, "MOST_TRIALS", 3)
    trials = [trial(number, {K: 1}, [3.0 + number, 9.0 + number]) for number in range(5)]
    assert len(marks(parsed(search_figures.scatter(trials, DESIGN, trials[:1])))) == 3
    assert len(lines(parsed(search_figures.coordinates(trials, DESIGN, trials[:1])))) == 3
