"""The paper as data: every number of Tables 1 to 8, the conditions they were measured under, and its claims.

Huang et al., "Selective Prompting Tuning for Personalized Conversations with LLMs" (Findings of ACL 2024). Metrics have
the names of our own, so a published value and ours stand under one name. Nothing here is computed from another number;
what the paper's numbers say of each other is in the tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spt_core.config import TrialConfig, flatten
from sweeps.engine.design.metrics import TABLE_1

F1, BLEU = "test/f1", "test/bleu"
ROUGE_1, ROUGE_2, ROUGE_L = "test/rouge_1", "test/rouge_2", "test/rouge_l"
BERT_F1, BERT_PRECISION, BERT_RECALL = "test/bert_f1", "test/bert_precision", "test/bert_recall"
DIST_1, DIST_2, DIST_AVG = "test/dist_1", "test/dist_2", "test/dist_avg"
PERSONA = ("test/persona_bleu", *(f"test/persona_bleu_{n}" for n in (1, 2, 3, 4)))
"""Overlap with the persona: BLEU and the precisions of 1- to 4-grams."""
HUMAN = ("human/persona_consistency", "human/dialogue_consistency", "human/engagingness")
"""What raters scored 0, 1 or 2."""

ALL = tuple(f"test/{name}" for name in TABLE_1)
"""The ten metrics of Tables 1 and 8; AVG is over these."""
FIVE = (F1, BLEU, ROUGE_L, BERT_F1, DIST_AVG)
"""The five of Tables 2 to 4."""


Levels = Mapping[str, Any]
"""Config fields by dotted path, with the values that tell a cell from the others of its sweep."""


def has_levels(config: TrialConfig, levels: Levels) -> bool:
    """Whether a config has all of these values."""
    flat = flatten(config)
    return all(flat[path] == value for path, value in levels.items())


@dataclass(frozen=True)
class Published:
    """A table of the paper.

    Attributes:
        name: as `spt reproduce` takes it.
        caption: what it compares.
        metrics: of its columns.
        rows: label to one value a metric.
        reference: the row that the others are relative to.
        cells: of our sweeps: sweep name to row to the levels of the cell that stands for it.
        model: recipe of the rows; None where they name their own.
        notes: what a reader should know of the numbers.
    """

    name: str
    caption: str
    metrics: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    reference: str
    cells: Mapping[str, Mapping[str, Levels]] = field(default_factory=dict)
    model: str | None = "llama2_7b"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.reference in self.rows
        assert all(len(values) == len(self.metrics) for values in self.rows.values())

    def value(self, row: str, metric: str) -> float:
        """The published number; KeyError or ValueError where there is none."""
        return self.rows[row][self.metrics.index(metric)]

    def row_of(self, sweep: str, config: TrialConfig) -> str | None:
        """The first row whose levels a cell of a sweep has; None where it stands for none."""
        rows = self.cells.get(sweep, {})
        return next((row for row, levels in rows.items() if has_levels(config, levels)), None)

    def relative(self, row: str, metric: str) -> float:
        """Change from the reference row, in percent of it."""
        return 100 * (self.value(row, metric) / self.value(self.reference, metric) - 1)


MODEL_NAMES = {"opt_125m": "OPT-125M", "opt_1_3b": "OPT-1.3B", "opt_2_7b": "OPT-2.7B", "llama2_7b": "Llama2-7B"}
"""How the paper calls the models of our recipes."""

PRINTED_AVG = {"opt_125m": 16.60, "opt_1_3b": 16.43, "opt_2_7b": 33.04, "llama2_7b": 26.62}
"""AVG as Table 1 prints it: mean relative improvement of SPT over PT across the ten metrics, in percent."""

_TABLE_1 = {
    "opt_125m": {
        "PT": (10.79, 1.61, 14.36, 2.67, 13.25, 53.15, 53.90, 52.91, 3.94, 13.67),
        "SPT": (11.06, 2.22, 16.45, 3.60, 15.42, 54.86, 56.23, 53.91, 4.87, 17.38),
    },
    "opt_1_3b": {
        "PT": (8.16, 1.82, 11.48, 2.22, 10.29, 55.31, 57.12, 53.93, 4.87, 17.19),
        "SPT": (9.94, 2.66, 13.74, 3.24, 12.38, 56.34, 58.08, 54.99, 4.93, 17.76),
    },
    "opt_2_7b": {
        "PT": (8.67, 1.77, 11.84, 2.30, 10.61, 56.25, 58.48, 54.49, 5.18, 18.61),
        "SPT": (12.23, 3.11, 16.97, 4.37, 15.61, 57.96, 59.92, 56.45, 5.84, 20.76),
    },
    "llama2_7b": {
        "PT": (17.12, 1.99, 15.74, 4.07, 13.72, 52.30, 48.57, 57.11, 2.80, 12.91),
        "SPT": (17.49, 2.80, 17.02, 4.48, 15.24, 54.66, 53.02, 57.14, 5.69, 22.86),
    },
}

_K, _L = "prompts.num_prompts", "prompts.prompt_length"
_PT_AND_SPT: Mapping[str, Mapping[str, Levels]] = {"table1": {"PT": {_K: 1}, "SPT": {"method": "spt"}}}


def table_1(model: str) -> Published:
    """Table 1's two rows of one model; of a model that the paper has not, those of Llama2-7B.

    Args:
        model: a recipe, such as `opt_125m`.
    """
    known = model if model in _TABLE_1 else "llama2_7b"
    return Published(
        "table1",
        f"Table 1: SPT against prompt tuning, {MODEL_NAMES[known]}",
        ALL,
        _TABLE_1[known],
        reference="PT",
        cells=_PT_AND_SPT,
        model=known,
        notes=("The paper's text says 26.26% for Llama2-7B where its table says 26.62%; its cells give 26.62%.",),
    )


TABLE_2 = Published(
    "table2",
    "Table 2: losses left out, Llama2-7B",
    FIVE,
    {
        "SPT": (17.49, 2.80, 15.24, 54.66, 14.27),
        "w/o contrastive": (15.95, 2.00, 13.17, 52.80, 14.23),
        "w/o fusion": (16.02, 1.90, 13.24, 52.89, 14.69),
        "w/o selection": (16.39, 1.93, 13.71, 53.75, 13.06),
    },
    reference="SPT",
    cells={
        "loss_ablation": {
            row: {f"losses.{loss}.enabled": row != f"w/o {loss}" for loss in ("contrastive", "selection", "fusion")}
            for row in ("SPT", "w/o contrastive", "w/o fusion", "w/o selection")
        }
    },
)

TABLE_3 = Published(
    "table3",
    "Table 3: the number of prompts, Llama2-7B",
    FIVE,
    {
        "K = 1": (17.76, 1.76, 15.21, 54.86, 14.15),
        "K = 2": (17.71, 2.55, 15.63, 55.52, 14.29),
        "K = 3": (17.34, 2.45, 15.09, 55.31, 15.23),
        "K = 4": (17.49, 2.80, 15.24, 54.66, 14.27),
        "K = 5": (16.07, 2.42, 12.88, 47.12, 13.99),
        "K = 6": (17.46, 2.21, 14.94, 54.43, 15.12),
        "K = 7": (17.76, 2.42, 15.42, 54.96, 13.51),
        "K = 8": (17.48, 2.32, 15.29, 54.87, 13.89),
    },
    reference="K = 1",
    cells={"k_sweep": {f"K = {k}": {_K: k} for k in range(1, 9)}},
    notes=("As published, K = 1 (plain prompt tuning at these settings) is near the full SPT, far from Table 1's PT.",),
)


def table_4(*, num_prompts: int = 4, prompt_length: int = 8) -> Published:
    """Table 4, with our cells of one prompt as long as the group and twice as long.

    Args:
        num_prompts: K of our SPT.
        prompt_length: L of our SPT.
    """
    return _longer("table4", "Table 4: longer prompts, LoRA and in-context learning", FIVE, num_prompts, prompt_length)


def table_8(*, num_prompts: int = 4, prompt_length: int = 8) -> Published:
    """Table 8: the rows of Table 4 in all metrics."""
    return _longer("table8", "Table 8: Table 4 in all metrics", ALL, num_prompts, prompt_length)


_TABLE_4 = {
    "SPT": (17.49, 2.80, 15.24, 54.66, 14.27),
    "one prompt of 4": (16.47, 1.78, 13.64, 52.65, 9.52),
    "one prompt of 8": (17.64, 2.13, 14.69, 55.85, 13.33),
    "LoRA": (15.61, 2.20, 11.66, 47.46, 10.21),
    "in context": (6.78, 0.77, 0.09, 47.96, 23.24),
}
_TABLE_8 = {
    "SPT": (17.49, 2.80, 17.02, 4.48, 15.24, 54.66, 53.02, 57.14, 5.69, 22.86),
    "one prompt of 4": (16.47, 1.78, 15.74, 3.74, 13.64, 52.65, 49.09, 57.18, 3.35, 15.70),
    "one prompt of 8": (17.64, 2.13, 16.49, 4.01, 14.69, 55.85, 54.98, 57.34, 4.75, 21.91),
    "LoRA": (15.61, 2.20, 13.09, 2.95, 11.66, 47.46, 47.78, 47.48, 3.35, 17.08),
    "in context": (6.78, 0.77, 0.00, 0.00, 0.09, 47.96, 46.73, 49.77, 8.03, 38.45),
}


def _longer(name: str, caption: str, metrics: tuple[str, ...], num_prompts: int, prompt_length: int) -> Published:
    total = num_prompts * prompt_length
    group, as_long, twice = (
        {"method": "spt", _K: num_prompts},
        *({"method": "spt", _K: 1, _L: length} for length in (total, 2 * total)),
    )
    four_shot: Levels = {"method": "in_context", "in_context.num_examples": 4}
    return Published(
        name,
        caption,
        metrics,
        _TABLE_4 if metrics is FIVE else _TABLE_8,
        reference="SPT",
        cells={
            "baselines": {
                "SPT": group,
                "one prompt of 4": as_long,
                "LoRA": {"method": "lora"},
                "in context": four_shot,
            },
            "longer_prompts": {"SPT": group, "one prompt of 4": as_long, "one prompt of 8": twice},
        },
        notes=(
            "The paper's prompts have one token each, so its one prompt of 4 has the tokens of its whole group: ours "
            "has as many tokens as our group, and the next twice as many.",
            "The paper's in-context row is GPT-3.5; its ROUGE-1 of 0.00 beside an F1 of 6.78 is implausible.",
        ),
    )


TABLE_5 = Published(
    "table5",
    "Table 5: overlap of the replies with the persona, Llama2-7B",
    PERSONA,
    {"PT": (8.79, 43.42, 20.44, 13.51, 10.06), "SPT": (2.07, 41.99, 16.62, 10.48, 6.95)},
    reference="PT",
    cells=_PT_AND_SPT,
    notes=(
        "The persona is one long reference, so BLEU falls with the length of a reply: its brevity penalty is 0.47 of "
        "the published PT and 0.14 of SPT. The precisions do not have it.",
    ),
)

TABLE_6 = {
    "num_prompts": 4,
    "tau_g": 1.0,
    "lambda": 1.0,
    "opt_125m": {"prompt_length": 8, "learning_rate": 0.01, "epochs": 15},
    "opt_1_3b": {"prompt_length": 8, "learning_rate": 0.01, "epochs": 1},
    "opt_2_7b": {"prompt_length": 8, "learning_rate": 0.001, "epochs": 1},
    "llama2_7b": {"prompt_length": 1, "learning_rate": 0.01, "epochs": 1},
}
"""Settings: K, tau_g and every lambda of all models, then those of each. Adam; the batch size is not said."""

TABLE_7 = Published(
    "table7",
    "Table 7: human evaluation of 100 responses, each scored 0, 1 or 2, Llama2-7B",
    HUMAN,
    {"PT": (1.33, 1.13, 1.29), "SPT": (1.89, 1.29, 1.34)},
    reference="PT",
    cells=_PT_AND_SPT,
    notes=("Whether the 100 responses are of each method or of both together is not said.",),
)

NUM_RESPONSES = 7801
"""Of the test split: ConvAI2's published validation, self persona, original."""
TEST_FINGERPRINT = "b84c8135e4ba934a8c0bc749426788c1d2779e2c891d370984bf4126b419b3d0"
"""Of those dialogues, as `conversations.load` gives it."""
MAX_NEW_TOKENS, MAX_TOKENS = 32, 512
"""The length budget: of a reply, and of context and response together."""


