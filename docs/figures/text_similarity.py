"""Draws how the three measures M of text similarity are distributed over random pairs of training examples.

python docs/figures/text_similarity.py --train dialogues.txt
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from spt_core import recipes, weights
from spt_core.batching import Example, tokenise
from spt_core.conversations import load
from spt_core.seeding import generator
from spt_core.text_similarity import similarity_matrix

OUT = Path(__file__).with_suffix(".svg")
GAMMA = 20.0  # the paper's
QUANTILES = (0.9, 0.99)
TITLES = {"bleu": "BLEU", "rouge_l": "ROUGE-L", "embedding": "Embedding cosine × 100 (MiniLM-L6)"}
COLOURS = {"context": "#1f5fbf", "persona": "#c4500c"}
PAPER = "#fcfcfa"

LEVELS = torch.linspace(0, 100, 201)
LEAST_SHARE, MOST_SHARE = 1e-5, 1.0
WIDTH, LEFT, RIGHT, TOP, PANEL, GAP, FOOT = 880, 62, 600, 96, 140, 52, 46
HEIGHT = TOP + 3 * PANEL + 2 * GAP + FOOT


@dataclass(frozen=True)
class Distribution:
    """M of one measure over the pairs of one kind of text.

    Attributes:
        shares: of the pairs above each of `LEVELS`.
        above: share of the pairs above Gamma.
        above_within: share of the pairs above Gamma whose examples are of one dialogue; NaN where none is above.
        quantiles: at `QUANTILES`.
    """

    shares: tuple[float, ...]
    above: float
    above_within: float
    quantiles: tuple[float, ...]


def distribution(similarity_P: Tensor, same_dialogue_P: Tensor) -> Distribution:
    """Sum up the similarities of P pairs.

    Args:
        similarity_P: M of each pair, 0 to 100.
        same_dialogue_P: whether both examples of a pair are of one dialogue.
    """
    above_P = similarity_P > GAMMA
    return Distribution(
        shares=tuple((similarity_P > level).float().mean().item() for level in LEVELS),
        above=float(above_P.float().mean()),
        above_within=float(same_dialogue_P[above_P].float().mean()),
        quantiles=tuple(similarity_P.quantile(torch.tensor(QUANTILES)).tolist()),
    )


def distributions(examples: Sequence[Example]) -> dict[tuple[str, str], Distribution]:
    """By measure and text, over all pairs i < j of the examples."""
    rows_P, columns_P = torch.triu_indices(len(examples), len(examples), offset=1)
    number_of = {dialogue: number for number, dialogue in enumerate({example.dialogue for example in examples})}
    dialogues = torch.tensor([number_of[example.dialogue] for example in examples])
    same_dialogue_P = dialogues[rows_P] == dialogues[columns_P]
    found = {}
    for measure in TITLES:
        for text in COLOURS:
            similarity_BB = similarity_matrix([getattr(example, text) for example in examples], measure=measure)
            found[measure, text] = distribution(similarity_BB[rows_P, columns_P], same_dialogue_P)
    return found


def table(found: dict[tuple[str, str], Distribution]) -> str:
    """The numbers as Markdown."""
    lines = [
        "| M | text | pairs above 20 | of those, in one dialogue | 0.9 quantile | 0.99 quantile |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for (measure, text), one in found.items():
        quantiles = " | ".join(f"{value:.1f}" for value in one.quantiles)
        within = "none" if math.isnan(one.above_within) else _percent(one.above_within)
        lines.append(f"| {measure} | {text} | {_percent(one.above)} | {within} | {quantiles} |")
    return "\n".join(lines)


def draw(found: dict[tuple[str, str], Distribution], *, source: str, num_examples: int) -> str:
    """The SVG: a panel a measure on one common axis, a curve a text, and the numbers beside them in words."""
    num_pairs = math.comb(num_examples, 2)
    panels = "".join(
        _panel(measure, {text: found[measure, text] for text in COLOURS}, top=TOP + index * (PANEL + GAP))
        for index, measure in enumerate(TITLES)
    )
    bottom = HEIGHT - FOOT
    ticks = "".join(
        f'<text x="{_x(m):.1f}" y="{bottom + 18}" class="middle soft">{m}</text>' for m in range(0, 101, 20)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">
<title>Text similarity M of random pairs of training examples, by measure</title>
<style>
text {{ font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #22262b; }}
.head {{ font-size: 18px; font-weight: 600; }} .name {{ font-weight: 600; }} .soft {{ fill: #59616b; font-size: 13px; }}
.middle {{ text-anchor: middle; }} .end {{ text-anchor: end; }}
.grid {{ stroke: #dfe2e6; }} .axis {{ stroke: #59616b; }} .gamma {{ stroke: #22262b; stroke-dasharray: 4 3; }}
</style>
<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{PAPER}"/>
<text x="20" y="34" class="head">How alike are two training examples?</text>
<text x="20" y="56" class="soft">Share of {num_pairs:,} random pairs whose similarity is above M, on a logarithmic \
scale. {html.escape(source)}</text>
{panels}{ticks}
<text x="{(LEFT + RIGHT) / 2}" y="{bottom + 37}" class="middle">M, 0 to 100</text>
</svg>
"""


