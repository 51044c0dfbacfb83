"""A sweep of made-up trials with real files, for tests of what is said of it."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from spt_core.config import TrialConfig
from sweeps.engine.analysis.answer import Answer, answer
from sweeps.engine.design.designs import Grid
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.paper.beside import published_tables
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.report.terminal import terminal_table
from sweeps.engine.report.write import write
from sweeps.engine.store.trial_folder import HISTORY, PREDICTIONS, TrialResult

HOSTILE = '<script>alert("x")</script>|`*_'
NUM_DIALOGUES, NUM_TURNS = 6, 4
TOKENS = [3, 5, 8, 2]
FACTS = {"command": "python sweeps/k_sweep.py --scale demo", "tracking": "http://someone:secret@127.0.0.1:5000"}


@dataclass
class Made:
    """A plan, what its trials left, and where."""

    plan: Plan
    results: dict[str, TrialResult]
    folder: Path

    def trial(self, num_prompts: int, seed: int = 0) -> Trial:
        return next(
            one for one in self.plan.trials if one.config.prompts.num_prompts == num_prompts and one.seed == seed
        )

    def fail(self, num_prompts: int, seed: int, error: str) -> None:
        key = self.trial(num_prompts, seed).key
        self.results[key] = replace(self.results[key], state="failed", metrics={}, error=error)

    def change(self, num_prompts: int, seed: int, **metrics: float) -> None:
        key = self.trial(num_prompts, seed).key
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        self.results[key] = replace(self.results[key], metrics={**self.results[key].metrics, **named})

    @property
    def answer(self) -> Answer:
        return answer(self.plan, self.results)

    def table(self, width: int = 120) -> str:
        console = Console(width=width, record=True, color_system=None, file=io.StringIO())
        console.print(terminal_table(self.answer))
        return console.export_text()

    def write(self) -> dict[str, str]:
        answer = self.answer
        write(answer, self.folder / "report", facts=FACTS, published=published_tables(answer))
        files = [path for path in (self.folder / "report").iterdir() if path.is_file()]
        return {path.name: path.read_text(encoding="utf-8") for path in files}


def make(
    folder: Path,
    nll: Mapping[int, Sequence[float]],
    *,
    data: str = "hf://datasets/someone/dialogues/all.jsonl",
    primary: str = "test/nll",
    baseline: int = 1,
) -> Made:
    """A K grid with real files, from the test NLL of each seed by number of prompts."""
    num_seeds = len(next(iter(nll.values())))
    base = TrialConfig().override({"data.train": data, "data.test": data})
    sweep = Sweep(
        name="k_sweep",
        base=base,
        design=Grid({"prompts.num_prompts": list(nll)}),
        baseline={"prompts.num_prompts": baseline},
        seeds=num_seeds,
        primary_metric=primary,
        question="How many soft prompts does the group need?\n\nPrediction: at most 4 (Table 3).",
    )
    trials, results = [], {}
    for num_prompts, by_seed in nll.items():
        cell = {"prompts.num_prompts": num_prompts}
        for seed, value in enumerate(by_seed):
            config = base.override({**cell, "seed": seed}).canonical()
            trial = Trial(config.key(), cell, config, {"data": {"train": "abc"}, "backbone": "def", "numerics": 1})
            trials.append(trial)
            place = folder / trial.key
            place.mkdir()
            write_files(place, num_prompts, seed, value)
            results[trial.key] = TrialResult(trial.key, "finished", metrics(num_prompts, value), place)
    plan = Plan(sweep, "demo", tuple({"prompts.num_prompts": k} for k in nll), tuple(range(num_seeds)), tuple(trials))
    return Made(plan, results, folder)


def metrics(num_prompts: int, nll: float) -> dict[str, float]:
    n = float(NUM_DIALOGUES * NUM_TURNS)
    return {
        **{"train/steps": 32.0, "train/seconds": 61.0, "test/seconds": 9.0, "seconds": 71.25},
        **{"dev/nll_start": 7.1234, "dev/nll": nll + 0.25, "dev/best_step": 32.0},
        **{"test/nll": nll, "test/oracle_nll": nll - 0.1, "test/num_responses": n, "test/mean_length": 9.5},
        **{"test/f1": 10.0 + num_prompts, "test/bleu": 1.5, "test/rouge_l": 12.25, "test/dist_avg": 31.5},
        **{"raw/f1": 9.0, "raw/dist_avg": 28.0, "test/share_cut": 12.5, "test/prompts_used": float(num_prompts)},
        **{"human/dist_avg": 58.25, "human/mean_length": 11.75, "human/dist_1": 40.0, "human/dist_2": 76.5},
    }


def write_files(folder: Path, num_prompts: int, seed: int, nll: float) -> None:
    history = [{"step": 0.0, "seconds": 0.0, "dev/nll": 7.1}, {"step": 4.0, "seconds": 9.0, "train/total": 3.0}]
    history += [{"step": 8.0 * i, "seconds": 9.0 * i, "dev/nll": nll + 1 / i} for i in range(1, 5)]
    lines = "\n".join(map(json.dumps, history))
    (folder / HISTORY).write_text(f"{lines}\n{lines[:20]}", encoding="utf-8")  # the last line is half written
    generator = np.random.default_rng([num_prompts, seed])
    responses = [(dialogue, turn) for dialogue in range(NUM_DIALOGUES) for turn in range(NUM_TURNS)]
    noise = generator.normal(0, 0.05, len(responses))
    tokens = np.array([TOKENS[turn] for _, turn in responses])
    noise -= np.average(noise, weights=tokens)
    rows = [
        {
            "dialogue": f"d{dialogue}",
            "turn": turn,
            "persona": "i like <b>tea</b> .",
            "context": "i like <b>tea</b> . hello ! how are you ?",
            "reference": "fine & well , thanks",
            "prediction": f"K{num_prompts} says {HOSTILE}",
            "raw_prediction": f"K{num_prompts} says {HOSTILE} R: more",
            "cut_by": "R:",
            "prompt": int(generator.integers(num_prompts)),
            "similarity": [0.5] * num_prompts,
            "nll": float(nll + noise[i]),
            "nll_by_prompt": [float(nll)] * num_prompts,
            "num_tokens": TOKENS[turn],
        }
        for i, (dialogue, turn) in enumerate(responses)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / PREDICTIONS)


THREE_SEEDS = {1: [3.30, 3.32, 3.31], 2: [3.25, 3.28, 3.24], 4: [3.10, 3.14, 3.09]}
SIX_SEEDS = {1: [3.30, 3.32, 3.31, 3.29, 3.33, 3.30], 4: [3.10, 3.14, 3.09, 3.11, 3.12, 3.08]}
ONE_SEED = {1: [3.31], 2: [3.25], 4: [3.10]}


def strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)
