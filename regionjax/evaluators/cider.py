"""CIDEr-D, the consensus score of coco-caption (Vedantam et al., CVPR 2015).

The numbers equal those of coco-caption's `Cider` on the same words (n-grams up to 4, sigma 6,
document frequencies counted over the references of the evaluated items). words.py splits texts into
words as coco-caption does.
"""

import collections
import math

import numpy as np

ORDER = 4  # the longest n-gram
SIGMA = 6.0  # of the length penalty, in words
SCALE = 10.0  # a perfect answer of at least ORDER words scores this


def cider_d(candidates, references):
    """Scores every candidate against its own references.

    Args:
      candidates: N texts as lists of words.
      references: for each candidate, a non-empty list of texts as lists of words.

    Returns:
      f64 [N], from 0 to 10; the corpus score is their mean. Document frequencies come from all
      references, so an item's score depends on the whole set (and a set of one scores 0).

    Raises:
      ValueError: lengths differ, or an item has no reference.
    """
    candidates = [tuple(text) for text in candidates]
    references = [[tuple(text) for text in texts] for texts in references]
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates but {len(references)} sets of references")
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(f"item {index} has no reference")

    # ---- weights of n-grams: rare among the items' references = telling
    frequency = collections.Counter()
    for texts in references:
        frequency.update(set().union(*(_ngrams(text) for text in texts)))
    log_items = math.log(len(references)) if references else 0.0

    # ---- texts repeat (region names above all), so each text and each pair is worked out once
    vectors, similarities = {}, {}

    def vector(text):
        if text not in vectors:
            orders = [{} for _ in range(ORDER)]
            for ngram, count in _ngrams(text).items():
                rarity = log_items - math.log(max(1, frequency[ngram]))
                orders[len(ngram) - 1][ngram] = count * rarity
            norms = [math.sqrt(sum(value**2 for value in order.values())) for order in orders]
            vectors[text] = orders, norms
        return vectors[text]

    def similarity(candidate, reference):
        pair = candidate, reference
        if pair not in similarities:
            total = 0.0
            for mine, my_norm, theirs, their_norm in zip(
                *vector(candidate), *vector(reference), strict=True
            ):
                if my_norm and their_norm:
                    # a repeated n-gram earns no more than the reference holds
                    dot = sum(min(mine[k], theirs[k]) * theirs[k] for k in mine if k in theirs)
                    total += dot / (my_norm * their_norm)
            gap = _length(candidate) - _length(reference)
            similarities[pair] = total / ORDER * math.exp(-(gap**2) / (2 * SIGMA**2))
        return similarities[pair]

    return np.array(
        [
            SCALE * sum(similarity(candidate, text) for text in texts) / len(texts)
            for candidate, texts in zip(candidates, references, strict=True)
        ],
        np.float64,
    )


def _ngrams(text):
    """Counter of the n-grams of 1…ORDER words (tuples) in a tuple of words."""
    return collections.Counter(
        text[start : start + size]
        for size in range(1, ORDER + 1)
        for start in range(len(text) - size + 1)
    )


def _length(text):
    """coco-caption counts pairs of words, so that no word and one word are equally long."""
    return max(0, len(text) - 1)
