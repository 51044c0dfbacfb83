"""Time of one optimisation step, compared with the schedule of the released code, with equal mathematics.

The reference is that schedule in plain code: K separate forward passes of the whole sequence, every sequence padded to
512 tokens, logits at every position, float32. Ours is `spt_core.gradient.backward`. Both compute the gradient of the
same objective on the same batch, and the benchmark compares the losses. The two run in turn in separate processes,
because the handling of freed memory is a setting of a process, and part of the comparison (`spt_core.cpu.memory`). The
parts of whole steps are then timed on the same batches. Options add steps of several K and of several lengths.

    python -m benchmarks.step --train dialogues.txt --json
    python -m benchmarks.step --train dialogues.txt --reference-keeps-memory
    python -m benchmarks.step --train dialogues.txt --by-prompts --by-length
"""

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any

import torch
import torch.nn.functional as F  # noqa: N812
import typer
from torch import Tensor

from benchmarks import options
from benchmarks.parts import PARTS, seconds_of_parts
from spt_core import backbone as backbones
from spt_core import recipes
from spt_core.backbone import positions
from spt_core.batching import Batch, Example, collate, epoch_batches
from spt_core.build import build
from spt_core.config import TrialConfig
from spt_core.cpu import memory
from spt_core.gradient import backward
from spt_core.losses import Scores, objective
from spt_core.model import SelectivePromptModel
from spt_core.splits import load_splits
from spt_core.text_similarity import bleu_matrix
from spt_core.weights import BUNDLED_SMOLLM2

RELEASED_LENGTH = 512
NUMBERS_OF_PROMPTS = (1, 2, 4, 8)
LENGTHS = (64, 128, 256, 512)
"""Values of `data.max_tokens`."""
_REFERENCE: list[tuple[SelectivePromptModel, TrialConfig]] = []
"""Model and config, in the process of the reference alone."""


def released_schedule(model: SelectivePromptModel, batch: Batch, *, config: TrialConfig) -> float:
    """Compute the gradient of the objective by the released schedule, and return the total loss.

    The text is left-padded to 512 tokens, and the soft prompt is in front of the padding.
    """
    text_BT = F.pad(batch.token_ids_BT, (RELEASED_LENGTH - batch.token_ids_BT.shape[1], 0))
    mask_BT = F.pad(batch.mask_BT, (RELEASED_LENGTH - batch.mask_BT.shape[1], 0))
    num_response = batch.response_ids_BR.shape[1]
    embedded_BTD = model.backbone.embed(text_BT)
    columns = []
    for prompt_LD in model.prompts():
        inputs = torch.cat([prompt_LD.expand(len(batch), -1, -1), embedded_BTD], dim=1)
        mask = torch.cat([mask_BT.new_ones(inputs.shape[0], prompt_LD.shape[0]), mask_BT], dim=1)
        logits_BTV = model.backbone.model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions(mask), use_cache=False
        ).logits
        logp_BRV = logits_BTV[:, -num_response - 1 : -1].log_softmax(-1)
        columns.append(logp_BRV.gather(-1, batch.response_ids_BR.unsqueeze(-1)).squeeze(-1))
    cosine_BK = model.cosine(batch)
    scores = Scores(cosine_BK, model.activate(cosine_BK), torch.stack(columns, dim=1))
    similarity_BB = bleu_matrix([example.context for example in batch.examples])
    total: Tensor = objective(scores, batch.response_mask_BR, similarity_BB, losses=config.losses)["total"]
    torch.autograd.backward(total)
    return float(total.detach())


def _start_reference(config: TrialConfig, num_threads: int, keeps_memory: bool) -> None:
    """Set up the process of the reference: its model, and the handling of freed memory, by default glibc's own."""
    if keeps_memory:
        memory.keep_freed()
    torch.set_num_threads(num_threads)
    _REFERENCE.append((build(config, device="cpu")[0], config))


def _reference_step(of_batch: Sequence[Example]) -> tuple[float, float]:
    """Run one step of the reference in its process; returns seconds and total loss."""
    ((model, config),) = _REFERENCE
    batch = collate(of_batch)
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    loss = released_schedule(model, batch, config=config)
    return time.perf_counter() - started, loss


