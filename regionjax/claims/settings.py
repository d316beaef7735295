"""What `config.claims` says: runs that differ in a few settings, and claims about them.

A score is named `VARIANT:KEY`, such as `base:ris/miou`: the key of report.json, over the variant's
seeds.
"""

import dataclasses

from regionjax.claims.verdicts import RULES
from regionjax.config import ConfigError, build, nearest


@dataclasses.dataclass(frozen=True)
class Variant:
    """One recipe, trained once a seed.

    Attributes:
      says: what it is, for the table of runs.
      changes: of the config, as nested sections: {"data": {"show_regions": "hidden"}}.
    """

    says: str
    changes: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """A claim: a score compared with another one, by one of verdicts.RULES."""

    says: str
    score: str
    than: str
    rule: str = "higher"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Scores against a number.

    Attributes:
      x: what the number is.
      lines: {name: ((x, score), …)}.
    """

    x: str
    lines: dict


@dataclasses.dataclass(frozen=True)
class Part:
    """Claims that belong together.

    Attributes:
      title: of the section.
      rows: {number: Row}.
      curves: {title: Curve}.
    """

    title: str
    rows: dict
    curves: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ClaimsConfig:
    """Everything in `config.claims`, see `read`.

    Attributes:
      variants: {name: Variant}.
      parts: {letter: Part}.
      seeds: each variant is trained once with each.
      margin: of the rule "not_lower", a share of the score that is compared with.
      only: names of the variants to be run; empty: all. The table is of all that are finished.
    """

    variants: dict
    parts: dict
    seeds: tuple[int, ...] = (0, 1, 2)
    margin: float = 0.1
    only: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: at least one, each once")
        if self.margin < 0:
            raise ValueError(f"margin = {self.margin} must be at least 0")
        for name in self.only:
            if name not in self.variants:
                raise ValueError(f"only: {name!r} is no variant{nearest(name, self.variants)}")


def read(section):
    """ClaimsConfig of `config.claims`.

    Raises:
      ConfigError: an unknown key, rule or variant, or a value that cannot be; names its place.
    """
    where = "config.claims"
    claims = build(ClaimsConfig, section, where)
    variants = {
        name: build(Variant, value, f"{where}.variants.{name}")
        for name, value in claims.variants.items()
    }
    parts = {}
    for letter, value in claims.parts.items():
        place = f"{where}.parts.{letter}"
        part = build(Part, value, place)
        rows = {
            number: build(Row, part.rows[number], f"{place}.rows.{number}")
            for number in sorted(part.rows, key=lambda number: (len(number), number))  # 2 before 10
        }
        curves = {
            title: build(Curve, curve, f"{place}.curves.{title}")
            for title, curve in part.curves.items()
        }
        parts[letter] = dataclasses.replace(part, rows=rows, curves=curves)
    claims = dataclasses.replace(claims, variants=variants, parts=parts)
    _check(claims, where)
    return claims


def _check(claims, where):
    """Raises ConfigError for a rule or a score that is not there."""
    for letter, part in claims.parts.items():
        for number, row in part.rows.items():
            place = f"{where}.parts.{letter}.rows.{number}"
            if row.rule not in RULES:
                raise ConfigError(f"{place}.rule = {row.rule!r}{nearest(row.rule, RULES)}")
    for place, score in _named(claims, where):
        _check_score(score, claims, place)


def _named(claims, where):
    """Yields (place in the config, VARIANT:KEY) of all scores of rows and curves."""
    for letter, part in claims.parts.items():
        for number, row in part.rows.items():
            for name in ("score", "than"):
                yield f"{where}.parts.{letter}.rows.{number}.{name}", getattr(row, name)
        for title, curve in part.curves.items():
            for line, points in curve.lines.items():
                for _, score in points:
                    yield f"{where}.parts.{letter}.curves.{title}.lines.{line}", score


def _check_score(score, claims, place):
    variant, colon, key = score.partition(":")
    if not (colon and key):
        raise ConfigError(f"{place} = {score!r}; a score is VARIANT:KEY, such as base:ris/miou")
    if variant not in claims.variants:
        hint = nearest(variant, claims.variants)
        raise ConfigError(f"{place} = {score!r}: {variant!r} is no variant{hint}")


def check_keys(claims, found):
    """Every score that is named is one that its variant has, as far as runs are finished.

    Args:
      claims: ClaimsConfig.
      found: {variant: {seed: scores of report.json}}. A score that is None is there: the data has
        no such items.

    Raises:
      ConfigError: lists all keys that no run of their variant has, with the nearest right ones.
    """
    missing = []
    for place, score in _named(claims, "config.claims"):
        variant, key = score.split(":", 1)
        runs = list(found.get(variant, {}).values())
        if runs and not any(key in scores for scores in runs):
            known = [name for name in runs[0] if not name.endswith(("_low", "_high"))]
            missing.append(f"{place} = {score!r}{nearest(key, known)}")
    if missing:
        raise ConfigError(
            "runs are finished, and do not have these scores:\n  "
            + "\n  ".join(missing)
            + "\nThe same command goes on from here when that is mended; what is finished stays so."
        )
