"""Training, read from top to bottom: data, model, steps, dev, the best adapter."""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from spt_core import checkpoint, parallel
from spt_core.batching import Batch, Example, collate, epoch_batches, some_dialogues, tokenise
from spt_core.checkpoint import Progress
from spt_core.config import DataConfig, TrialConfig
from spt_core.conversations import load as load_conversations
from spt_core.conversations import split_dev
from spt_core.evaluation import selected_nll
from spt_core.losses import Scores, objective
from spt_core.model import SelectivePromptModel, activate, build
from spt_core.text_similarity import bleu_matrix

MOST_REPORTS = 200
"""Reports of a training run without an evaluation, at most."""


class Report(Protocol):
    """Where a run says how it is going: Ray's report in a worker, a bar in a script, a list in a test."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Take one row of metrics (always with `step`) and, now and then, a folder to resume from.

        The folder is gone after the call: copy what should stay.
        """


class NonFiniteLossError(ArithmeticError):
    """A term of the loss became NaN or infinite; the message says which, when, and on which replies."""


@dataclass(frozen=True)
class Splits:
    """The examples of a trial: what trains, what chooses the checkpoint, what is read once at the end."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]


def load_splits(data: DataConfig, tokenizer: Any) -> Splits:
    """Read, carve and tokenise the data of a trial.

    Raises:
        ValueError: a source that cannot be read, or a dev split that leaves nothing to train on.
    """
    train, dev = split_dev(load_conversations(data.train), num_dialogues=data.dev_dialogues, seed=data.split_seed)
    of_train, of_dev, of_test = (
        tokenise(part, tokenizer, max_tokens=data.max_tokens) for part in (train, dev, load_conversations(data.test))
    )
    return Splits(
        train=of_train,
        dev=some_dialogues(of_dev, most=data.max_dev_responses, seed=data.split_seed),
        test=some_dialogues(of_test, most=data.max_test_responses, seed=data.split_seed),
    )


@dataclass(frozen=True)
class Fitted:
    """A trained model: the best by dev NLL, in place.

    Attributes:
        model: with the best prompts and retriever.
        tokenizer: of its backbone.
        splits: the data that it saw.
        metrics: `train/steps`, `train/seconds`, `dev/nll_start`, `dev/nll` (the best), `dev/best_step`, ...
    """

    model: SelectivePromptModel
    tokenizer: Any
    splits: Splits
    metrics: dict[str, float]


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fit(
    config: TrialConfig,
    *,
    report: Report | None = None,
    resume_from: Path | None = None,
    device: str | None = None,
) -> Fitted:
    """Train soft prompts and retriever of a config; the same function in a script, a test and a Train worker.

    Every worker of a trial calls it; `torch.distributed`, if initialised, tells how many there are.

    Args:
        config: the trial.
        report: called on every worker alike with a row of metrics, and with a checkpoint after each evaluation.
        resume_from: a checkpoint folder of the same config.
        device: where to train; a GPU if there is one when None.

    Raises:
        ValueError: the config asks for what cannot be had.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    device = device or default_device()
    model, tokenizer = build(config, device=device)
    splits = load_splits(config.data, tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optim.learning_rate)
    scaler = torch.amp.GradScaler(device.split(":")[0], enabled=model.backbone.precision == "float16")
    progress, best = Progress(), _snapshot(model)
    if resume_from is not None:
        progress, best = checkpoint.load_progress(resume_from, model=model, optimizer=optimizer, config=config)
        if scaler.is_enabled():
            scaler.update(progress.loss_scale)
    total_steps = num_steps(config, len(splits.train))
    evaluate_every = config.evaluation.every_steps or math.ceil(len(splits.train) / config.optim.batch_size)
    report_every = max(1, total_steps // MOST_REPORTS)
    started = time.perf_counter() - progress.seconds

    def evaluate(row: dict[str, float]) -> None:
        nonlocal best
        nll = selected_nll(model, splits.dev, batch_size=config.evaluation.batch_size)
        if progress.dev_nll_start is None:
            progress.dev_nll_start = nll
        if progress.best_dev_nll is None or nll < progress.best_dev_nll:
            progress.best_dev_nll, progress.best_step, best = nll, progress.step, _snapshot(model)
        progress.seconds = time.perf_counter() - started
        progress.loss_scale = scaler.get_scale()
        if report is not None:
            with tempfile.TemporaryDirectory(prefix="spt-checkpoint-") as folder:
                checkpoint.save_progress(
                    Path(folder), progress, model=model.state_dict(), best=best, optimizer=optimizer, config=config
                )
                report({**row, "dev/nll": nll}, Path(folder))

    if progress.dev_nll_start is None:
        evaluate({"step": 0.0, "total_steps": float(total_steps), "seconds": 0.0})
    for batch_ids in _schedule(config, splits.train, start=progress.step, stop=total_steps):
        batch = collate([splits.train[index] for index in batch_ids]).to(model.backbone.device)
        optimizer.zero_grad(set_to_none=True)
        terms = backward(model, batch, config=config, scaler=scaler)
        _refuse_non_finite(terms, step=progress.step + 1, batch=batch)
        scaler.step(optimizer)
        scaler.update()
        progress.step += 1
        row = {
            "step": float(progress.step),
            "total_steps": float(total_steps),
            "seconds": time.perf_counter() - started,
            **{f"train/{name}": value for name, value in terms.items()},
        }
        if progress.step % evaluate_every == 0 or progress.step == total_steps:
            evaluate(row)
        elif report is not None and progress.step % report_every == 0:
            report(row, None)
    model.load_state_dict(best)
    assert progress.dev_nll_start is not None
    assert progress.best_dev_nll is not None
    return Fitted(
        model,
        tokenizer,
        splits,
        metrics={
            "train/steps": float(progress.step),
            "train/seconds": progress.seconds,
            "train/responses": float(len(splits.train)),
            "dev/nll_start": progress.dev_nll_start,
            "dev/nll": progress.best_dev_nll,
            "dev/best_step": float(progress.best_step),
            "dev/num_responses": float(len(splits.dev)),
            "trainable_parameters": float(_num_trained(model, config)),
        },
    )


def num_steps(config: TrialConfig, num_examples: int) -> int:
    """Optimisation steps of a config on so many training examples."""
    steps = config.optim.epochs * math.ceil(num_examples / config.optim.batch_size)
    return min(steps, config.optim.max_steps or steps)


def backward(
    model: SelectivePromptModel, batch: Batch, *, config: TrialConfig, scaler: torch.amp.GradScaler | None = None
) -> dict[str, float]:
    """Add the gradient of the global batch's objective to the parameters (Eq. 6).

    The objective couples prompts (selection, fusion) and rows (contrastive), and sees the backbone only through its
    scores. So the scores of the global batch come first, from all workers and all parts; then the gradient with
    respect to them; then each part carries its share of that back through the backbone. A worker's only part keeps
    its graph; of several, each is computed again when its turn comes, so that memory is that of the largest part.

    Args:
        model: prompts, retriever and backbone.
        batch: the global batch, the same on every worker.
        config: losses and compute layout.
        scaler: of float16 gradients.

    Returns:
        Each term that is on, unweighted, and `total`.
    """
    own = parallel.own_rows(len(batch))
    local = batch.rows(own)
    parts = list(_parts(len(local), model.num_prompts, config))
    cosine_bK = model.cosine(local)
    logp_bKR = cosine_bK.new_zeros(len(local), model.num_prompts, batch.response_mask_BR.shape[1])
    kept: Tensor | None = None
    for rows, prompts in parts:
        with torch.set_grad_enabled(len(parts) == 1):
            kept = _part_logp(model, local, rows, prompts)
        logp_bKR[rows, prompts] = kept.detach()

    cosine_BK = parallel.gather_rows(cosine_bK, len(batch)).requires_grad_()
    logp_BKR = parallel.gather_rows(logp_bKR, len(batch)).requires_grad_()
    text_similarity_BB = torch.zeros(len(batch), len(batch))
    if config.losses.contrastive.enabled:
        text_similarity_BB = bleu_matrix([example.context for example in batch.examples])
    terms = objective(
        Scores(cosine_BK, activate(cosine_BK), logp_BKR),
        batch.response_mask_BR,
        text_similarity_BB.to(cosine_BK.device),
        losses=config.losses,
    )
    torch.autograd.backward(scaler.scale(terms["total"]) if scaler else terms["total"])

    if cosine_BK.grad is not None and len(local):
        torch.autograd.backward(cosine_bK, cosine_BK.grad[own])
    assert logp_BKR.grad is not None
    for rows, prompts in parts:
        logp = kept if len(parts) == 1 and kept is not None else _part_logp(model, local, rows, prompts)
        torch.autograd.backward(logp, logp_BKR.grad[own][rows, prompts])
    parallel.sum_gradients(model.parameters())
    return {name: float(term.detach()) for name, term in terms.items()}


def _parts(num_rows: int, num_prompts: int, config: TrialConfig) -> Iterator[tuple[slice, slice]]:
    """Rectangles of rows and prompts that go through the backbone at once."""
    each_row = config.compute.micro_batch_size or max(1, num_rows)
    each_prompt = config.compute.prompts_per_pass or num_prompts
    for row in range(0, num_rows, each_row):
        for prompt in range(0, num_prompts, each_prompt):
            yield slice(row, row + each_row), slice(prompt, min(prompt + each_prompt, num_prompts))


def _part_logp(model: SelectivePromptModel, batch: Batch, rows: slice, prompts: slice) -> Tensor:
    part = batch.rows(rows)
    chosen_C = torch.arange(prompts.start, prompts.stop, device=part.mask_BT.device)
    return model.token_logp(part, chosen_C.expand(len(part), -1))


def _schedule(config: TrialConfig, examples: list[Example], *, start: int, stop: int) -> Iterator[list[int]]:
    """The batches from one step to another; which ones depends on the seed alone, wherever it starts."""
    step = 0
    for epoch in range(config.optim.epochs):
        for batch in epoch_batches(examples, batch_size=config.optim.batch_size, seed=config.seed, epoch=epoch):
            if step >= stop:
                return
            if step >= start:
                yield batch
            step += 1


def _refuse_non_finite(terms: dict[str, float], *, step: int, batch: Batch) -> None:
    broken = [name for name, value in terms.items() if not math.isfinite(value) and name != "total"]
    if broken:
        replies = ", ".join(f"{example.dialogue}:{example.turn}" for example in batch.examples)
        raise NonFiniteLossError(
            f"step {step}: {', '.join(f'{name} = {terms[name]}' for name in broken)} on replies (dialogue:turn) "
            f"{replies}; a lower optim.learning_rate is the usual cure"
        )


def _num_trained(model: SelectivePromptModel, config: TrialConfig) -> int:
    """Parameters that some term of the objective moves: only selection and contrastive move the retriever."""
    losses = config.canonical().losses
    trains_retriever = losses.selection.enabled or losses.contrastive.enabled
    parts = [model.prompts, model.retriever] if trains_retriever else [model.prompts]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _snapshot(model: SelectivePromptModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
