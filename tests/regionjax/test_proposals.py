"""Rules by which proposals are left out, on masks small enough to count pixels; their points."""

import dataclasses

import numpy as np
import pytest

from regionjax.evaluators.proposals import (
    Kept,
    Sampled,
    centre,
    fills_side,
    fills_side_parity,
    generator,
    kept,
)
from regionjax.evaluators.settings import ProposalConfig
from regionjax.regions import Region

H, W = 10, 20  # 200 pixels
SENSIBLE, PARITY = ProposalConfig("sensible"), ProposalConfig("parity")


def block(top, bottom, left, right):
    mask = np.zeros((H, W), bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "fills", "parity"),
    [
        (block(2, 8, 2, 18), False, False),  # at no side
        # 14 of the 20 pixels of the upper side: 0.7 is not more than 0.7. Parity: 14 > 0.7 * 10.
        (block(0, 1, 0, 14), False, True),
        (block(0, 1, 0, 15), True, True),
        (block(9, 10, 0, 15), True, True),
        # Two rows of 4: 8 > 7, although a fifth of the side is filled.
        (block(0, 2, 0, 4), False, True),
        (block(8, 10, 0, 4), False, True),
        (block(1, 2, 2, 10), False, True),  # 8 in the second row alone
        (block(2, 3, 2, 10), False, False),
        # The left side wholly filled: two columns of 10 are 20 > 0.7 * 20, but one is 10.
        (block(0, 10, 0, 2), True, True),
        (block(3, 10, 0, 2), False, False),  # 7 of 10; 14 is not more than 14
        (block(2, 10, 0, 2), True, True),
        (block(2, 10, 0, 1), True, False),  # 8 of 10; 8 < 14
        (block(2, 10, 19, 20), True, False),
        (block(2, 10, 18, 20), True, True),
    ],
)
def test_masks_along_a_side(mask, fills, parity):
    assert fills_side(mask, 0.7) == fills
    assert fills_side_parity(mask, 0.7) == parity


SPECK = block(4, 5, 4, 5)  # 1 / 200 of the image
SMALL = block(4, 5, 4, 7)  # 3 / 200: between 0.01 and 0.04
LEAST = block(4, 6, 4, 8)  # 8 / 200 = 0.04, exactly enough
MEDIUM = block(3, 7, 4, 10)  # 24 / 200
TOP = block(0, 3, 0, 20)  # fills the upper side
WHOLE = block(0, 10, 0, 20)


@pytest.mark.parametrize(
    ("masks", "sensible", "parity"),
    [
        ([LEAST, SPECK, WHOLE, MEDIUM, TOP, SMALL], Kept((3, 0)), Kept((0, 3))),
        # Nothing passes: what is at least 0.01, at any side.
        ([SPECK, SMALL, TOP, WHOLE], Kept((3, 2, 1), True), Kept((1, 2, 3), True)),
        ([SPECK, SPECK], Kept(()), Kept(())),
        ([], Kept(()), Kept(())),
        ([MEDIUM, LEAST, MEDIUM], Kept((0, 2, 1)), Kept((0, 1, 2))),
    ],
)
def test_rules(masks, sensible, parity):
    assert kept(masks, SENSIBLE) == sensible
    assert kept(masks, PARITY) == parity
    assert kept(masks, ProposalConfig()) == Kept(tuple(range(len(masks))))


def test_at_most_so_many():
    masks = [LEAST] * 15 + [MEDIUM] * 15
    assert kept(masks, SENSIBLE).indices == (*range(15, 30), *range(5))
    assert kept(masks, PARITY).indices == tuple(range(20))
    assert kept([SMALL] * 30, PARITY) == Kept(tuple(range(20)), True)
    few = dataclasses.replace(SENSIBLE, most=2, least_area=0.05, most_border=0.0)
    assert kept([*masks, TOP], few).indices == (15, 16)


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="rule = 'sensibel'; expected 'all' or 'sensible'"):
        ProposalConfig("sensibel")
    with pytest.raises(ValueError, match="least_area = 4"):
        ProposalConfig(least_area=4)
    with pytest.raises(ValueError, match="most = 0"):
        ProposalConfig(most=0)


def test_the_centre_lies_in_the_mask():
    assert centre(block(2, 5, 6, 9)) == (3, 7)
    ring = block(0, 9, 0, 9) & ~block(1, 8, 1, 8)  # its centre of mass is the hole's middle, 4, 4
    assert centre(ring) == (0, 4)


def sampled(region, corners=False, key=(0, "a", 0, 0)):
    return Sampled(region, lambda: generator(*key), {}, corners)


def test_points_are_even_in_the_mask_and_always_the_same():
    region = Region.from_mask(MEDIUM)
    points = sampled(region).sample_points(4000, np.random.default_rng(5))
    np.testing.assert_array_equal(points, sampled(region).sample_points(4000, None))
    pixels = np.floor(points * (W, H)).astype(int)
    counts = np.zeros((H, W))
    np.add.at(counts, (pixels[:, 1], pixels[:, 0]), 1)
    assert (counts[~MEDIUM] == 0).all()
    np.testing.assert_allclose(counts[MEDIUM], 4000 / 24, rtol=0.35)


def test_points_of_parity_are_corners_of_different_pixels():
    points = sampled(Region.from_mask(LEAST), corners=True).sample_points(8, None)
    pixels = np.rint(points * (W, H)).astype(int)
    np.testing.assert_allclose(points, pixels / (W, H), atol=1e-7)
    assert sorted(map(tuple, pixels.tolist())) == [(x, y) for x in range(4, 8) for y in (4, 5)]
    assert [tuple(p) for p in pixels.tolist()] != sorted(map(tuple, pixels.tolist()))  # shuffled
    again = sampled(Region.from_mask(SMALL), corners=True).sample_points(10, None)
    assert len(again) == 10 and len(np.unique(again, axis=0)) == 3


def test_everything_but_the_points_is_that_of_the_region():
    region = Region.from_mask(MEDIUM)
    shown = sampled(region)
    np.testing.assert_array_equal(shown.rasterize(8), region.rasterize(8))
    np.testing.assert_array_equal(shown.bounding_box(), region.bounding_box())
    assert shown.mask is region.mask and shown.area() == region.area() and shown.kind == "mask"