def _panel(measure: str, by_text: dict[str, Distribution], *, top: float) -> str:
    bottom = top + PANEL
    parts = [f'<text x="{LEFT}" y="{top - 10}" class="name">{html.escape(TITLES[measure])}</text>']
    for power in range(round(math.log10(LEAST_SHARE)) + 1, 1):
        y = _y(10.0**power, bottom)
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4.5:.1f}" class="end soft">{100 * 10.0**power:g}%</text>')
    parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>')
    gamma = _x(GAMMA)
    parts.append(f'<line x1="{gamma}" x2="{gamma}" y1="{top - 4}" y2="{bottom}" class="gamma"/>')
    parts.append(f'<text x="{gamma + 6}" y="{bottom - 8}">Γ = {GAMMA:g}</text>')
    for index, (text, one) in enumerate(by_text.items()):
        colour, words = COLOURS[text], top + 9 + index * 76
        points = " L".join(
            f"{_x(level):.1f} {_y(share, bottom):.1f}" for level, share in zip(LEVELS.tolist(), one.shares, strict=True)
        )
        parts.append(
            f'<path d="M{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
            f"{_dot(gamma, _y(one.above, bottom), colour, fill=colour)}"
            f"{_dot(_x(one.quantiles[0]), _y(1 - QUANTILES[0], bottom), colour, fill=PAPER)}"
            f'<line x1="{RIGHT + 24}" x2="{RIGHT + 44}" y1="{words}" y2="{words}" stroke="{colour}" stroke-width="3"/>'
            f'<text x="{RIGHT + 54}" y="{words + 5}" class="name">{text}</text>'
            f"{_dot(RIGHT + 34, words + 20, colour, fill=colour)}"
            f'<text x="{RIGHT + 54}" y="{words + 25}">{_percent(one.above)} of pairs above Γ = {GAMMA:g}</text>'
            f"{_dot(RIGHT + 34, words + 40, colour, fill=PAPER)}"
            f'<text x="{RIGHT + 54}" y="{words + 45}">0.9 quantile: {one.quantiles[0]:.1f}</text>'
        )
    return "\n".join(parts)


def _dot(x: float, y: float, colour: str, *, fill: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="2"/>'


def _x(similarity: float) -> float:
    return LEFT + (RIGHT - LEFT) * similarity / 100


def _y(share: float, bottom: float) -> float:
    above_least = math.log(max(share, LEAST_SHARE) / LEAST_SHARE) / math.log(MOST_SHARE / LEAST_SHARE)
    return bottom - PANEL * above_least


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 or share == 0 else f"{100 * share:.2g}%"


def main(
    *,
    train: Annotated[str, typer.Option(help="Training dialogues: a file or sample:train.")] = "sample:train",
    examples: Annotated[int, typer.Option(help="Examples drawn at random; all their pairs count.", min=2)] = 300,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    out: Annotated[Path, typer.Option(help="The SVG to write.")] = OUT,
) -> None:
    """Draw the distributions of the three measures and print their numbers."""
    config = recipes.smollm2_135m()
    tokenizer = weights.load_tokenizer(weights.resolve(config.backbone))
    every = tokenise(load(train), tokenizer, max_tokens=config.data.max_tokens)
    drawn = [every[i] for i in torch.randperm(len(every), generator=generator(seed, "figure"))[:examples].tolist()]
    found = distributions(drawn)
    out.write_text(draw(found, source=Path(train).name, num_examples=len(drawn)), encoding="utf-8")
    typer.echo(table(found))


if __name__ == "__main__":
    typer.run(main)
