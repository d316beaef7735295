"""BLEU-1 to 4 and ROUGE-L, with the numbers of coco-caption.

BLEU is that of a whole set: n-gram matches (clipped by the most that one reference has) and lengths
are summed over all items before they are divided, and the brevity penalty compares summed lengths,
each item's with that of its reference of the closest length (of equals the shorter). ROUGE-L is the
mean over items of an F score (beta 1.2) of the best precision and the best recall, which may be
those of two references. words.py splits texts into words.
"""

import collections

import numpy as np

from regionjax.evaluators.bootstrap import estimate, estimate_statistic

ORDER = 4  # the longest n-gram
BETA = 1.2  # how much more recall weighs than precision in ROUGE-L

# coco-caption's guards against division by zero; they are part of its numbers.
_TINY, _SMALL = 1e-15, 1e-9


def bleu_counts(candidates, references):
    """What BLEU adds up over items.

    Args:
      candidates: N texts as lists of words.
      references: for each candidate, a non-empty list of texts as lists of words.

    Returns:
      f64 [N, 2 · ORDER + 2]: matches of 1…ORDER words, n-grams of 1…ORDER words, length of the
      candidate, length of the reference.

    Raises:
      ValueError: lengths differ, or an item has no reference.
    """
    rows = []
    for candidate, texts in _pairs(candidates, references):
        most = collections.Counter()
        for text in texts:
            most |= _ngrams(text)
        matches = [0] * ORDER
        for ngram, count in _ngrams(candidate).items():
            matches[len(ngram) - 1] += min(count, most[ngram])
        length = len(candidate)
        there = [max(0, length - size) for size in range(ORDER)]
        closest = min((abs(len(text) - length), len(text)) for text in texts)[1]
        rows.append([*matches, *there, length, closest])
    return np.array(rows, np.float64).reshape(-1, 2 * ORDER + 2)


def bleu(counts):
    """BLEU-1…ORDER, f64 [..., ORDER], of counts [..., 2 · ORDER + 2] that are summed over items."""
    matches, there, length, wanted = np.split(counts, [ORDER, 2 * ORDER, -1], axis=-1)
    precision = np.cumprod((matches + _TINY) / (there + _SMALL), axis=-1)
    ratio = (length + _TINY) / (wanted + _SMALL)
    penalty = np.exp(1 - 1 / np.minimum(ratio, 1))
    return precision ** (1 / np.arange(1, ORDER + 1)) * penalty


def rouge_l(candidates, references):
    """ROUGE-L of every candidate, f64 [N] from 0 to 1; arguments and errors as bleu_counts."""
    scores, known = [], {}
    for candidate, texts in _pairs(candidates, references):
        key = tuple(candidate), tuple(map(tuple, texts))
        if key not in known:  # texts repeat, region names above all
            common = [_common(candidate, text) for text in texts]
            # coco-caption takes no words for one empty word
            precision = max(common) / max(len(candidate), 1)
            recall = max(
                length / max(len(text), 1) for length, text in zip(common, texts, strict=True)
            )
            known[key] = _f_score(precision, recall)
        scores.append(known[key])
    return np.array(scores, np.float64)


def ngram_scores(name, candidates, references, images, settings):
    """{name/bleu_1 … name/bleu_4, name/rouge_l, each with _low and _high}.

    Args:
      name: prefix of the scores.
      candidates, references: as bleu_counts.
      images: image ids, for the intervals (evaluators/bootstrap.py).
      settings: with `bootstrap_samples` and `seed`.
    """
    counts = bleu_counts(candidates, references)
    scores = {}
    for place, found in enumerate(estimate_statistic(counts, images, settings, bleu), 1):
        scores |= found.scores(f"{name}/bleu_{place}")
    rouge = estimate(rouge_l(candidates, references), images, settings)
    return scores | rouge.scores(f"{name}/rouge_l")


def _pairs(candidates, references):
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates but {len(references)} sets of references")
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(f"item {index} has no reference")
    return zip(candidates, references, strict=True)


def _ngrams(text):
    """Counter of the n-grams of 1…ORDER words (tuples) in a list of words."""
    return collections.Counter(
        tuple(text[start : start + size])
        for size in range(1, ORDER + 1)
        for start in range(len(text) - size + 1)
    )


def _common(one, other):
    """The number of words in the longest common subsequence of two texts."""
    one, other = one or [""], other or [""]
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0  # of the row above, one column to the left
        for column, theirs in enumerate(other, 1):
            above = row[column]
            row[column] = before + 1 if word == theirs else max(above, row[column - 1])
            before = above
    return row[-1]


def _f_score(precision, recall):
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
