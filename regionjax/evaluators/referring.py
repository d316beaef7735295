"""Referring segmentation: which proposal makes the expression most likely?

The model scores the expression as the text of every proposal (`caption_nll`); the proposal of the
lowest score is the answer. Proposals that tie share: intersection and union are their averages, so
a model that says the same everywhere gets exactly the chance level, wherever the right mask stands
in the list. A score that is not finite never wins and is counted; if no proposal has a finite one,
or there is no proposal, nothing is chosen (IoU 0).
"""

import dataclasses

import numpy as np

from regionjax.batch import Segment
from regionjax.evaluators.bootstrap import estimate
from regionjax.evaluators.items import Referred, pixels
from regionjax.evaluators.predictor import Query


@dataclasses.dataclass(frozen=True)
class Choice:
    """The chosen proposal (index into the item's proposals; None if none could be) and its IoU."""

    item: Referred
    chosen: int | None
    iou: float


def referring(items, predictor, settings):
    """Scores the choice among each image's proposals.

    Args:
      items: list of Referred, items of one image together.

    Returns:
      ({ris/miou, ris/oiou, ris/chance_miou, ris/chance_oiou, ris/best_miou, each with _low and
      _high, ris/tied and ris/not_finite as counts}, list of Choice). oiou = Σ intersection /
      Σ union; chance: a proposal drawn evenly; best: always the best proposal, the ceiling that
      the proposals set.
    """
    tables = []  # per item, f64 [proposals, 3]: intersection and union (pixels), IoU
    missed = []  # per item, [3]: the same when nothing is chosen

    def queries():
        for item in items:
            truth = pixels(item.region(), item.record.height, item.record.width)
            proposals = item.proposals()
            tables.append(_overlaps([proposal.mask for proposal in proposals], truth))
            missed.append((0, truth.sum(), 0))
            for proposal in proposals:
                segment = Segment(proposal, item.refer_prompt, item.expression)
                yield Query(item.record, segment)

    nll = predictor.caption_nll(queries())
    ends = np.cumsum([len(table) for table in tables])
    choices, taken, drawn, ceiling, tied = [], [], [], [], 0
    for item, table, nothing, scores in zip(
        items, tables, missed, np.split(nll, ends[:-1]), strict=True
    ):
        best = _lowest(scores)
        tied += len(best) > 1
        taken.append(table[best].mean(axis=0) if len(best) else nothing)
        drawn.append(table.mean(axis=0) if len(table) else nothing)
        ceiling.append(table[:, 2].max(initial=0))
        chosen = int(best[0]) if len(best) else None
        choices.append(Choice(item, chosen, float(taken[-1][2])))

    images = [item.record.image_id for item in items]
    scores = {}
    for prefix, triples in {"": taken, "chance_": drawn}.items():
        intersection, union, iou = np.array(triples).T
        scores |= estimate(iou, images, settings).scores(f"ris/{prefix}miou")
        scores |= estimate(intersection, images, settings, union).scores(f"ris/{prefix}oiou")
    scores |= estimate(ceiling, images, settings).scores("ris/best_miou")
    scores["ris/tied"] = tied
    scores["ris/not_finite"] = int((~np.isfinite(nll)).sum())
    return scores, choices


def _overlaps(masks, truth):
    pairs = [((mask & truth).sum(), (mask | truth).sum()) for mask in masks]
    pairs = np.array(pairs, np.float64).reshape(-1, 2)
    return np.column_stack([pairs, pairs[:, 0] / pairs[:, 1]])


def _lowest(scores):
    """Indices of the lowest finite scores; empty if none is finite."""
    finite = np.where(np.isfinite(scores), scores, np.inf)
    lowest = finite.min(initial=np.inf)
    return np.flatnonzero(finite == lowest) if np.isfinite(lowest) else np.array([], int)
