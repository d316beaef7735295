"""BLEU, ROUGE-L and words against coco-caption's own numbers and against calculations by hand.

tests/golden/ngrams.json and words.json were made with pycocoevalcap 1.2 on Python 3.11, in an
environment of its own: `corpora` with Bleu(4) and Rouge() on texts that are split by spaces,
`sentences` by way of its PTBTokenizer (stanford-corenlp-3.4.1, a Java program) from plain text.
"""

import json
import math
import pathlib

import numpy as np
import pytest

from regionjax.evaluators.cider import cider_d
from regionjax.evaluators.ngrams import bleu, bleu_counts, ngram_scores, rouge_l
from regionjax.evaluators.settings import EvaluateConfig
from regionjax.evaluators.words import words


def golden(name):
    path = pathlib.Path(__file__).parents[1] / "golden" / name
    return json.loads(path.read_text(encoding="utf-8"))


GOLDEN = golden("ngrams.json")
SETTINGS = EvaluateConfig(bootstrap_samples=200)


@pytest.mark.parametrize("corpus", GOLDEN["corpora"], ids=lambda corpus: corpus["name"])
def test_equals_coco_caption(corpus):
    items = corpus["items"]
    candidates = [item["candidate"].split() for item in items]
    references = [[text.split() for text in item["references"]] for item in items]
    found = bleu(bleu_counts(candidates, references).sum(0))
    np.testing.assert_allclose(found, corpus["bleu"], rtol=1e-12)
    scores = rouge_l(candidates, references)
    np.testing.assert_allclose(scores, [item["rouge_l"] for item in items], rtol=0, atol=1e-12)
    assert scores.mean() == pytest.approx(corpus["rouge_l"], abs=1e-12)


def test_plain_text_gives_the_numbers_of_the_whole_tool():
    """Words, BLEU, ROUGE-L and CIDEr-D together, with the Java tokenizer on the other side."""
    sentences = GOLDEN["sentences"]
    candidates = [words(item["candidate"]) for item in sentences["items"]]
    references = [[words(text) for text in item["references"]] for item in sentences["items"]]
    found = bleu(bleu_counts(candidates, references).sum(0))
    np.testing.assert_allclose(found, sentences["bleu"], rtol=1e-12)
    assert rouge_l(candidates, references).mean() == pytest.approx(sentences["rouge_l"], abs=1e-12)
    assert cider_d(candidates, references).mean() == pytest.approx(sentences["cider"], abs=1e-12)


@pytest.mark.parametrize("text, expected", golden("words.json")["sentences"])
def test_words_are_those_of_the_treebank_tokenizer(text, expected):
    assert words(text) == expected.split()


# ---- by hand ------------------------------------------------------------------------------------


def test_bleu_by_hand():
    # Of "a a b c", the reference holds two `a` and one `b`: 3 of 4 words, 2 of 3 pairs (a a, a b),
    # 1 of 2 triples (a a b), 0 of 1. Five words are wanted.
    (counts,) = bleu_counts([list("aabc")], [[list("aabde")]])
    assert counts.tolist() == [3, 2, 1, 0, 4, 3, 2, 1, 4, 5]
    penalty = math.exp(1 - 5 / 4)
    expected = [3 / 4, (3 / 4 * 2 / 3) ** 0.5, (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3)]
    np.testing.assert_allclose(bleu(counts)[:3], np.array(expected) * penalty, rtol=1e-6)
    assert bleu(counts)[3] < 1e-3


def test_bleu_sums_before_it_divides():
    """1 of 1 and 1 of 3 words are 2 of 4, not the mean of 1 and 1/3."""
    counts = bleu_counts([["a"], ["b", "x", "y"]], [[["a"]], [["b", "c", "d"]]])
    assert bleu(counts.sum(0))[0] == pytest.approx(2 / 4)


def test_the_closest_reference_counts_and_of_equals_the_shorter():
    counts = bleu_counts([list("abc")], [[list("abcdefg"), list("abcd"), list("ab")]])
    assert counts[0, -1] == 2


def test_rouge_takes_the_best_precision_and_the_best_recall():
    # "a b c d" against "a c" (recall 1, precision 1/2) and "a b c x y z d" (precision 1).
    (score,) = rouge_l([list("abcd")], [[list("ac"), list("abcxyzd")]])
    assert score == pytest.approx(1)
    (score,) = rouge_l([list("abcd")], [[list("ac")]])
    assert score == pytest.approx((1 + 1.44) * 0.5 * 1 / (1 + 1.44 * 0.5))


def test_scores_have_intervals_over_images():
    candidates = [list("abcd"), list("abcx"), list("wxyz")]
    references = [[list("abcd")]] * 3
    scores = ngram_scores("x", candidates, references, ["1", "2", "2"], SETTINGS)
    assert set(scores) == {
        f"x/{score}{end}"
        for score in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")
        for end in ("", "_low", "_high")
    }
    assert scores["x/bleu_1"] == pytest.approx(7 / 12)
    # image 1 alone, or image 2 alone with 3 of 8 words
    assert scores["x/bleu_1_low"] == pytest.approx(3 / 8)
    assert scores["x/bleu_1_high"] == pytest.approx(1)
    assert scores["x/rouge_l"] == pytest.approx((1 + 3 / 4 + 0) / 3)


@pytest.mark.parametrize("count", [bleu_counts, rouge_l])
def test_errors(count):
    with pytest.raises(ValueError, match="1 candidates but 0 sets"):
        count([["a"]], [])
    with pytest.raises(ValueError, match="item 1 has no reference"):
        count([["a"], ["b"]], [[["a"]], []])