def measure(config: TrialConfig, *, repeats: int, reference_keeps_memory: bool = False) -> dict[str, Any]:
    """Time both schedules in turn on the same batches.

    Args:
        config: backbone, K, L and batch size.
        repeats: number of timed pairs of steps, after one pair that is not counted; see `of_every_length`.
        reference_keeps_memory: the reference keeps freed memory, as ours does.

    Returns:
        Seconds a step (each and median), the ratio of the medians, the largest relative difference of the losses, and
        the median share of each part of one of our steps.
    """
    memory.keep_freed()
    ours, tokenizer = build(config, device="cpu")
    plain_config = config.override({"backbone.precision": "float32"})
    of_batches = of_every_length(config, tokenizer, number=repeats)
    batches = [collate(of_batch) for of_batch in of_batches]
    seconds: dict[str, list[float]] = {"released": [], "ours": []}
    losses: dict[str, list[float]] = {"released": [], "ours": []}
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_reference,
        initargs=(plain_config, torch.get_num_threads(), reference_keeps_memory),
    ) as reference:
        for of_batch, batch in zip([of_batches[-1], *of_batches], [batches[-1], *batches], strict=True):
            second, loss = reference.submit(_reference_step, of_batch).result()
            seconds["released"].append(second)
            losses["released"].append(loss)
            ours.zero_grad(set_to_none=True)
            started = time.perf_counter()
            losses["ours"].append(backward(ours, batch, config=config)["total"])
            seconds["ours"].append(time.perf_counter() - started)
    seconds, losses = ({name: values[1:] for name, values in each.items()} for each in (seconds, losses))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rate = matrix_rate(ours.backbone)
    fractions = [
        products(ours, batch) / (second * rate) for batch, second in zip(batches, seconds["ours"], strict=True)
    ]
    masks = [batch.mask_BT for batch in batches]
    differences = [abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["released"], strict=True)]
    parts = seconds_of_parts(ours, of_batches, config=config)
    return {
        "num_prompts": config.prompts.num_prompts,
        "batch_size": config.optim.batch_size,
        "precision": ours.backbone.precision,
        "threads": torch.get_num_threads(),
        "reference_keeps_memory": reference_keeps_memory,
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": medians["released"] / medians["ours"],
        "matrix_gflops_a_second": rate / 1e9,
        "fraction_of_matrix_rate": statistics.median(fractions),
        "relative_loss_differences": differences,
        "largest_relative_loss_difference": max(differences),
        "columns": [mask.shape[1] for mask in masks],
        "mean_columns": statistics.mean(mask.shape[1] for mask in masks),
        "padding_percent": 100 * (1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)),
        "share_of_parts_percent": {
            name: 100 * statistics.median(step[name] / sum(step.values()) for step in parts) for name in PARTS
        },
    }


