"""Training, read from top to bottom: data, model, steps, dev, the best adapter."""

import functools
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from spt_core import checkpoint, parallel
from spt_core.baselines import LoraModel, shown_examples, with_preamble
from spt_core.batching import Batch, Example, collate, epoch_batches, some_dialogues, tokenise
from spt_core.build import build
from spt_core.checkpoint import Progress
from spt_core.config import TrialConfig
from spt_core.conversations import Conversations, split_dev
from spt_core.conversations import load as load_conversations
from spt_core.cpu import memory
from spt_core.diagnostics import describe_prompts, usage
from spt_core.evaluation import dev_metric, selected_nll, selected_prompts
from spt_core.fields import DataConfig
from spt_core.gradient import backward, dev_objective, text_of
from spt_core.model import SelectivePromptModel
from spt_core.text_similarity import quantile_threshold

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

    def scored(self, split: Literal["test", "dev", "none"]) -> list[Example]:
        """The examples that `evaluation.split` names."""
        return {"test": self.test, "dev": self.dev, "none": []}[split]


def load_splits(data: DataConfig, tokenizer: Any) -> Splits:
    """Read, carve and tokenise the data of a trial.

    Raises:
        ValueError: a source that cannot be read, or a dev split that leaves nothing to train on.
    """
    train, dev = split_dev(load_conversations(data.train), num_dialogues=data.dev_dialogues, seed=data.split_seed)
    of_train, of_dev, of_test = (
        _tokenised(part, tokenizer, data.max_tokens, data.boundary, data.train_eos)
        for part in (train, dev, load_conversations(data.test))
    )
    return Splits(
        train=list(of_train),
        dev=some_dialogues(of_dev, most=data.max_dev_responses, seed=data.split_seed),
        test=some_dialogues(of_test, most=data.max_test_responses, seed=data.split_seed),
    )


@functools.lru_cache(maxsize=6)
def _tokenised(
    conversations: Conversations, tokenizer: Any, max_tokens: int, boundary: str, train_eos: bool
) -> list[Example]:
    """Examples by the content of their dialogues: the trials of one process share them."""
    return tokenise(conversations, tokenizer, max_tokens=max_tokens, boundary=boundary, train_eos=train_eos)


def prepare(config: TrialConfig, tokenizer: Any) -> Splits:
    """The splits as the method reads them: in-context replies stand behind instruction and examples."""
    splits = load_splits(config.data, tokenizer)
    if config.method != "in_context":
        return splits
    shown = shown_examples(splits.train, num_examples=config.in_context.num_examples, seed=config.seed)
    dev, test = (
        with_preamble(examples, shown, config=config.in_context, tokenizer=tokenizer)
        for examples in (splits.dev, splits.test)
    )
    return Splits(splits.train, dev, test)


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
    config = config.canonical().model_copy(update={"compute": config.compute})
    if device == "cpu":
        memory.keep_freed()
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
    """One training run: what changes from step to step, in one place."""

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
        """All steps from where it stands; the best adapter is in the model at the end."""
        config, progress = self.config, self.progress
        report_every = max(1, self.total_steps // MOST_REPORTS)
        if progress.dev_nll_start is None:
            self._evaluate(self._row({}))
        for batch_ids in _schedule(config, self.splits.train, start=progress.step, stop=self.total_steps):
            if config.optim.patience is not None and progress.without_better >= config.optim.patience:
                break
            progress.step += 1
            evaluates = _evaluates_at(progress.step, config, num_examples=len(self.splits.train), stop=self.total_steps)
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
        """How the prompts stand, and how the choices on dev fall on them where there is a choice."""
        found = describe_prompts(self.model)
        if self.model.num_prompts > 1:
            chosen = selected_prompts(self.model, self.splits.dev, batch_size=self.config.scoring.batch_size)
            of_dev = usage(chosen, num_prompts=self.model.num_prompts)
            found |= {f"dev/{name}": value for name, value in of_dev.items()}
        return found

    def _score_dev(self) -> tuple[float, dict[str, float]]:
        """What chooses the checkpoint, lower being better, and what is reported of it."""
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
    """Refuse what depends on the number of workers, which is no part of a trial's identity.

    Raises:
        ValueError: dropout with more than one.
    """
    if config.backbone.dropout and workers > 1:
        raise ValueError(
            f"backbone.dropout with {workers} workers: its masks are drawn for the whole batch, so the "
            "result would depend on the number of workers; use one"
        )


def _resolve_gamma(config: TrialConfig, train: list[Example]) -> TrialConfig:
    """The config with Gamma as a number, where it is a quantile of the training pairs."""
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


def num_steps(config: TrialConfig, num_examples: int) -> int:
    """Optimisation steps of a config on so many training examples."""
    if config.method == "in_context":
        return 0
    steps = config.optim.epochs * math.ceil(num_examples / config.optim.batch_size)
    return min(steps, config.optim.max_steps or steps)


def num_evaluations(config: TrialConfig, num_examples: int) -> int:
    """How often a config scores dev on so many training examples, if it does not stop early."""
    stop, an_epoch = num_steps(config, num_examples), math.ceil(num_examples / config.optim.batch_size)
    every = config.evaluation.every_steps or an_epoch
    on_the_way = stop // every + stop // an_epoch - stop // math.lcm(every, an_epoch)
    at_the_end = stop > 0 and stop % every > 0 and stop % an_epoch > 0
    return 1 + on_the_way + at_the_end


def _evaluates_at(step: int, config: TrialConfig, *, num_examples: int, stop: int) -> bool:
    steps_an_epoch = math.ceil(num_examples / config.optim.batch_size)
    every = config.evaluation.every_steps or steps_an_epoch
    return step % every == 0 or step % steps_an_epoch == 0 or step == stop


def _schedule(config: TrialConfig, examples: list[Example], *, start: int, stop: int) -> Iterator[list[int]]:
    """The batches from one step to another; which ones depends on the seed alone, wherever it starts."""
    step = 0
    for epoch in range(config.optim.epochs):
        order = epoch if config.optim.order == "each_epoch" else 0
        for batch in epoch_batches(examples, batch_size=config.optim.batch_size, seed=config.seed, epoch=order):
            if step >= stop:
                return
            if step >= start:
                yield batch
            step += 1


def _refuse_non_finite(terms: dict[str, float], *, step: int, batch: Batch) -> None:
    # A gradient norm may overflow in float16: the scaler then skips the step, and nothing is broken.
    of_terms = {name: value for name, value in terms.items() if name != "total" and "/" not in name}
    broken = [name for name, value in of_terms.items() if not math.isfinite(value)]
    if broken:
        replies = ", ".join(f"{example.dialogue}:{example.turn}" for example in batch.examples)
        raise NonFiniteLossError(
            f"step {step}: {', '.join(f'{name} = {terms[name]}' for name in broken)} on replies (dialogue:turn) "
            f"{replies}; a lower optim.learning_rate is the usual cure"
        )


def _num_trained(model: SelectivePromptModel, config: TrialConfig) -> int:
    """Parameters that some term of the objective moves; the retriever has none where nothing trains it."""
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
