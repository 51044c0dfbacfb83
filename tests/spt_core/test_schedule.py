"""The number of steps, the order of the batches, and the steps at which dev is scored."""

from pathlib import Path

from spt_core import schedule
from spt_core.config import TrialConfig
from spt_core.training import fit
from tests.conftest import tiny_config
from tests.spt_core.gradients import first_examples


def test_number_of_steps() -> None:
    config = TrialConfig().override({"optim.batch_size": 8, "optim.epochs": 3})
    assert schedule.num_steps(config, 17) == 9
    assert schedule.num_steps(config.override({"optim.max_steps": 4}), 17) == 4
    assert schedule.num_steps(config.override({"optim.max_steps": 40}), 17) == 9


def test_the_order_of_batches_can_be_the_same_in_every_epoch(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, optim__epochs=2, optim__batch_size=4)
    examples = first_examples(str(tiny_llama))
    for order, same in (("once", True), ("each_epoch", False)):
        varied = config.override({"optim.order": order})
        batches = [
            tuple(ids)
            for seed in range(5)
            for ids in schedule.batches(varied.override({"seed": seed}), examples, start=0, stop=4)
        ]
        first, second = batches[0::4] + batches[1::4], batches[2::4] + batches[3::4]
        assert (first == second) == same


def test_dev_is_scored_at_the_end_of_each_epoch_too(tiny_llama: Path) -> None:
    config = tiny_config(tiny_llama, optim__max_steps=60, optim__epochs=3, optim__batch_size=128)
    config = config.override({"data.dev_dialogues": 430, "evaluation.every_steps": 2})
    rows: list[dict[str, float]] = []
    fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    steps_an_epoch = int(rows[-1]["total_steps"]) // 3
    scored = {int(row["step"]) for row in rows if "dev/nll" in row}
    assert scored == set(range(0, 3 * steps_an_epoch + 1, 2)) | {n * steps_an_epoch for n in (1, 2, 3)}
