"""The programs in docs/figures: their numbers against values worked by hand, and the files that they draw."""

import importlib.util
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def figure() -> Any:
    path = PROJECT / "docs" / "figures" / "text_similarity.py"
    spec = importlib.util.spec_from_file_location("figure_of_text_similarity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_numbers_worked_by_hand(figure: Any) -> None:
    similarity_P = torch.tensor([5.0, 20.0, 30.0, 100.0])
    found = figure.distribution(similarity_P, torch.tensor([True, True, True, False]))
    assert (found.above, found.above_within) == (0.5, 0.5)  # 20 is not above 20
    assert found.quantiles == pytest.approx(np.quantile(similarity_P, [0.9, 0.99]))
    assert (found.shares[0], found.shares[20], found.shares[-1]) == (1, 0.75, 0)  # above 0, 10 and 100


def test_the_figure_is_well_formed_and_shows_its_numbers(figure: Any) -> None:
    one = figure.distribution(torch.tensor([5.0, 20.0, 30.0, 100.0]), torch.tensor([False] * 4))
    found = {(measure, text): one for measure in figure.TITLES for text in figure.COLOURS}
    drawing = ElementTree.fromstring(figure.draw(found, source="a<b.txt", num_examples=4))
    words = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("50% of pairs above Γ = 20") == 6
    assert words.count("0.9 quantile: 79.0") == 6
    assert any("6 random pairs" in str(text) and "a<b.txt" in str(text) for text in words)
    assert "| bleu | persona | 50% | 0% | 79.0 | 97.9 |" in figure.table(found)
