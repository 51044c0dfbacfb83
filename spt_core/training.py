"""Training: the optimisation steps of a trial, its evaluations on dev, its checkpoints, and its best adapter."""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from spt_core import checkpoint, parallel
from spt_core.baselines import LoraModel
from spt_core.batching import Batch, Example, collate
from spt_core.build import build
from spt_core.checkpoint import Progress
from spt_core.config import TrialConfig
from spt_core.device import default_device, prepare_process
from spt_core.diagnostics import describe_prompts, usage
from spt_core.evaluation import dev_metric, selected_nll, selected_prompts
from spt_core.gradient import backward, dev_objective, text_of
from spt_core.model import SelectivePromptModel
from spt_core.schedule import batches, evaluates_at, num_steps
from spt_core.splits import Splits, prepare
from spt_core.text_similarity import quantile_threshold

MOST_REPORTS = 200
"""Most reports of a training run, those with an evaluation not counted."""


class Report(Protocol):
    """Receives the metrics and the checkpoints of a run: Ray's report in a worker, a list in a test."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Receive one row of metrics (always with `step`) and, after an evaluation, a checkpoint folder.

        The folder is deleted after the call, so a receiver copies what it keeps.
        """


class NonFiniteLossError(ArithmeticError):
    """A term of the loss became NaN or infinite; the message names the term, the step and the replies."""


@dataclass(frozen=True)
class Fitted:
    """A trained model, with the parameters of its best evaluation.

    Attributes:
        model: with the best prompts and retriever.
        tokenizer: of its backbone.
        splits: the data of the trial.
        metrics: `train/steps`, `train/seconds`, `dev/nll_start`, `dev/nll` (the best), `dev/best_step`, ...
    """

    model: SelectivePromptModel
    tokenizer: Any
    splits: Splits
    metrics: dict[str, float]


