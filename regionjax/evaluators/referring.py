"""Referring segmentation: which proposal makes the expression most likely?

The model scores the expression as the text of every proposal (`caption_nll`), of each several times
with other points in it if asked to (the lowest counts, or the mean); the proposal of the lowest
score is the answer. Proposals that tie share: all measures are their averages, so a model that says
the same everywhere gets exactly the chance level, wherever the right mask stands in the list. A
score that is not finite never wins and is counted; if no proposal has a finite one, or there is no
proposal, nothing is chosen (IoU 0).

Every region is read once for all expressions of its image (up to MOST).

The same choice is scored as a box (`rec`: the bounding box of the chosen mask against the true box)
and as a point (the pixel of the chosen mask nearest to its centre of mass, right if it lies in the
true mask), so that systems without boxes and heatmaps are scored for both.
"""

import dataclasses
import functools
import itertools

import numpy as np

from regionjax.batch import Segment
from regionjax.evaluators import proposals
from regionjax.evaluators.bootstrap import estimate
from regionjax.evaluators.items import Referred, pixels
from regionjax.evaluators.predictor import Query
from regionjax.evaluators.settings import COMBINED
from regionjax.regions import box_iou

LEVELS = (50, 60, 70, 80, 90)  # per cent of IoU from which a choice counts as right
ENOUGH = 0.5  # IoU of a right box
MOST = 16  # expressions of an image that are scored together
READING = 1.5  # texts that cost as much as reading a region does; RegionVLM's, by count
# What is measured of a choice: columns of a table.
MEASURES = ("intersection", "union", "miou", *(f"pr{level}" for level in LEVELS), "box", "point")
MEANS = {f"ris/pr{level}": f"pr{level}" for level in LEVELS} | {
    "rec/acc50": "box",
    "rec/pointing": "point",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """The chosen proposal (index into the item's proposals; None if none could be) and its IoU."""

    item: Referred
    chosen: int | None
    iou: float


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen in an image; n proposals, of which the rule has left out others."""

    indices: tuple  # into the item's proposals
    fallback: bool
    masks: list  # bool [H, W]
    boxes: np.ndarray  # f32 [n, 4]
    centres: list  # (row, column)
    shown: list  # of `point_samplings` regions each


def mask_with_points(region, make_rng, coverage, corners):
    """A proposal as it is: its mask, and points in it."""
    return proposals.Sampled(region, make_rng, coverage, corners)


def referring(items, predictor, settings, show=mask_with_points):
    """Scores the choice among each image's proposals.

    Args:
      items: list of Referred, items of one image together.
      show: (region, make_rng, shared dict, whether points are corners of pixels) → Region, how a
        proposal is shown; all its randomness comes from make_rng().

    Returns:
      ({ris/miou, ris/oiou, ris/pr50 … ris/pr90, rec/acc50, rec/pointing, the same under chance
      (ris/chance_miou, rec/chance_acc50 …) and ris/best_miou, each with _low and _high; ris/tied,
      ris/not_finite, ris/images, ris/images_on_fallback, ris/images_without_proposals as counts},
      list of Choice). oiou = Σ intersection / Σ union; pr50: IoU of at least 0.5; chance: a
      proposal drawn evenly; best: always the best proposal, the ceiling that the proposals set.
    """
    tables = []  # per item, f64 [proposals, MEASURES]
    missed = []  # per item, [MEASURES]: when nothing is chosen
    options = []  # per item, the indices of its proposals
    images = {}  # id: (fallback, whether there is a proposal)
    groups = list(_together(items))

    def queries():
        latest, found = None, None
        for group in groups:
            first = group[0]
            if latest is not first.proposals:
                latest, found = first.proposals, _options(first, settings, show)
                images[first.record.image_id] = found.fallback, bool(found.indices)
            for item in group:
                truth = pixels(item.region(), item.record.height, item.record.width)
                tables.append(_measured(found, truth, item.box))
                missed.append(np.eye(len(MEASURES))[1] * truth.sum())
                options.append(found.indices)
            texts = tuple(item.expression for item in group)
            for region in itertools.chain(*found.shown):
                yield Query(first.record, Segment(region, first.refer_prompt), texts)

    most = max(map(len, groups), default=1)
    together = settings.scored_together or None
    rows = predictor.caption_nll(queries(), most, together, compared=True)
    scored, place, odd = [], 0, 0
    for group in groups:
        count = len(options[len(scored)]) * settings.point_samplings
        nll = rows[place : place + count, : len(group)].T  # [expressions, proposals · samplings]
        place += count
        odd += int((~np.isfinite(nll)).sum())
        nll = np.where(np.isfinite(nll), nll, np.inf)
        nll = nll.reshape(len(group), -1, settings.point_samplings)
        scored += list(COMBINED[settings.samplings_by](nll, axis=-1))
    choices, taken, drawn, ceiling, tied = [], [], [], [], 0
    for item, table, nothing, indices, scores in zip(
        items, tables, missed, options, scored, strict=True
    ):
        best = _lowest(scores)
        tied += len(best) > 1
        taken.append(table[best].mean(axis=0) if len(best) else nothing)
        drawn.append(table.mean(axis=0) if len(table) else nothing)
        ceiling.append(table[:, 2].max(initial=0))
        chosen = indices[best[0]] if len(best) else None
        choices.append(Choice(item, chosen, float(taken[-1][2])))

    owners = [item.record.image_id for item in items]
    scores = {}
    for prefix, rows in {"": taken, "chance_": drawn}.items():
        columns = dict(zip(MEASURES, np.array(rows).T, strict=True))
        for key, column in {"ris/miou": "miou", **MEANS}.items():
            family, name = key.split("/")
            found = estimate(columns[column], owners, settings)
            scores |= found.scores(f"{family}/{prefix}{name}")
        found = estimate(columns["intersection"], owners, settings, columns["union"])
        scores |= found.scores(f"ris/{prefix}oiou")
    scores |= estimate(ceiling, owners, settings).scores("ris/best_miou")
    scores["ris/tied"] = tied
    scores["ris/not_finite"] = odd
    scores["ris/images"] = len(images)
    scores["ris/images_on_fallback"] = sum(fallback for fallback, _ in images.values())
    scores["ris/images_without_proposals"] = sum(not some for _, some in images.values())
    return scores, choices


def _together(items):
    """Yields lists of neighbouring items that share proposals and prompt, all but evenly filled.

    A region is read once for all expressions of a list, and every list is padded to the longest,
    so its length is one that has both small: the least sum of what is read and of what is padded.
    """
    alike = itertools.groupby(items, lambda item: (id(item.proposals), item.refer_prompt))
    images = [list(group) for _, group in alike]
    most = max(map(len, images), default=1)
    size = min(
        range(1, min(most, MOST) + 1),
        key=lambda size: (size + READING) * sum(-(-len(group) // size) for group in images),
    )
    for group in images:
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _options(item, settings, show):
    """The Options of an item's image."""
    regions = item.proposals()
    kept = proposals.kept([region.mask for region in regions], settings.proposals)
    corners = settings.proposals.rule == "parity"
    shown = []
    for index in kept.indices:
        coverage = {}
        keys = [
            (settings.seed, item.record.image_id, index, repeat)
            for repeat in range(settings.point_samplings)
        ]
        make = [functools.partial(proposals.generator, *key) for key in keys]
        shown.append([show(regions[index], rng, coverage, corners) for rng in make])
    regions = [regions[index] for index in kept.indices]
    return Options(
        indices=kept.indices,
        fallback=kept.fallback,
        masks=[region.mask for region in regions],
        boxes=np.reshape([region.bounding_box() for region in regions], (-1, 4)),
        centres=[proposals.centre(region.mask) for region in regions],
        shown=shown,
    )


def _measured(options, truth, box):
    """f64 [proposals, MEASURES] against a true mask and a true box."""
    table = np.zeros((len(options.masks), len(MEASURES)))
    if not len(table):
        return table
    intersection = np.array([(mask & truth).sum() for mask in options.masks])
    union = np.array([(mask | truth).sum() for mask in options.masks])
    iou = intersection / union
    table[:, :3] = np.stack([intersection, union, iou], axis=1)
    table[:, 3:-2] = iou[:, None] >= np.array(LEVELS) / 100
    table[:, -2] = box_iou(options.boxes, box) >= ENOUGH
    table[:, -1] = [truth[place] for place in options.centres]
    return table


def _lowest(scores):
    """Indices of the lowest finite scores; empty if none is finite."""
    lowest = scores.min(initial=np.inf)
    return np.flatnonzero(scores == lowest) if np.isfinite(lowest) else np.array([], int)
