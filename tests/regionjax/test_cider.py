"""CIDEr-D against coco-caption's own numbers.

tests/golden/cider.json was made with pycocoevalcap 1.2 on Python 3.11, in an environment of its
own: for each corpus `Cider(n=4, sigma=6.0).compute_score({i: references}, {i: [candidate]})`, whose
mean and scores were stored as they came.
"""

import json
import pathlib

import numpy as np
import pytest

from regionjax.evaluators.cider import cider_d

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "cider.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("corpus", GOLDEN["corpora"], ids=lambda corpus: corpus["name"])
def test_equals_coco_caption(corpus):
    items = corpus["items"]
    scores = cider_d(
        [item["candidate"].split() for item in items],
        [[text.split() for text in item["references"]] for item in items],
    )
    np.testing.assert_allclose(scores, [item["score"] for item in items], rtol=0, atol=1e-12)
    assert scores.mean() == pytest.approx(corpus["mean"], abs=1e-12)


def test_by_hand():
    # Two items, single words: "a" is in one of them, so its weight is log 2; the cosine is 1, and
    # only the first of the four orders has any n-gram: 10 · 1/4.
    np.testing.assert_allclose(cider_d([["a"], ["x"]], [[["a"]], [["b"]]]), [2.5, 0])
    # A word of every item weighs log(2/2) = 0: nothing left to compare.
    np.testing.assert_allclose(cider_d([["a"], ["a"]], [[["a"]], [["a"]]]), [0, 0])


def test_no_items():
    assert cider_d([], []).shape == (0,)


@pytest.mark.parametrize(
    "candidates, references, message",
    [
        ([["a"]], [], "1 candidates but 0 sets"),
        ([["a"], ["b"]], [[["a"]], []], "item 1 has no reference"),
    ],
)
def test_errors(candidates, references, message):
    with pytest.raises(ValueError, match=message):
        cider_d(candidates, references)