def of_every_length(config: TrialConfig, tokenizer: Any, *, number: int) -> list[list[Example]]:
    """Batches that represent all lengths of an epoch.

    The batches of the epoch are sorted by length and divided into equal shares; the middle batch of each is taken. The
    time of our step depends on the length, that of the released schedule does not. With a few random batches their
    lengths would decide the ratio.

    Args:
        config: data and batch size.
        tokenizer: of the backbone.
        number: number of batches.
    """
    examples = load_splits(config.data, tokenizer).train
    order = epoch_batches(examples, batch_size=config.optim.batch_size, seed=0, epoch=0)
    batches = sorted(([examples[i] for i in ids] for ids in order), key=lambda batch: max(e.num_tokens for e in batch))
    return [batches[(2 * share + 1) * len(batches) // (2 * number)] for share in range(number)]


def by_prompts(config: TrialConfig, *, repeats: int, numbers: Sequence[int] = NUMBERS_OF_PROMPTS) -> dict[str, Any]:
    """Seconds of a step by the number of prompts, in turn on the same batches.

    Args:
        config: backbone, L and batch size.
        repeats: number of timed batches, after one that is not counted.
        numbers: values of K.

    Returns:
        For each K the median seconds, and the seconds a prompt.
    """
    models = {}
    for number in numbers:
        varied = config.override({"prompts.num_prompts": number})
        models[str(number)] = (varied, *build(varied, device="cpu"))
    tokenizer = models[str(numbers[0])][2]
    examples = load_splits(config.data, tokenizer).train
    order = epoch_batches(examples, batch_size=config.optim.batch_size, seed=0, epoch=0)
    steps = {
        name: [(model, varied, collate([examples[i] for i in ids])) for ids in order[: repeats + 1]]
        for name, (varied, model, _) in models.items()
    }
    medians = _median_seconds(steps)
    return {
        name: {"median_seconds": seconds, "seconds_a_prompt": seconds / int(name)} for name, seconds in medians.items()
    }


def by_length(config: TrialConfig, *, repeats: int, lengths: Sequence[int] = LENGTHS) -> dict[str, Any]:
    """Seconds of a step by `data.max_tokens`, in turn, each on the longest examples under that limit.

    Args:
        config: backbone, K, L and batch size.
        repeats: number of timed steps of each, after one that is not counted.
        lengths: values of `data.max_tokens`.

    Returns:
        For each length the columns of the batch (the dialogues may have fewer than the limit), the median seconds, and
        the seconds for a hundred columns, prompt included.
    """
    model, tokenizer = build(config, device="cpu")
    steps, columns = {}, {}
    for length in lengths:
        varied = config.override({"data.max_tokens": length})
        examples = sorted(load_splits(varied.data, tokenizer).train, key=lambda example: -example.num_tokens)
        batch = collate(examples[: config.optim.batch_size])
        steps[str(length)] = [(model, varied, batch)] * (repeats + 1)
        columns[str(length)] = batch.mask_BT.shape[1]
    medians = _median_seconds(steps)
    return {
        name: {
            "columns": columns[name],
            "median_seconds": seconds,
            "seconds_a_hundred_columns": 100 * seconds / (columns[name] + config.prompts.prompt_length),
        }
        for name, seconds in medians.items()
    }


def _median_seconds(steps: dict[str, list[tuple[SelectivePromptModel, TrialConfig, Batch]]]) -> dict[str, float]:
    """Median seconds of steps by name, measured in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for of_round in zip(*steps.values(), strict=True):
        for name, (model, config, batch) in zip(steps, of_round, strict=True):
            model.zero_grad(set_to_none=True)
            started = time.perf_counter()
            backward(model, batch, config=config)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def products(model: SelectivePromptModel, batch: Batch) -> float:
    """Floating-point operations of a step in its linear layers, forward and backward; attention is not counted.

    The weights are frozen, so the backward pass has one product a layer, like the forward pass. The head computes the
    response positions alone, and so does the last layer, except for its keys and values. Padding and the last token of
    a sequence, which predicts nothing, are not counted. The products of the prompts are few, because they are computed
    once for all sequences, and are not counted either.
    """
    num_tokens = model.num_prompts * int(batch.mask_BT.sum() - len(batch))
    num_predicted = model.num_prompts * int(batch.response_mask_BR.sum())
    head = model.backbone.model.get_output_embeddings()
    *before, last = model.backbone.model.model.layers
    everywhere = [*(_linears(layer) for layer in before), [last.self_attn.k_proj, last.self_attn.v_proj]]
    in_text = sum(linear.weight.numel() for linears in everywhere for linear in linears)
    in_last = sum(linear.weight.numel() for linear in _linears(last)) + head.weight.numel()
    in_last -= sum(linear.weight.numel() for linear in everywhere[-1])
    return 4.0 * float(in_text * num_tokens + in_last * num_predicted)


def _linears(layer: torch.nn.Module) -> list[torch.nn.Linear]:
    return [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]


def matrix_rate(backbone: backbones.Backbone) -> float:
    """Floating-point operations a second of one matrix product of the backbone's largest shape, as an upper bound."""
    dtype = torch.bfloat16 if backbone.precision == "bfloat16" else torch.float32
    layer = max(
        (m for m in backbone.model.model.modules() if isinstance(m, torch.nn.Linear)), key=lambda m: m.weight.numel()
    )
    outputs, inputs = layer.weight.shape
    left, right = torch.randn(4096, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        F.linear(left, right)
        seconds.append(time.perf_counter() - started)
    return 2.0 * 4096 * layer.weight.numel() / statistics.median(seconds)


def main(
    *,
    train: options.Train = options.SAMPLE,
    model: options.Model = BUNDLED_SMOLLM2,
    num_prompts: options.NumPrompts = 4,
    batch_size: options.BatchSize = 4,
    repeats: Annotated[int, typer.Option(help="Counted pairs of steps.")] = 3,
    reference_keeps_memory: Annotated[
        bool, typer.Option("--reference-keeps-memory", help="The released schedule keeps freed memory too.")
    ] = False,
    with_prompts: Annotated[bool, typer.Option("--by-prompts", help="Also time K = 1, 2, 4, 8.")] = False,
    with_length: Annotated[
        bool, typer.Option("--by-length", help="Also time at most 64, 128, 256, 512 tokens.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Time one optimisation step against the released code's schedule."""
    config = recipes.smollm2_135m().override(
        {
            "backbone.name": model,
            "data.train": train,
            "prompts.num_prompts": num_prompts,
            "optim.batch_size": batch_size,
        }
    )
    found = measure(config, repeats=repeats, reference_keeps_memory=reference_keeps_memory)
    if with_prompts:
        found["by_prompts"] = by_prompts(config, repeats=repeats)
    if with_length:
        found["by_length"] = by_length(config, repeats=repeats)
    if as_json:
        options.print_json(found)
        return
    released, ours = found["median_seconds"]["released"], found["median_seconds"]["ours"]
    typer.echo(
        f"released schedule {released:.2f} s, ours {ours:.2f} s a step (medians of {repeats}): "
        f"{found['ratio']:.1f} times; "
        f"losses differ by {found['largest_relative_loss_difference']:.1e} relative; "
        f"{found['precision']}, {found['threads']} threads, {found['mean_columns']:.0f} columns a row, "
        f"{found['padding_percent']:.1f}% padding; {100 * found['fraction_of_matrix_rate']:.0f}% of the "
        f"{found['matrix_gflops_a_second']:.0f} GFLOP/s of a matrix product"
    )
    for name, share in found["share_of_parts_percent"].items():
        typer.echo(f"{name:>20} {share:5.1f}%")
    for name, row in found.get("by_prompts", {}).items():
        typer.echo(f"K = {name}: {row['median_seconds']:.2f} s a step, {row['seconds_a_prompt']:.2f} s a prompt")
    for name, row in found.get("by_length", {}).items():
        typer.echo(
            f"at most {name} tokens, {row['columns']} columns: {row['median_seconds']:.2f} s a step, "
            f"{row['seconds_a_hundred_columns']:.2f} s a hundred columns"
        )


if __name__ == "__main__":
    typer.run(main)