@dataclass(frozen=True)
class Claim:
    """What the paper says, or what we ask of it.

    Attributes:
        number: 1 to 11; the eleventh is ours to ask.
        text: the claim.
        source: where the paper makes it.
    """

    number: int
    text: str
    source: str


CLAIMS = (
    Claim(1, "SPT beats prompt tuning on every metric", "Table 1"),
    Claim(2, "Leaving the contrastive loss out lowers every metric", "Table 2"),
    Claim(3, "Leaving the fusion loss out raises DIST_AVG and lowers every other metric", "Table 2"),
    Claim(4, "Leaving the selection loss out lowers DIST_AVG most, and usage collapses onto one prompt", "Table 2"),
    Claim(5, "The best K for most metrics is at most 4", "Table 3"),
    Claim(
        6,
        "A group of prompts beats one prompt of as many tokens on every metric, and one of twice as many on BLEU, "
        "ROUGE and DIST_AVG",
        "Table 4",
    ),
    Claim(7, "SPT beats LoRA of comparable size on every metric", "Table 4"),
    Claim(8, "SPT repeats the persona less than prompt tuning does, also at equal length", "Table 5"),
    Claim(9, "Different prompts serve different stages of a dialogue", "Figure 2"),
    Claim(10, "The retriever can still narrow to few prompts", "section 7"),
    Claim(11, "The gain over prompt tuning comes from selection", "ours to ask"),
)
