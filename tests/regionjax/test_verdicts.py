"""Means over seeds with their intervals, and verdicts, against numbers worked out by hand."""

import math

import pytest

from regionjax.claims.settings import ClaimsConfig, Part, Row, Variant
from regionjax.claims.verdicts import Measured, judged, measured, over_seeds, verdict


def about(value, half):
    return Measured(value, value - half, value + half, (value,))


def test_one_seed_keeps_its_interval():
    found = over_seeds([(0.5, 0.4, 0.7)])
    assert (found.value, found.each) == (0.5, (0.5,))
    assert (found.low, found.high) == pytest.approx((0.4, 0.7))


def test_three_seeds():
    found = over_seeds([(0.5, 0.46, 0.55), (0.6, 0.55, 0.65), (0.7, 0.64, 0.75)])
    seeds = 4.302653 * 0.1 / math.sqrt(3)  # t of two degrees of freedom, standard deviation 0.1
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - math.sqrt(0.05**2 + seeds**2), abs=1e-6)
    assert found.high == pytest.approx(0.6 + math.sqrt(0.05**2 + seeds**2), abs=1e-6)


def test_equal_seeds_do_not_shrink_the_doubt_about_images():
    assert over_seeds([(0.5, 0.4, 0.6)] * 5).low == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("score", "than", "rule", "expected"),
    [
        (about(0.6, 0.04), about(0.5, 0.05), "higher", "holds"),
        (about(0.6, 0.06), about(0.5, 0.05), "higher", "not shown"),
        (about(0.5, 0.05), about(0.6, 0.06), "higher", "not shown"),
        (about(0.5, 0.04), about(0.6, 0.05), "higher", "does not hold"),
        # the difference of 0.5 and 0.5 is 0 with a half width of 0.05
        (about(0.5, 0.03), about(0.5, 0.04), "not_lower", "not shown"),  # -0.05 is 10 % of 0.5
        (about(0.5, 0.03), about(0.5, 0.039), "not_lower", "holds"),
        (about(0.48, 0.003), about(0.5, 0.004), "not_lower", "holds"),  # lower, but by little
        (about(0.3, 0.05), about(0.5, 0.05), "not_lower", "does not hold"),
        (about(0.9, 0.05), about(0.5, 0.05), "not_lower", "holds"),
        (about(0.0, 0.0), about(0.0, 0.0), "not_lower", "not shown"),  # nothing to lose
        (None, about(0.5, 0.1), "higher", "not measured"),
        (about(0.5, 0.1), None, "not_lower", "not measured"),
    ],
)
def test_verdicts(score, than, rule, expected):
    assert verdict(score, than, rule, 0.1) == expected


def scores(value):
    return {"k/s": value, "k/s_low": value - 0.01, "k/s_high": value + 0.01, "k/none": None}


def test_rows_are_judged_over_the_seeds_that_both_have():
    rows = {
        "1": Row("more", "a:k/s", "b:k/s"),
        "2": Row("no such items", "a:k/none", "b:k/s"),
        "3": Row("no such run", "a:k/s", "c:k/s"),
    }
    claims = ClaimsConfig({name: Variant("") for name in "abc"}, {"x": Part("", rows)})
    other_seeds = judged(claims, {"a": {0: scores(0.9)}, "b": {1: scores(0.5)}})
    assert other_seeds[0].verdict == "not measured"
    found = {"a": {0: scores(0.9), 1: scores(0.1)}, "b": {0: scores(0.5)}}
    first, none, absent = judged(claims, found)
    assert (first.part, first.number, first.verdict) == ("x", "1", "holds")
    assert first.score.each == (0.9,) and first.than.each == (0.5,)
    assert none.verdict == absent.verdict == "not measured"
    assert absent.score.each == (0.9, 0.1) and absent.than is None


def test_a_score_without_interval_has_that_of_its_seeds():
    found = {"a": {0: {"k/tied": 4}, 1: {"k/tied": 6}}, "b": {0: {"k/tied": 4, **scores(0.5)}}}
    one, two = measured("b:k/tied", found), measured("a:k/tied", found)
    assert (one.value, one.low, one.high, one.each) == (4, 4, 4, (4,))
    seeds = 12.706205 * math.sqrt(2) / math.sqrt(2)  # t of one degree, standard deviation, two
    assert (two.value, two.low, two.high) == pytest.approx((5, 5 - seeds, 5 + seeds))
    assert one.counted and two.counted and not measured("b:k/s", found).counted
