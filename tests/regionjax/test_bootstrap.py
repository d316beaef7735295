"""Intervals against the normal approximation, which is exact enough for many images."""

import dataclasses

import numpy as np
import pytest

from regionjax.evaluators import bootstrap
from regionjax.evaluators.bootstrap import estimate
from regionjax.evaluators.settings import EvaluateConfig

SETTINGS = EvaluateConfig(bootstrap_samples=4000)


def test_a_mean_of_independent_items():
    hits = np.arange(400) % 4 > 0
    found = estimate(hits, np.arange(400), SETTINGS)
    deviation = (0.75 * 0.25 / 400) ** 0.5
    assert found.value == 0.75 and (found.items, found.images) == (400, 400)
    assert found.low == pytest.approx(0.75 - 1.96 * deviation, abs=0.006)
    assert found.high == pytest.approx(0.75 + 1.96 * deviation, abs=0.006)


def test_items_of_an_image_count_as_one():
    """100 images with 4 equal answers each know no more than 100 answers do."""
    answers = np.arange(100) % 2
    alone = estimate(answers, np.arange(100), SETTINGS)
    fourfold = estimate(np.repeat(answers, 4), np.repeat(np.arange(100), 4), SETTINGS)
    assert (fourfold.low, fourfold.high) == (alone.low, alone.high)


def test_a_ratio_of_sums():
    found = estimate([1, 0, 3], ["a", "a", "b"], SETTINGS, denominators=[2, 4, 4])
    assert found.value == 0.4
    # one draw of two images gives a, both or b: (1+0)/(2+4), 4/10, 3/4
    assert (found.low, found.high) == (pytest.approx(1 / 6), pytest.approx(3 / 4))


def test_nothing_over_nothing_is_0():
    assert estimate([0], ["a"], SETTINGS, denominators=[0]).value == 0


def test_one_image_has_no_width():
    found = estimate([0, 1], ["a", "a"], SETTINGS)
    assert found.low == found.value == found.high == 0.5


def test_seeded_and_independent_of_blocks(monkeypatch):
    values, images = np.random.default_rng(0).random(50), np.arange(50) // 2
    whole = estimate(values, images, SETTINGS)
    monkeypatch.setattr(bootstrap, "BLOCK", 70)
    found = estimate(values, images, SETTINGS)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(whole), rel=1e-12)
    assert estimate(values, images, EvaluateConfig(bootstrap_samples=4000, seed=1)) != whole


def test_scores():
    found = bootstrap.Estimate(0.5, 0.4, 0.6, items=3, images=2)
    assert found.scores("x/y") == {"x/y": 0.5, "x/y_low": 0.4, "x/y_high": 0.6}


@pytest.mark.parametrize(
    "values, images, message",
    [
        ([], [], "0 values"),
        ([1, 2], ["a"], "2 values and 1 image ids"),
        ([1, float("nan")], ["a", "b"], "item 1 is not finite"),
    ],
)
def test_errors(values, images, message):
    with pytest.raises(ValueError, match=message):
        estimate(values, images, SETTINGS)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="batch_size = 0"):
        EvaluateConfig(batch_size=0)
