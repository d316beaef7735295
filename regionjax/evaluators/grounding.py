"""Grounding: from an expression to a place in the image.

The model answers "locate <expression>" in two ways, and both are scored. Its text is four location
tokens, a box (right if its IoU with the true box is at least 0.5). Its heatmap is brought to the
size of the image, bicubically, and points at its highest pixel (the first of equals, row by row);
the pointing is right if that pixel lies in the true mask. The centre of the generated box is
scored as a second way to point.
"""

import dataclasses

import numpy as np
from PIL import Image

from regionjax.batch import Segment
from regionjax.evaluators.bootstrap import estimate
from regionjax.evaluators.items import Referred, pixels
from regionjax.evaluators.predictor import Query
from regionjax.regions import (
    WHOLE_IMAGE,
    RegionError,
    box_from_locations,
    box_iou,
    locations_from_text,
)

ENOUGH = 0.5  # IoU of a right box


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the model put an expression.

    Attributes:
      box: f32 [4], or None if the text was not a box.
      iou: of the boxes.
      heatmap: f32 [h, w].
      peak: xy, normalised, or None if the heatmap is not finite.
      hit: the peak lies inside the truth.
    """

    item: Referred
    text: str
    box: np.ndarray | None
    iou: float
    heatmap: np.ndarray
    peak: tuple[float, float] | None
    hit: bool


def parse_box(text, bins):
    """The box (f32 [4]) that four location tokens name; None if the text is anything else.

    A box whose corners are out of order is malformed too.
    """
    try:
        locations = locations_from_text(text)
        if len(locations) != 4:
            return None
        box = box_from_locations(locations, bins)
    except RegionError:  # the model may say anything; the caller counts what is not a box
        return None
    return box if (box[2:] >= box[:2]).all() else None


def grounding(items, predictor, settings, bins):
    """Scores boxes and heatmaps.

    Args:
      items: list of Referred, items of one image together.
      bins: of the location tokens.

    Returns:
      ({grounding/acc50, grounding/miou, grounding/chance_acc50, pointing/accuracy,
      pointing/box_centre_accuracy, pointing/chance, each with _low and _high,
      grounding/malformed and pointing/not_finite as counts}, list of Place).
      grounding/chance_acc50: the box of an evenly drawn proposal; pointing/chance: a pixel drawn
      evenly, that is the mean area of the true masks.
    """
    queries = [Query(item.record, Segment(WHOLE_IMAGE, item.locate_prompt)) for item in items]
    texts = predictor.generate(queries, settings.generation)
    heatmaps = predictor.heatmap(queries)

    places, centre_hits, box_chance, chance = [], [], [], []
    for item, text, heatmap in zip(items, texts, heatmaps, strict=True):
        truth = pixels(item.region(), item.record.height, item.record.width)
        box = parse_box(text, bins)
        peak = peak_of(heatmap, *truth.shape)
        places.append(
            Place(
                item=item,
                text=text,
                box=box,
                iou=0.0 if box is None else float(box_iou(box, item.box)),
                heatmap=heatmap,
                peak=peak,
                hit=peak is not None and _holds(truth, peak),
            )
        )
        centre_hits.append(box is not None and _holds(truth, (box[:2] + box[2:]) / 2))
        boxes = [proposal.bounding_box() for proposal in item.proposals()]
        box_chance.append(np.mean([box_iou(b, item.box) >= ENOUGH for b in boxes] or [0.0]))
        chance.append(truth.mean())

    images = [item.record.image_id for item in items]
    scores = {}
    for name, values in {
        "grounding/acc50": [place.iou >= ENOUGH for place in places],
        "grounding/miou": [place.iou for place in places],
        "grounding/chance_acc50": box_chance,
        "pointing/accuracy": [place.hit for place in places],
        "pointing/box_centre_accuracy": centre_hits,
        "pointing/chance": chance,
    }.items():
        scores |= estimate(values, images, settings).scores(name)
    scores["grounding/malformed"] = sum(place.box is None for place in places)
    scores["pointing/not_finite"] = sum(place.peak is None for place in places)
    return scores, places


def peak_of(heatmap, height, width):
    """The centre of the highest pixel, xy normalised; None if the heatmap is not finite."""
    if not np.isfinite(heatmap).all():
        return None
    grown = Image.fromarray(np.asarray(heatmap, np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    row, column = divmod(int(np.argmax(np.asarray(grown))), width)
    return (column + 0.5) / width, (row + 0.5) / height


def _holds(mask, point):
    height, width = mask.shape
    x, y = point
    return bool(mask[min(int(y * height), height - 1), min(int(x * width), width - 1)])
