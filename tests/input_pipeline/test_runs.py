"""Mask regions as run lengths, against the same masks as pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from input_pipeline.runs import EmptyMask, RunGroup, RunRegion
from regionjax.masks import encode_rle, mask_bounds, polygon_mask
from regionjax.regions import Region, RegionError

sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))
masks = sizes.flatmap(lambda size: arrays(bool, size)).filter(lambda mask: mask.any())


@given(masks, st.integers(1, 12))
def test_answers_as_the_region_of_the_mask(mask, size):
    run, pixel = RunRegion.from_mask(mask), Region.from_mask(mask)
    np.testing.assert_array_equal(run.mask, mask)
    np.testing.assert_array_equal(run.bounding_box(), pixel.bounding_box())
    np.testing.assert_allclose(run.rasterize(size), pixel.rasterize(size), atol=1e-5)
    assert run.rasterize(size).max() > 0
    assert run.area() == pytest.approx(pixel.area())


@given(sizes.flatmap(lambda size: st.lists(arrays(bool, size), min_size=1, max_size=4)))
def test_masks_side_by_side_do_not_mix(group):
    group = [mask for mask in group if mask.any()]
    if not group:
        return
    runs = RunGroup([RunRegion.from_mask(mask) for mask in group])
    for one, mask in zip(runs.rasterize(7), group, strict=True):
        np.testing.assert_allclose(one, Region.from_mask(mask).rasterize(7), atol=1e-5)
    for points, mask in zip(runs.sample_points(9, np.random.default_rng(0)), group, strict=True):
        column, row = np.floor(points * mask.shape[::-1]).astype(int).T
        assert mask[row.clip(max=mask.shape[0] - 1), column.clip(max=mask.shape[1] - 1)].all()


def _shapes():
    """A mask for each way that pixels lie: scattered, tall, wide, and with a hole."""
    scattered = np.zeros((6, 8), bool)
    scattered[1:3, 2:4] = scattered[5, 7] = True
    holed = np.zeros((7, 7), bool)
    holed[1:6, 1:6] = True
    holed[3, 2:5] = False
    return [scattered, np.ones((9, 1), bool), np.ones((1, 9), bool), holed]


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("mask", _shapes())
@pytest.mark.parametrize("make", [RunRegion.from_mask, Region.from_mask])
def test_points_are_uniform_over_the_pixels(make, mask, count):
    rng, region, sets = np.random.default_rng(0), make(mask), 6000
    points = np.concatenate([region.sample_points(count, rng) for _ in range(sets // count)])
    column, row = np.floor(points * mask.shape[::-1]).astype(int).T
    counts = np.zeros(mask.shape)
    np.add.at(counts, (row, column), 1)
    assert (counts[~mask] == 0).all()
    share = 1 / mask.sum()
    np.testing.assert_allclose(counts[mask] / len(points), share, atol=4 * (share / sets) ** 0.5)


@pytest.mark.parametrize("make", [RunRegion.from_mask, Region.from_mask])
def test_few_points_tell_the_middle_of_a_disc(make):
    y, x = np.mgrid[:60, :60] + 0.5
    rng, region = np.random.default_rng(0), make((x - 30) ** 2 + (y - 30) ** 2 < 20**2)
    middles = np.array([region.sample_points(5, rng).mean(0) for _ in range(500)])
    alone = 20 / 60 / 2 / 5**0.5  # deviation of a coordinate in a disc of radius r: r/2
    np.testing.assert_allclose(middles.mean(0), 0.5, atol=0.01)
    assert (middles.std(0) < 0.4 * alone).all()


def test_a_long_stripe_over_many_columns():
    mask = np.zeros((4, 9), bool)
    mask[:, 2:8] = True  # one run through six columns
    mask[3, 1] = True  # and a pixel that joins it
    run = RunRegion.from_mask(mask)
    assert len(run.counts) == 4 and run.bounds == (1, 0, 8, 4)
    np.testing.assert_allclose(run.rasterize(9), Region.from_mask(mask).rasterize(9), atol=1e-6)


@pytest.mark.parametrize("compressed", [True, False])
def test_from_rle(compressed):
    mask = np.random.default_rng(0).random((17, 23)) > 0.7
    run = RunRegion.from_rle(encode_rle(mask, compressed=compressed), 17, 23)
    np.testing.assert_array_equal(run.mask, mask)


@given(st.lists(st.lists(st.integers(-3, 14), min_size=6, max_size=6), min_size=1, max_size=3))
def test_from_polygons(polygons):
    mask = polygon_mask(polygons, 11, 9)
    if not mask.any():
        with pytest.raises(EmptyMask):
            RunRegion.from_polygons(polygons, 11, 9)
        return
    runs, expected = RunRegion.from_polygons(polygons, 11, 9), RunRegion.from_mask(mask)
    assert runs.bounds == expected.bounds == mask_bounds(mask)
    np.testing.assert_array_equal(runs.counts, expected.counts)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [3, 4], "counts": [12]}, "size"),
        ({"size": [4, 4], "counts": [3, 4]}, "do not fill"),
        ({"size": [4, 4], "counts": [20, -4]}, "do not fill"),
        ({"size": [4, 4], "counts": "\x01"}, "character"),
    ],
)
def test_malformed_runs_are_errors(rle, message):
    with pytest.raises(RegionError, match=message):
        RunRegion.from_rle(rle, 4, 4)


def test_an_empty_mask_is_no_region():
    with pytest.raises(EmptyMask, match="no pixel"):
        RunRegion.from_mask(np.zeros((4, 4), bool))
