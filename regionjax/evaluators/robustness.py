"""Robustness to careless scribbles: how scores fall as points get worse.

Every region is shown as points alone, those of its trace, or points in its mask or box in the order
in which a line across the image meets them, and these are made worse:

outside   a share of the points lies anywhere outside the region instead
jitter    every point moves by a normal distribution, whose standard deviation is this many times
          the square root of the region's area (share of the image); it stays in the image
shuffled  a share of the points change places in the order
points    there are only so many of them

One generator belongs to each region, so that with a larger share the same points are worse and some
more. Scores: robustness/KIND/VALUE/BENCHMARK/SCORE, such as robustness/outside/0.2/ris/miou.
"""

import dataclasses
import functools

import numpy as np

from regionjax.evaluators.captioning import captioning
from regionjax.evaluators.looking import of_set
from regionjax.evaluators.proposals import generator
from regionjax.evaluators.referring import referring
from regionjax.regions import Region

KINDS = ("outside", "jitter", "shuffled", "points")
# What is followed of the scores of a benchmark.
SCORES = ("exact_match", "cider", "bleu_4", "rouge_l", "miou", "oiou", "pr50")
_GRID = 64  # cells a side in which "outside" is looked for


def robustness(texts, expressions, predictor, settings):
    """Scores of all benchmarks for all settings.robustness.

    Args:
      texts: {benchmark: list of Described}, such as narrations.
      expressions: {how its scores are called, see looking.of_set: list of Referred}.

    Returns:
      {key: number} with _low and _high, see the top of the file; nothing if nothing is asked for.
    """
    scores = {}
    for kind in KINDS:
        for value in getattr(settings.robustness, kind):
            prefix = f"robustness/{kind}/{value:g}"
            worse = functools.partial(scribbled, kind=kind, value=value, settings=settings)
            for name, items in texts.items():
                shown = [_worse(item, number, worse, settings) for number, item in enumerate(items)]
                if shown:
                    found, _ = captioning(name, shown, predictor, settings)
                    scores |= _followed(prefix, found)
            show = functools.partial(_proposal, worse=worse)
            for suffix, items in expressions.items():
                found, _ = referring(items, predictor, settings, show)
                scores |= _followed(prefix, of_set(found, suffix))
    return scores


def scribbled(region, rng, *, kind, value, settings):
    """The region as points made worse, a Region of points.

    Args:
      region: Region.
      rng: np.random.Generator.
      kind, value: see the top of the file.
      settings: EvaluateConfig, of which robustness.count points are drawn where `kind` does not
        say how many.
    """
    count = value if kind == "points" else settings.robustness.count
    points = region.sample_points(count, rng)
    if region.kind != "points":
        angle = rng.uniform(0, 2 * np.pi)
        points = points[np.argsort(points @ (np.cos(angle), np.sin(angle)))]
    chosen = rng.permutation(count)[: round(value * count) if kind != "points" else 0]
    if kind == "outside":
        points[chosen] = _outside(region, count, rng)[chosen]
    elif kind == "jitter":
        spread = value * np.sqrt(region.area())
        points = np.clip(points + spread * rng.standard_normal((count, 2)), 0, 1)
    elif kind == "shuffled":
        points[np.sort(chosen)] = points[chosen]
    return Region.from_points(points)


def _outside(region, count, rng):
    """f32 [count, 2] where the region is not; anywhere if it covers the image."""
    covered = region.rasterize(_GRID) > 0
    free = np.flatnonzero(~covered)
    if not free.size:
        free = np.arange(covered.size)
    rows, columns = np.divmod(rng.choice(free, count), _GRID)
    points = np.stack([columns, rows], axis=1) + rng.random((count, 2))
    return (points / _GRID).astype(np.float32)


def _worse(item, number, worse, settings):
    """A Described whose region is drawn worse, alike for every kind and value."""

    def region():
        rng = generator(settings.seed, item.record.image_id, number, 0)
        return worse(item.region(), rng)

    return dataclasses.replace(item, region=region)


def _proposal(region, make_rng, coverage, corners, *, worse):
    """As referring.mask_with_points, but the points are all that is shown."""
    del coverage, corners
    return worse(region, make_rng())


def _followed(prefix, scores):
    """Of a benchmark's scores those that are followed, with their intervals, under a prefix."""
    ends = ("", "_low", "_high")
    names = {name + end for name in SCORES for end in ends}
    return {f"{prefix}/{key}": v for key, v in scores.items() if key.split("/")[-1] in names}


def curves(scores):
    """{(kind, BENCHMARK/SCORE): (values, scores)} of all scores of `robustness`, in order."""
    found = {}
    for key, score in scores.items():
        if not key.startswith("robustness/") or key.endswith(("_low", "_high")):
            continue
        _, kind, value, name = key.split("/", 3)
        values, line = found.setdefault((kind, name), ([], []))
        values.append(float(value))
        line.append(score)
    return found
