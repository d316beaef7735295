"""Boxes and masks in pixels, against counting by hand."""

import collections

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.sources.pixel_regions import box_region, boxes_region, mask_region

WIDTH, HEIGHT = 40, 20


def tried(make, value):
    """(region or None, what was counted)."""
    tally = collections.Counter()
    return make(value, WIDTH, HEIGHT, "here", tally), +tally


def test_boxes_are_cut_to_the_image():
    region, tally = tried(box_region, [10, 5, 20, 15])
    np.testing.assert_allclose(region.box, [0.25, 0.25, 0.5, 0.75])
    assert not tally
    region, tally = tried(box_region, [-4, 10, 50, 12.5])
    np.testing.assert_allclose(region.box, [0, 0.5, 1, 0.625])
    assert tally == {"boxes_clipped": 1}
    np.testing.assert_allclose(tried(box_region, [0, 0, 1, 1])[0].box, [0, 0, 0.025, 0.05])


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 5, 9, 5], [40, 0, 50, 9], [-9, -9, 0, 5]])
def test_boxes_without_area_are_counted(box):
    assert tried(box_region, box) == (None, {"boxes_without_area": 1})
    assert tried(boxes_region, [box]) == (None, {"boxes_without_area": 1})
    region, _ = tried(boxes_region, [box, [10, 5, 20, 15]])
    np.testing.assert_allclose(region.box, [0.25, 0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([20, 5, 10, 15], "here: box .* is out of order.*not x, y, width, height"),
        ([1, 2, 3], "here: box .* is not x0, y0, x1, y1"),
        ([1, 2, 3, None], "is not x0, y0, x1, y1"),
        ([1, 2, 3, float("nan")], "is not x0, y0, x1, y1"),
        (["a", 2, 3, 4], "is not x0, y0, x1, y1"),
        ({"x": 1}, "is not x0, y0, x1, y1"),
        ([0.1, 0.2, 0.5, 0.75], "a box is in pixels, not 0…1"),
    ],
)
def test_boxes_that_cannot_be(box, message):
    with pytest.raises(DataError, match=message):
        tried(box_region, box)
    with pytest.raises(DataError, match="here, box 1"):
        tried(boxes_region, [[0, 0, 5, 5], box])


def test_several_boxes_are_one_mask():
    region, tally = tried(boxes_region, [[2, 3, 5, 6], [4, 5, 8, 7], [30.5, 0, 60, 0.5]])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[3:6, 2:5] = expected[5:7, 4:8] = expected[0, 30:40] = True
    np.testing.assert_array_equal(region.mask, expected)
    assert tally == {"boxes_clipped": 1}


def test_masks():
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:6, 3:5] = True
    counts = [3 * HEIGHT + 2, 4, HEIGHT - 4, 4]
    rest = HEIGHT * WIDTH - sum(counts)
    for mask in (
        [[3, 2, 5, 2, 5, 6, 3, 6]],
        [[3, 2, 5, 2, 5, 4, 3, 4], [3, 4, 5, 4, 5, 6, 3, 6]],
        {"size": [HEIGHT, WIDTH], "counts": [*counts, rest]},
        expected,
    ):
        region, tally = tried(mask_region, mask)
        np.testing.assert_array_equal(region.mask, expected)
        assert not tally
    for nothing in ([[3.1, 2, 3.2, 2, 3.2, 6]], {"size": [HEIGHT, WIDTH], "counts": [800]}):
        assert tried(mask_region, nothing) == (None, {"masks_without_pixel": 1})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[3, 2, 5, 2]], "here: polygon 0 has 4 numbers; expected x, y pairs of >= 3 corners"),
        ([3, 2, 5, 2, 5, 6], "here: polygons are a list of lists"),
        ([], "polygons are a list of lists"),
        ([["a", 1, 2, 3, 4, 5]], "here: "),
        ({"size": [WIDTH, HEIGHT], "counts": [800]}, r"here: RLE of size \[40, 20\] on an image"),
        ({"size": [HEIGHT, WIDTH], "counts": [799]}, "here: run lengths do not fill"),
        ({"size": [HEIGHT, WIDTH]}, "`size` and `counts`, no 'counts'"),
        ({"size": 3, "counts": []}, "here: "),
        (None, "here: "),
        (3, "here: "),
    ],
)
def test_masks_that_cannot_be(mask, message):
    with pytest.raises(DataError, match=message):
        tried(mask_region, mask)
