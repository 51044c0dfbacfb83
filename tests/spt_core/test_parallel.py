"""Two workers give the results of one: the same losses, evaluation and gradient."""

import json
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from spt_core.batching import collate
from spt_core.build import build
from spt_core.config import TrialConfig
from spt_core.evaluation import evaluate
from spt_core.gradient import backward
from spt_core.splits import load_splits
from spt_core.training import fit
from tests.conftest import tiny_config


def _work(rank: int, world: int, folder: str, store: str, target: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    config = TrialConfig.model_validate_json(Path(folder, "trial.json").read_text())
    rows: list[dict[str, float]] = []
    fitted = fit(config, report=lambda metrics, _: rows.append(metrics), device="cpu")
    answer = evaluate(fitted.model, fitted.tokenizer, fitted.splits.test, config=config.evaluation)
    model, tokenizer = build(config, device="cpu")
    # Five rows, so that the two workers have different numbers of rows.
    batch = collate(load_splits(config.data, tokenizer).train[:5])
    backward(model, batch, config=config)
    found = {
        "curve": [row["train/total"] for row in rows if "train/total" in row],
        "dev": [row["dev/nll"] for row in rows if "dev/nll" in row],
        "test": {name: value for name, value in answer.metrics.items() if name in {"test/nll", "test/f1"}},
        "turns": [(p.dialogue, p.turn, p.prompt) for p in answer.predictions],
        "gradient": {name: p.grad.tolist() for name, p in model.named_parameters() if p.grad is not None},
    }
    Path(f"{target}.{rank}").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_give_the_results_of_one(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text(tiny_config(tiny_llama).model_dump_json())
    found = {}
    for world in (1, 2):
        target = str(tmp_path / f"of-{world}")
        arguments = (world, str(tmp_path), str(tmp_path / f"store-{world}"), target)
        multiprocessing.spawn(_work, args=arguments, nprocs=world)
        found[world] = [json.loads(Path(f"{target}.{rank}").read_text()) for rank in range(world)]
    (one,), (first, second) = found[1], found[2]
    assert first == second
    assert first["turns"] == one["turns"]
    for name, gradient in one["gradient"].items():
        expected = torch.tensor(gradient)
        scale = expected.abs().max()
        # In float32 the shapes differ, and the retriever subtracts near-equal terms. A lost pair would change percents.
        torch.testing.assert_close(torch.tensor(first["gradient"][name]) / scale, expected / scale, rtol=0, atol=5e-4)
    assert first["curve"] == pytest.approx(one["curve"], rel=1e-4)
    assert first["dev"] == pytest.approx(one["dev"], rel=1e-4)
    assert first["test"] == pytest.approx(one["test"], rel=1e-3)
