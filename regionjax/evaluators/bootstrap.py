"""Confidence intervals: a bootstrap over images, since answers about one image are alike."""

import dataclasses

import numpy as np

BLOCK = 1 << 22  # resampled weights held at once


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval and what it was measured on."""

    value: float
    low: float
    high: float
    items: int
    images: int

    def scores(self, name):
        """{name, name_low, name_high}: the form of the report."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def estimate(numerators, images, settings, denominators=None):
    """Sum of numerators over sum of denominators, with an interval that resamples images.

    A plain mean has denominators of 1; overall IoU divides summed intersections by summed unions.
    Items of one image are drawn together. 0 / 0 counts as 0, as an IoU of nothing does.

    Args:
      numerators: [N] numbers or booleans, one an item.
      images: [N] image ids (any hashable that sorts), one an item.
      settings: with `bootstrap_samples` and `seed`.
      denominators: [N] non-negative numbers; None for ones.

    Returns:
      Estimate with the percentile interval from 2.5 to 97.5 %.

    Raises:
      ValueError: no items, lengths that differ, or a number that is not finite.
    """
    numerators = np.asarray(numerators, np.float64)
    if denominators is None:
        denominators = np.ones_like(numerators)
    values = np.stack([numerators, np.asarray(denominators, np.float64)], axis=1)  # [N, 2]
    (found,) = estimate_statistic(values, images, settings, _ratio)
    return found


def estimate_statistic(values, images, settings, statistic):
    """Any scores that are functions of sums over items, with intervals that resample images.

    Args:
      values: [N, K] what each item adds to the sums.
      images, settings: as in `estimate`.
      statistic: f64 [samples, K] sums → f64 [samples, S] scores.

    Returns:
      list of S Estimates with percentile intervals from 2.5 to 97.5 %.

    Raises:
      ValueError: as `estimate`.
    """
    values = np.asarray(values, np.float64)
    if not len(values) or len(values) != len(images):
        raise ValueError(f"{len(values)} values and {len(images)} image ids, expected as many")
    if not np.isfinite(values).all():
        raise ValueError(f"item {int(np.argmin(np.isfinite(values).all(1)))} is not finite")

    ids, owner = np.unique(np.asarray(images), return_inverse=True)
    sums = np.zeros((len(ids), values.shape[1]))
    np.add.at(sums, owner, values)

    rng = np.random.default_rng(settings.seed)
    chances = np.full(len(ids), 1 / len(ids))
    resampled = np.empty((settings.bootstrap_samples, values.shape[1]))
    rows = max(1, BLOCK // len(ids))
    for start in range(0, len(resampled), rows):
        block = resampled[start : start + rows]
        block[:] = rng.multinomial(len(ids), chances, size=len(block)) @ sums
    ends = np.percentile(statistic(resampled), (2.5, 97.5), axis=0)  # [2, S]
    found = statistic(sums.sum(axis=0, keepdims=True))[0]
    return [
        Estimate(float(value), float(low), float(high), len(values), len(ids))
        for value, low, high in zip(found, *ends, strict=True)
    ]


def _ratio(sums):
    """[N, 2] to [N, 1]: first over second, 0 where the second is 0."""
    top, bottom = sums[:, :1], sums[:, 1:]
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
