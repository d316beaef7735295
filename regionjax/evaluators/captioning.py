"""Captioning: is the generated text the right one, and how near is it (CIDEr-D, BLEU, ROUGE-L)?

The same items can be shown in several ways. With `shown="nothing"` the model sees the whole image
in place of the region: what it still gets right, it got without looking where the user points.
"""

import dataclasses

import numpy as np

from regionjax.batch import Segment
from regionjax.evaluators.bootstrap import estimate
from regionjax.evaluators.cider import cider_d
from regionjax.evaluators.items import Described
from regionjax.evaluators.ngrams import ngram_scores
from regionjax.evaluators.predictor import Query
from regionjax.evaluators.proposals import centre
from regionjax.evaluators.words import words
from regionjax.regions import WHOLE_IMAGE, Region

POINTS = 10  # of a region shown as points, as many as RegionVLM takes


@dataclasses.dataclass(frozen=True)
class Answer:
    """One generated text beside its truth; `region` is what the model was shown."""

    item: Described
    region: Region
    text: str
    correct: bool
    cider: float


def show(region, shown, rng):
    """The region in another form: "as_is", its bounding "box", "points", a "click" or "nothing".

    Points are random ones inside it, in the order in which a line across the image meets them; a
    click is in the middle of it, or as near as it has pixels.
    """
    if shown == "as_is":
        return region
    if shown == "box":
        return Region.from_box(region.bounding_box())
    if shown == "points":
        points = region.sample_points(POINTS, rng)
        angle = rng.uniform(0, 2 * np.pi)
        return Region.from_points(points[np.argsort(points @ (np.cos(angle), np.sin(angle)))])
    if shown == "click":
        return Region.from_points([_middle(region)])
    if shown == "nothing":
        return WHOLE_IMAGE
    raise ValueError(f"regions are shown as_is, as box, points, click or nothing; got {shown!r}")


def _middle(region):
    """xy of a click in a region."""
    if region.mask is not None:
        row, column = centre(region.mask)
        height, width = region.mask.shape
        return (column + 0.5) / width, (row + 0.5) / height
    x0, y0, x1, y1 = region.bounding_box()
    return (x0 + x1) / 2, (y0 + y1) / 2


def captioning(name, items, predictor, settings, shown="as_is"):
    """Scores generated texts.

    Texts are compared as lower-case words without punctuation (`words`); an answer is exact if it
    equals one of its references.

    Args:
      name: of the benchmark; prefix of its scores.
      items: list of Described, items of one image together.
      shown: how the regions are shown, see `show`.

    Returns:
      ({name/exact_match, name/cider, name/bleu_1 … name/bleu_4, name/rouge_l, name/majority,
      name/borrowed_cider, each with _low and _high}, list of Answer). `majority` is the exact match
      of giving everywhere the most frequent reference; `borrowed_cider` (and `borrowed_bleu_4`,
      `borrowed_rouge_l`) the score of giving each item a reference of the next one.
    """
    texts = predictor.generate(
        (
            Query(item.record, Segment(_shown(item, index, shown, settings), item.prompt))
            for index, item in enumerate(items)
        ),
        settings.generation,
    )
    candidates = [words(text) for text in texts]
    references = [[words(text) for text in item.references] for item in items]
    exact = [words_ in allowed for words_, allowed in zip(candidates, references, strict=True)]
    consensus = cider_d(candidates, references)
    majority = _majority(references)
    borrowed = [texts[0] for texts in references[1:] + references[:1]]

    images = [item.record.image_id for item in items]
    scores = {}
    for score, values in {
        "exact_match": exact,
        "cider": consensus,
        "majority": [majority in allowed for allowed in references],
        "borrowed_cider": cider_d(borrowed, references),
    }.items():
        scores |= estimate(values, images, settings).scores(f"{name}/{score}")
    scores |= ngram_scores(name, candidates, references, images, settings)
    others = ngram_scores(f"{name}/borrowed", borrowed, references, images, settings)
    for score in ("bleu_4", "rouge_l"):
        for end in ("", "_low", "_high"):
            scores[f"{name}/borrowed_{score}{end}"] = others[f"{name}/borrowed/{score}{end}"]
    answers = [
        Answer(item, _shown(item, index, shown, settings), text, correct, float(cider))
        for index, (item, text, correct, cider) in enumerate(
            zip(items, texts, exact, consensus, strict=True)
        )
    ]
    return scores, answers


def _shown(item, index, shown, settings):
    """The same region every time, however often and in whatever order it is asked for."""
    return show(item.region(), shown, np.random.default_rng((settings.seed, index)))


def _majority(references):
    """The answer that is right most often; of equals the first in the alphabet."""
    counts = {}
    for allowed in references:
        for text in {tuple(text) for text in allowed}:
            counts[text] = counts.get(text, 0) + 1
    return list(min(counts, key=lambda text: (-counts[text], text)))