def fit(
    config: TrialConfig,
    *,
    report: Report | None = None,
    resume_from: Path | None = None,
    device: str | None = None,
) -> Fitted:
    """Train the soft prompts and the retriever of a config.

    A script, a test and a Ray Train worker call the same function. Every worker of a trial calls it, and
    `torch.distributed`, if initialised, gives their number.

    Args:
        config: the trial.
        report: called on every worker with a row of metrics, and with a checkpoint after each evaluation.
        resume_from: a checkpoint folder of the same config.
        device: where to train; None means `default_device()`.

    Raises:
        ValueError: a model, a data source or a combination of settings that is not available.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    device = device or default_device()
    config = config.canonical().model_copy(update={"compute": config.compute})
    prepare_process(device)
    model, tokenizer = build(config, device=device)
    refuse_workers(config, parallel.world_size())
    splits = prepare(config, tokenizer)
    run = _Run(
        config,
        resolved=_resolve_gamma(config, splits.train),
        model=model,
        tokenizer=tokenizer,
        splits=splits,
        report=report or (lambda metrics, checkpoint: None),
    )
    if resume_from is not None:
        run.resume(resume_from)
    run.train()
    return Fitted(model, tokenizer, splits, run.metrics())


class _Run:
    """One training run and all its state: model, optimizer, gradient scaler, progress and the best adapter so far."""

    def __init__(
        self,
        config: TrialConfig,
        *,
        resolved: TrialConfig,
        model: SelectivePromptModel,
        tokenizer: Any,
        splits: Splits,
        report: Report,
    ) -> None:
        self.config, self.resolved = config, resolved
        self.model, self.tokenizer, self.splits, self.report = model, tokenizer, splits, report
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.optim.learning_rate)
        self.scaler = torch.amp.GradScaler(model.backbone.device.type, enabled=model.backbone.precision == "float16")
        self.progress = Progress()
        self.best = _snapshot(model)
        self.total_steps = num_steps(config, len(splits.train))
        self.started = time.perf_counter()

    def resume(self, folder: Path) -> None:
        self.progress, self.best = checkpoint.load_progress(
            folder, model=self.model, optimizer=self.optimizer, scaler=self.scaler, config=self.config
        )
        self.started -= self.progress.seconds

    def train(self) -> None:
        """Run all remaining steps; at the end the model has the parameters of the best adapter."""
        config, progress = self.config, self.progress
        report_every = max(1, self.total_steps // MOST_REPORTS)
        if progress.dev_nll_start is None:
            self._evaluate(self._row({}))
        for batch_ids in batches(config, self.splits.train, start=progress.step, stop=self.total_steps):
            if config.optim.patience is not None and progress.without_better >= config.optim.patience:
                break
            progress.step += 1
            evaluates = evaluates_at(progress.step, config, num_examples=len(self.splits.train), stop=self.total_steps)
            row = self._row(self._step(batch_ids, with_norms=evaluates))
            if evaluates:
                self._evaluate(row)
            elif progress.step % report_every == 0:
                self.report(row, None)
        self.model.load_state_dict(self.best)

    def _step(self, batch_ids: list[int], *, with_norms: bool) -> dict[str, float]:
        batch = collate([self.splits.train[index] for index in batch_ids]).to(self.model.backbone.device)
        self.optimizer.zero_grad(set_to_none=True)
        terms = backward(
            self.model,
            batch,
            config=self.resolved,
            step=self.progress.step,
            scaler=self.scaler,
            with_norms=with_norms,
        )
        _refuse_non_finite(terms, step=self.progress.step, batch=batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    def _row(self, terms: dict[str, float]) -> dict[str, float]:
        return {
            "step": float(self.progress.step),
            "total_steps": float(self.total_steps),
            "seconds": time.perf_counter() - self.started,
            **{f"train/{name}": value for name, value in terms.items()},
        }

    def _evaluate(self, row: dict[str, float]) -> None:
        """Score dev, keep the adapter if it is the best, and report with a checkpoint."""
        progress = self.progress
        loss, found = self._score_dev()
        if progress.dev_nll_start is None:
            progress.dev_nll_start = found["dev/nll"]
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_dev_nll, progress.best_step = loss, found["dev/nll"], progress.step
            progress.without_better, self.best = 0, _snapshot(self.model)
        else:
            progress.without_better += 1
        progress.seconds = time.perf_counter() - self.started
        with tempfile.TemporaryDirectory(prefix="spt-checkpoint-") as folder:
            checkpoint.save_progress(
                Path(folder),
                progress,
                model=self.model.state_dict(),
                best=self.best,
                optimizer=self.optimizer,
                scaler=self.scaler,
                config=self.config,
            )
            self.report({**row, **found, **self._describe()}, Path(folder))

    def _describe(self) -> dict[str, float]:
        """Diagnostics of the prompts; with more than one prompt also how often each is selected on dev."""
        found = describe_prompts(self.model)
        if self.model.num_prompts > 1:
            chosen = selected_prompts(self.model, self.splits.dev, batch_size=self.config.scoring.batch_size)
            of_dev = usage(chosen, num_prompts=self.model.num_prompts)
            found |= {f"dev/{name}": value for name, value in of_dev.items()}
        return found

    def _score_dev(self) -> tuple[float, dict[str, float]]:
        """The criterion that chooses the checkpoint (lower is better), and the dev metrics to report."""
        config, dev = self.config.scoring, self.splits.dev
        nll = selected_nll(self.model, dev, batch_size=config.batch_size)
        if config.select_by == "nll":
            return nll, {"dev/nll": nll}
        if config.select_by == "objective":
            loss = dev_objective(self.model, dev, config=self.resolved)
            return loss, {"dev/nll": nll, "dev/objective": loss}
        score = dev_metric(self.model, self.tokenizer, dev, config=config)
        return -score, {"dev/nll": nll, f"dev/{config.select_by}": score}

    def metrics(self) -> dict[str, float]:
        progress, contrastive = self.progress, self.resolved.losses.contrastive
        assert progress.dev_nll_start is not None
        assert progress.best_dev_nll is not None
        found = {
            "train/steps": float(progress.step),
            "train/seconds": progress.seconds,
            "train/responses": float(len(self.splits.train)),
            "dev/nll_start": progress.dev_nll_start,
            "dev/nll": progress.best_dev_nll,
            "dev/best_step": float(progress.best_step),
            "dev/num_responses": float(len(self.splits.dev)),
            "trainable_parameters": float(_num_trained(self.model, self.config)),
        }
        if contrastive.enabled:
            found["train/gamma"] = float(contrastive.threshold)
        if isinstance(self.model, LoraModel):
            found["lora/rank"] = float(self.model.rank)
        return found


def refuse_workers(config: TrialConfig, workers: int) -> None:
    """Refuse settings whose result would depend on the number of workers, which is not part of a trial's identity.

    Raises:
        ValueError: dropout with more than one worker.
    """
    if config.backbone.dropout and workers > 1:
        raise ValueError(
            f"backbone.dropout with {workers} workers: its masks are drawn for the whole batch, so the "
            "result would depend on the number of workers; use one"
        )


def _resolve_gamma(config: TrialConfig, train: list[Example]) -> TrialConfig:
    """The config with Gamma as a number: a quantile is replaced by its value over pairs of training examples."""
    contrastive = config.losses.contrastive
    if not contrastive.enabled or not isinstance(contrastive.threshold, str):
        return config
    gamma = quantile_threshold(
        [text_of(example, contrastive) for example in train],
        measure=contrastive.similarity,
        share=float(contrastive.threshold.removeprefix("quantile:")),
        seed=config.data.split_seed,
    )
    return config.override({"losses.contrastive.threshold": gamma})


def _refuse_non_finite(terms: dict[str, float], *, step: int, batch: Batch) -> None:
    # A gradient norm may overflow in float16. The scaler then skips the step, so that is no error.
    of_terms = {name: value for name, value in terms.items() if name != "total" and "/" not in name}
    broken = [name for name, value in of_terms.items() if not math.isfinite(value)]
    if broken:
        replies = ", ".join(f"{example.dialogue}:{example.turn}" for example in batch.examples)
        raise NonFiniteLossError(
            f"step {step}: {', '.join(f'{name} = {terms[name]}' for name in broken)} on replies (dialogue:turn) "
            f"{replies}; a lower optim.learning_rate is the usual cure"
        )


def _num_trained(model: SelectivePromptModel, config: TrialConfig) -> int:
    """Number of trained parameters; those of the retriever count only if some term of the objective trains it."""
    losses = config.canonical().losses
    trains_retriever = (
        losses.selection.enabled
        or losses.contrastive.enabled
        or (losses.fusion.enabled and losses.fusion.of == "weighted_logits")
    )
    of_retriever = 0 if model.retriever is None else sum(p.numel() for p in model.retriever.parameters())
    every = sum(parameter.numel() for parameter in model.parameters())
    return every if trains_retriever else every - of_retriever


def _snapshot(model: SelectivePromptModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
