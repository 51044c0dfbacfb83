"""Time of the similarity M of a batch of contexts, compared with plain calls of the packages that define it.

The references are sacrebleu.sentence_bleu for every ordered pair, rouge-score for every pair once (it is symmetric),
and the encoder on one text at a time. Ours is timed cold, with empty caches, and warm, with all texts of the batch in
the caches. All are timed on the same batches of a training epoch, and their results are compared.

    python -m benchmarks.similarity --train dialogues.txt --json
"""

import statistics
import time
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Annotated, Any

import sacrebleu
import torch
import typer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from torch import Tensor
from torch.nn import functional

from benchmarks import options
from spt_core import recipes, weights
from spt_core.batching import epoch_batches
from spt_core.metrics import BUNDLED_ENCODER, load_encoder
from spt_core.splits import load_splits
from spt_core.text_similarity import clear_caches, similarity_matrix

BATCH_SIZES = (4, 16)


def plain_bleu(texts: list[str]) -> Tensor:
    """BLEU [B, B] by sacrebleu, pair by pair."""
    return torch.tensor(
        [[sacrebleu.sentence_bleu(a, [b], use_effective_order=True).score for b in texts] for a in texts]
    )


def plain_rouge_l(texts: list[str]) -> Tensor:
    """ROUGE-L [B, B] by rouge-score, pair by pair."""
    # The default tokenizer, given explicitly, because rouge-score logs a line if it is omitted.
    scorer = RougeScorer(["rougeL"], tokenizer=DefaultTokenizer())
    rouge_BB = torch.zeros(len(texts), len(texts))
    for (i, a), (j, b) in combinations_with_replacement(enumerate(texts), 2):
        rouge_BB[i, j] = rouge_BB[j, i] = 100 * scorer.score(a, b)["rougeL"].fmeasure
    return rouge_BB


@torch.no_grad()
def plain_embedding(texts: list[str]) -> Tensor:
    """Cosine [B, B] of mean hidden states, encoded one text at a time."""
    tokenizer, model = load_encoder(BUNDLED_ENCODER, "cpu")
    means = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, return_tensors="pt")
        means.append(model(**inputs).last_hidden_state[0].mean(0))
    unit_BD = functional.normalize(torch.stack(means), dim=-1)
    return 100 * (unit_BD @ unit_BD.mT).clamp_min(0)


PLAIN: dict[str, Callable[[list[str]], Tensor]] = {
    "bleu": plain_bleu,
    "rouge_l": plain_rouge_l,
    "embedding": plain_embedding,
}


def compare(batches: list[list[str]], *, measure: str) -> dict[str, Any]:
    """Time ours and the plain reference in turn on the same batches.

    Args:
        batches: the texts of each batch; a first run of the first batch is not counted.
        measure: a key of `PLAIN`.

    Returns:
        Median seconds a batch, the ratios of the medians, and the largest difference of the results (0 to 100).
    """
    plain = PLAIN[measure]
    plain(batches[0])
    similarity_matrix(batches[0], measure=measure)
    seconds: dict[str, list[float]] = {"plain": [], "cold": [], "warm": []}
    differences = []
    for texts in batches:
        clear_caches()
        expected_BB = _timed(seconds["plain"], plain, texts)
        found_BB = _timed(seconds["cold"], similarity_matrix, texts, measure=measure)
        _timed(seconds["warm"], similarity_matrix, texts, measure=measure)
        differences.append(float((found_BB - expected_BB).abs().max()))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "measure": measure,
        "batch_size": len(batches[0]),
        "batches": len(batches),
        "median_seconds": medians,
        "ratio_cold": medians["plain"] / medians["cold"],
        "ratio_warm": medians["plain"] / medians["warm"],
        "largest_difference": max(differences),
    }


def _timed(seconds: list[float], function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    started = time.perf_counter()
    result = function(*args, **options)
    seconds.append(time.perf_counter() - started)
    return result


def main(
    *,
    train: options.Train = options.SAMPLE,
    repeats: Annotated[int, typer.Option(help="Batches that are timed, of each size.")] = 9,
    as_json: options.AsJson = False,
) -> None:
    """Time the three measures of text similarity against the packages that define them."""
    config = recipes.smollm2_135m().override({"data.train": train})
    tokenizer = weights.load_tokenizer(weights.resolve(config.backbone))
    examples = load_splits(config.data, tokenizer).train
    rows = []
    for batch_size in BATCH_SIZES:
        order = epoch_batches(examples, batch_size=batch_size, seed=0, epoch=0)
        whole = [ids for ids in order if len(ids) == batch_size][:repeats]
        batches = [[examples[i].context for i in ids] for ids in whole]
        rows += [compare(batches, measure=measure) for measure in PLAIN]
    words = statistics.mean(len(text.split()) for batch in batches for text in batch)
    if as_json:
        options.print_json({"threads": torch.get_num_threads(), "mean_words": words, "rows": rows})
        return
    for row in rows:
        plain, cold, warm = (1000 * row["median_seconds"][name] for name in ("plain", "cold", "warm"))
        typer.echo(
            f"{row['measure']}, B = {row['batch_size']}: plain {plain:.2f} ms, cold {cold:.2f} ms "
            f"({row['ratio_cold']:.1f} times), warm {warm:.2f} ms ({row['ratio_warm']:.1f} times); "
            f"results differ by {row['largest_difference']:.1e} at most"
        )
    typer.echo(f"medians of {repeats} batches; {words:.0f} words a context; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    typer.run(main)
