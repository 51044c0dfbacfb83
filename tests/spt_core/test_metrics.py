"""The metrics of generated replies, against values worked by hand and against the reference libraries."""

from __future__ import annotations

import math

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from spt_core import metrics
from tests.spt_core.texts import PREDICTIONS, REFERENCES

WORDS = st.sampled_from(["i", "like", "dogs", "."])
REPLIES = st.lists(st.lists(WORDS).map(" ".join), min_size=1, max_size=8)


# --- F1 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "reference", "precision", "recall"),
    [
        ("i like big dogs", "i like cats", 2 / 4, 2 / 3),
        ("no no no", "no no", 2 / 3, 2 / 2),  # a token counts as often as it is in both
        ("i\tlike \n dogs ", "i like dogs", 1, 1),  # any white space
        ("I like Dogs.", "i like dogs .", 1 / 3, 1 / 4),  # neither case nor punctuation is normalised
    ],
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(
    prediction: str, reference: str, precision: float, recall: float
) -> None:
    expected = 2 * precision * recall / (precision + recall)
    assert metrics.unigram_f1(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize(("prediction", "reference"), [("", ""), ("", "hi"), ("hi", " "), ("hi", "ho")])
def test_f1_is_zero_without_a_common_token(prediction: str, reference: str) -> None:
    assert metrics.unigram_f1(prediction, reference) == 0


def test_f1_averages_over_the_pairs() -> None:
    scores = metrics.score(["a b", "c", ""], ["a b", "c d e", "f"])
    assert scores["f1"] == pytest.approx(100 * (1 + 2 * (1 * 1 / 3) / (1 + 1 / 3) + 0) / 3)


# --- BLEU -----------------------------------------------------------------------------------------


def test_bleu_worked_by_hand() -> None:
    # n-grams matched: 5 of 6, 3 of 5, 2 of 4, 1 of 3. As long as the reference: no brevity penalty.
    scores = metrics.score(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert scores["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4))


def test_bleu_pools_its_counts_and_its_lengths_over_the_corpus() -> None:
    # Every n-gram of the two is matched (4 + 6 of 10, 3 + 5 of 8, ...), and 10 tokens stand for 11.
    scores = metrics.score(["a b c d", "e f g h i j"], ["a b c d k", "e f g h i j"])
    assert scores["bleu"] == pytest.approx(100 * math.exp(1 - 11 / 10))


def test_bleu_is_cased() -> None:
    assert metrics.score(["I LIKE BIG DOGS"], ["i like big dogs"])["bleu"] == 0


def test_bleu_is_sacrebleus_and_logs_no_warning_on_tokenised_text(caplog: pytest.LogCaptureFixture) -> None:
    tokenised = ["i like dogs ."] * 100
    expected = sacrebleu.corpus_bleu(PREDICTIONS + tokenised, [REFERENCES + tokenised], force=True)
    assert metrics.score(PREDICTIONS + tokenised, REFERENCES + tokenised)["bleu"] == expected.score
    assert not caplog.records


# --- ROUGE ----------------------------------------------------------------------------------------


def test_rouge_worked_by_hand() -> None:
    # Of 3 and 4 unigrams 3 are shared, of 2 and 3 bigrams "the cat"; it is also the longest subsequence.
    scores = metrics.score(["fish the cat"], ["the cat ate fish"])
    assert scores["rouge_1"] == pytest.approx(100 * 2 * 3 / (3 + 4))
    assert scores["rouge_2"] == pytest.approx(100 * 2 * 1 / (2 + 3))
    assert scores["rouge_l"] == pytest.approx(100 * 2 * 2 / (3 + 4))


def test_rouge_does_not_stem() -> None:
    assert metrics.score(["dogs running"], ["dog run"])["rouge_1"] == 0


def test_rouge_is_the_mean_of_rouge_scores_f_measures() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    pairs = [scorer.score(target=r, prediction=p) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    scores = metrics.score(PREDICTIONS, REFERENCES)
    for ours, theirs in [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")]:
        assert scores[ours] == pytest.approx(100 * sum(pair[theirs].fmeasure for pair in pairs) / len(pairs))


# --- DIST -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predictions", "n", "distinct", "total"),
    [
        (["a b a", "a b"], 1, 2, 5),
        (["a b a", "a b"], 2, 2, 3),  # a b, b a, a b
        (["a b", "b a"], 2, 2, 2),  # and no b b, which would span two replies
        (["a b c", "a b"], 3, 1, 1),
        (["", ""], 1, 1, 2),  # an empty reply is one token
        (["", "a b"], 1, 3, 3),
        (["a  b"], 1, 3, 3),  # a, the empty token between two spaces, b
        ([" a b\n"], 1, 2, 2),  # stripped first
        (["a\tb"], 1, 1, 1),  # single spaces only
    ],
)
def test_dist_counts_distinct_ngrams_of_the_whole_set(
    predictions: list[str], n: int, distinct: int, total: int
) -> None:
    assert metrics.dist(predictions, n) == pytest.approx(100 * distinct / total)


def test_dist_is_zero_where_no_reply_is_long_enough() -> None:
    assert metrics.dist(["a", ""], 2) == 0


def test_score_has_dist_1_dist_2_and_their_mean() -> None:
    scores = metrics.score(["a b a", "a b"], ["c", "c"])
    assert scores["dist_1"] == pytest.approx(40)
    assert scores["dist_2"] == pytest.approx(200 / 3)
    assert scores["dist_avg"] == pytest.approx((40 + 200 / 3) / 2)


@given(REPLIES, st.integers(2, 4))
def test_dist_falls_as_the_same_replies_repeat(predictions: list[str], times: int) -> None:
    once = metrics.dist(predictions, 1)
    assert 0 < once <= 100
    assert metrics.dist(predictions * times, 1) == pytest.approx(once / times)


@pytest.mark.parametrize("n", [0, -1])
def test_dist_refuses_an_n_under_one(n: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {n}"):
        metrics.dist(["a"], n)


# --- score ----------------------------------------------------------------------------------------


def test_replies_equal_to_their_references_score_100() -> None:
    scores = metrics.score(REFERENCES, REFERENCES)
    overlaps = {name: value for name, value in scores.items() if not name.startswith("dist")}
    assert overlaps == pytest.approx({"f1": 100, "bleu": 100, "rouge_1": 100, "rouge_2": 100, "rouge_l": 100})


@pytest.mark.parametrize("prediction", ["", " ", "xyz"])
def test_a_reply_that_shares_nothing_scores_zero(prediction: str) -> None:
    scores = metrics.score([prediction], ["i like dogs ."])
    assert [scores[name] for name in ("f1", "bleu", "rouge_1", "rouge_2", "rouge_l", "dist_2")] == [0] * 6
    assert scores["dist_1"] == 100


@given(REPLIES.flatmap(lambda replies: st.tuples(st.just(replies), st.permutations(range(len(replies))))))
@settings(deadline=None)
def test_the_order_of_the_pairs_does_not_matter(replies_and_order: tuple[list[str], list[int]]) -> None:
    predictions, order = replies_and_order
    references = predictions[1:] + predictions[:1]
    shuffled = metrics.score([predictions[i] for i in order], [references[i] for i in order])
    assert shuffled == pytest.approx(metrics.score(predictions, references))


def test_unequal_lengths_are_refused_with_both() -> None:
    with pytest.raises(ValueError, match="got 2 predictions and 1 references"):
        metrics.score(["a", "b"], ["a"])


def test_no_predictions_are_refused() -> None:
    for refused in (
        lambda: metrics.score([], []),
        lambda: metrics.bert_score([], []),
        lambda: metrics.dist([], 1),
        lambda: metrics.mean_length([]),
        lambda: metrics.emoji_rate([]),
    ):
        with pytest.raises(ValueError, match="predictions is empty"):
            refused()


# --- cut, length, emoji ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("i like dogs .", ("i like dogs .", None)),
        ("  i like dogs .  ", ("i like dogs .", None)),
        ("i like dogs . R: me too", ("i like dogs .", "R:")),
        ("i like dogs . Q: and you ?", ("i like dogs .", "Q:")),
        ("i like dogs . Summary: dogs", ("i like dogs .", "Summary:")),
        ("i like dogs .\ni like cats .", ("i like dogs .", "newline")),
        ("i like these : dogs", ("i like these", "colon")),
        ("i like dogs :)", ("i like dogs", "colon")),
        ("at 7:30 .", ("at 7", "colon")),
        ("yes Q: no R: yes", ("yes", "Q:")),  # the earliest marker, for any order of the rules
        ("yes :) R: no", ("yes", "colon")),
        ("yes \n R: no", ("yes", "newline")),
        ("Summary: yes", ("", "Summary:")),  # not its colon, nor the "y:" of it
        ("r: q: summary:", ("r", "colon")),  # the markers are cased
        ("R:", ("", "R:")),
        ("\nyes", ("", "newline")),
        ("yes\r\nno", ("yes", "newline")),
        ("", ("", None)),
    ],
)
def test_cut_takes_what_is_before_the_first_marker(prediction: str, expected: tuple[str, str | None]) -> None:
    assert metrics.cut(prediction) == expected


@given(st.lists(st.sampled_from(["R:", "Q:", "Summary:", "R", "Q", ":", "\n", " ", "yes"])).map("".join))
def test_cut_is_the_earliest_marker_and_leaves_none(prediction: str) -> None:
    markers = {"R:": "R:", "Q:": "Q:", "Summary:": "Summary:", "\n": "newline", ":": "colon"}
    found = [(prediction.find(marker), name) for marker, name in markers.items() if marker in prediction]
    left, rule = metrics.cut(prediction)
    if found:
        position, name = min(found)
        assert (left, rule) == (prediction[:position].strip(), name)
    else:
        assert (left, rule) == (prediction.strip(), None)
    assert metrics.cut(left) == (left, None)


def test_mean_length_counts_white_space_tokens() -> None:
    assert metrics.mean_length(["i like dogs .", "", " hi\tthere\n"]) == pytest.approx((4 + 0 + 2) / 3)


@pytest.mark.parametrize(
    "emoji",
    [
        "\N{GRINNING FACE}",
        "\N{HUGGING FACE}",
        "\N{MELTING FACE}",
        "\N{PARTY POPPER}",
        "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}",
        "\N{HEAVY BLACK HEART}",
        "\N{WHITE SMILING FACE}",
        "\N{SPARKLES}",
        "\N{SOCCER BALL}",
        "\N{ALARM CLOCK}",
        "\N{WHITE MEDIUM STAR}",
        "\N{REGIONAL INDICATOR SYMBOL LETTER F}\N{REGIONAL INDICATOR SYMBOL LETTER R}",
        "1\N{VARIATION SELECTOR-16}\N{COMBINING ENCLOSING KEYCAP}",
        "\N{TRADE MARK SIGN}\N{VARIATION SELECTOR-16}",
        "\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}",
    ],
)
def test_emoji_are_found_anywhere_in_a_text(emoji: str) -> None:
    assert metrics.has_emoji(emoji)
    assert metrics.has_emoji(f"i like dogs {emoji} .")


@pytest.mark.parametrize(
    "text",
    ["", "i like dogs . :) ;-) <3", "café, naïve, 7:30 #1 *", "—“”…™©®°€→", "犬が好き", "собака", "\u200d"],
)
def test_text_is_no_emoji(text: str) -> None:
    assert not metrics.has_emoji(text)


def test_emoji_rate_is_a_share_of_the_replies_in_percent() -> None:
    grin = "\N{GRINNING FACE}"
    assert metrics.emoji_rate([f"hi {grin}{grin}", "hi", "", "ho"]) == 25


# --- overlap with the persona -----------------------------------------------------------------------


def test_the_overlap_with_the_persona_is_sacrebleu_s() -> None:
    replies = ["i have two dogs and a cat", "i work as a nurse", ""]
    personas = ["i have two dogs. i like tea.", "i am a nurse. i work at night.", "i am old."]
    expected = sacrebleu.corpus_bleu(replies, [personas], force=True)
    found = metrics.persona_overlap(replies, personas)
    assert found["persona_bleu"] == pytest.approx(expected.score)
    assert [found[f"persona_bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected.precisions)
