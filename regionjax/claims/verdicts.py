"""Scores over seeds, and what they say of a claim, by rules that are written down beforehand.

A run's score has an interval of its own, by the images that it was evaluated on (a bootstrap). The
seeds of a variant are evaluated on the same images, so that part of the doubt does not shrink with
their number; what differs from seed to seed does. The interval of their mean is the square root of
the sum of the squares of the two: the mean of the runs' own half widths, and Student's t for 95 %
times the standard error over seeds. One seed alone has the first part only; a score that has no
interval in a run, such as a count, the second only.
"""

import dataclasses
import math

import numpy as np
from scipy.special import stdtrit

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not shown", "not measured"
# {rule: what it asks}; {margin} is config.claims.margin.
RULES = {
    "higher": (
        "Higher: holds if the whole interval of the score lies above that of the other one; does "
        "not hold if it lies below; not shown if the two overlap."
    ),
    "not_lower": (
        "Not lower: holds if the score is lower by less than {margin:.0%} of the other one, the "
        "whole interval of their difference (root of the sum of squares of the two half widths) "
        "included; if not, it does not hold where the score's interval lies below the other one's, "
        "and is not shown where they overlap, or where the other score is 0."
    ),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A score over seeds: the mean, its 95 % interval, and the score of each seed.

    `counted`: it has no interval in a run; it is a number of things or of seconds, and no share.
    """

    value: float
    low: float
    high: float
    each: tuple[float, ...]
    counted: bool = False

    def plain(self):
        """As JSON."""
        return dataclasses.asdict(self) | {"each": list(self.each)}


def over_seeds(found):
    """The mean of one score over seeds; see the top of the file.

    Args:
      found: list of (value, low, high), one a seed.

    Returns:
      Measured.
    """
    values, lows, highs = np.array(found, np.float64).T
    count, mean = len(values), float(values.mean())
    spread = 0.0
    if count > 1:
        spread = float(stdtrit(count - 1, 0.975) * values.std(ddof=1) / math.sqrt(count))
    below = math.hypot(float((values - lows).mean()), spread)
    above = math.hypot(float((highs - values).mean()), spread)
    return Measured(mean, mean - below, mean + above, tuple(values.tolist()))


def verdict(score, than, rule, margin):
    """What two scores say of a claim.

    Args:
      score, than: Measured, or None where nothing was measured.
      rule: of RULES.
      margin: see RULES.

    Returns:
      HOLDS, FAILS, OPEN or MISSING.
    """
    if score is None or than is None:
        return MISSING
    if rule == "higher":
        return HOLDS if score.low > than.high else FAILS if score.high < than.low else OPEN
    difference = score.value - than.value
    least = difference - math.hypot(score.value - score.low, than.high - than.value)
    if than.value > 0 and least > -margin * than.value:
        return HOLDS
    return FAILS if score.high < than.low else OPEN


@dataclasses.dataclass(frozen=True)
class Judged:
    """A settings.Row with its place in the table, what was measured, and the verdict."""

    part: str
    number: str
    row: object
    score: Measured | None
    than: Measured | None
    verdict: str


def judged(claims, found):
    """Every row of the claims, judged; the two scores of a row are over the seeds that both have.

    Where only one of them has been measured at all, that one is shown.

    Args:
      claims: settings.ClaimsConfig.
      found: {variant: {seed: scores of report.json}} of the runs that are finished.

    Returns:
      list of Judged.
    """
    rows = []
    for letter, part in claims.parts.items():
        for number, row in part.rows.items():
            both = set.intersection(
                *(set(found.get(name.split(":")[0], ())) for name in (row.score, row.than))
            )
            score, than = (measured(name, found, both or None) for name in (row.score, row.than))
            decided = verdict(score, than, row.rule, claims.margin) if both else MISSING
            rows.append(Judged(letter, number, row, score, than, decided))
    return rows


def measured(name, found, seeds=None):
    """One score `VARIANT:KEY` over seeds; None where no run has it.

    Args:
      found: as in `judged`.
      seeds: these only; None: all that there are.
    """
    variant, key = name.split(":", 1)
    runs = [
        scores
        for seed, scores in sorted(found.get(variant, {}).items())
        if (seeds is None or seed in seeds) and scores.get(key) is not None
    ]
    if not runs:
        return None
    ends = ("", "_low", "_high")
    mean = over_seeds([[scores.get(key + end, scores[key]) for end in ends] for scores in runs])
    counted = not any(f"{key}_low" in scores for scores in runs)
    return dataclasses.replace(mean, counted=counted)
