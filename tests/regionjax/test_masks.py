"""Masks against brute force and hand-made COCO strings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regionjax import masks

bitmaps = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda s: arrays(bool, s))


@given(bitmaps, st.booleans())
def test_rle_round_trip(mask, compressed):
    np.testing.assert_array_equal(masks.decode_rle(masks.encode_rle(mask, compressed)), mask)


@given(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(bool, shape)))  # fmt: skip
def test_many_rles_are_those_of_each(stack):
    assert masks.encode_rles(stack) == [masks.encode_rle(mask) for mask in stack]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_compressed_counts_round_trip(counts):
    assert masks.decompress_counts(masks.compress_counts(counts)) == counts


def test_rle_by_hand():
    # columns: 0 1 1 | 0 1 0; read down each column, the runs are 1, 2, 1, 1, 1
    mask = np.array([[0, 0], [1, 1], [1, 0]], bool)
    assert masks.encode_rle(mask, compressed=False) == {"size": [3, 2], "counts": [1, 2, 1, 1, 1]}
    # the fourth and fifth are written as 1-2 = -1 and 1-1 = 0; -1 is the single group 0b11111
    assert masks.encode_rle(mask) == {"size": [3, 2], "counts": "121O0"}
    # 16 needs its sign bit clear, so a second group: 0b10000 with "more", then 0
    assert masks.compress_counts([16]) == "`0"
    # 1000 = 0b11111_01000: groups 8 + more, 31 + more, 0
    assert masks.compress_counts([1000]) == "Xo0"
    assert masks.decompress_counts(b"Xo0") == [1000]


def test_rle_starts_with_zeros():
    assert masks.encode_rle(np.ones((2, 2), bool), compressed=False)["counts"] == [0, 4]


def test_broken_rle():
    with pytest.raises(ValueError, match="add up to 5.*2x2 has 4"):
        masks.decode_rle({"size": [2, 2], "counts": [5]})
    with pytest.raises(ValueError, match="middle of a number"):
        masks.decompress_counts("`")
    with pytest.raises(ValueError, match="character 1 .* '!'"):
        masks.decompress_counts("1!")
    with pytest.raises(ValueError, match=r"size \[2, 2\] on an image of \[2, 3\]"):
        masks.segmentation_mask({"size": [2, 2], "counts": [4]}, 2, 3)


def inside(x, y, corners):
    """Winding by angles: independent of the scanline."""
    angle = 0.0
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        turn = np.arctan2(by - y, bx - x) - np.arctan2(ay - y, ax - x)
        angle += (turn + np.pi) % (2 * np.pi) - np.pi
    return abs(angle) > np.pi


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12)), min_size=3, max_size=3))
def test_polygon_pixels_are_those_whose_centre_is_inside(corners):
    corners = [(x + 0.013, y - 0.027) for x, y in corners]  # keeps centres off the edges
    mask = masks.polygon_mask([np.array(corners).ravel().tolist()], 9, 10)
    expected = [[inside(x + 0.5, y + 0.5, corners) for x in range(10)] for y in range(9)]
    np.testing.assert_array_equal(mask, expected)


corner_lists = st.lists(st.tuples(st.integers(-4, 12), st.integers(-4, 12)), min_size=3, max_size=7)


def crossings(x, y, corners):
    """How many edges a ray from (x, y) to the right meets."""
    edges = zip(corners, corners[1:] + corners[:1], strict=True)
    return sum(
        (ay <= y) != (by <= y) and x < ax + (y - ay) * (bx - ax) / (by - ay)
        for (ax, ay), (bx, by) in edges
    )


@settings(max_examples=60)
@given(st.lists(corner_lists, min_size=0, max_size=3))
def test_any_polygons_unite_pixel_by_pixel(polygons):
    """Also those that cross themselves, lie outside, or have no area."""
    polygons = [[(x + 0.013, y - 0.0271) for x, y in corners] for corners in polygons]
    flat = [np.array(corners).ravel().tolist() for corners in polygons]
    expected = [
        [any(crossings(x + 0.5, y + 0.5, c) % 2 for c in polygons) for x in range(10)]
        for y in range(9)
    ]
    counts = masks.polygon_runs(flat, 9, 10)
    assert (counts[1:] > 0).all() and counts.sum() == 90
    np.testing.assert_array_equal(masks.polygon_mask(flat, 9, 10), expected)


def test_a_centre_on_an_edge_belongs_to_one_of_two_neighbours():
    left, right = [0.5, 0.5, 2.5, 0.5, 2.5, 3.5, 0.5, 3.5], [2.5, 0.5, 4.5, 0.5, 4.5, 3.5, 2.5, 3.5]
    both = [masks.polygon_mask([one], 5, 6) for one in (left, right)]
    assert not (both[0] & both[1]).any()
    np.testing.assert_array_equal(
        both[0] | both[1], np.pad(np.ones((3, 4), bool), ((0, 2), (0, 2)))
    )
    np.testing.assert_array_equal(masks.polygon_mask([left, right], 5, 6), both[0] | both[1])


def test_polygons_unite():
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    mask = masks.polygon_mask([square, [2, 2, 6, 2, 6, 3, 2, 3]], 5, 7)
    expected = np.zeros((5, 7), bool)
    expected[1:4, 1:4] = expected[2:3, 2:6] = True
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(masks.segmentation_mask([square], 5, 7)[1:4, 1:4], True)
    with pytest.raises(ValueError, match="polygon 1 has 5 numbers"):
        masks.polygon_mask([square, [1, 2, 3, 4, 5]], 5, 7)


@given(bitmaps, st.integers(1, 9), st.integers(1, 9))
def test_soft_downsample_keeps_the_area_and_never_vanishes(mask, h, w):
    soft = masks.soft_downsample(mask, (h, w))
    assert soft.shape == (h, w) and soft.dtype == np.float32
    assert soft.mean() == pytest.approx(mask.mean(), abs=1e-5)
    assert bool((soft > 0).any()) == bool(mask.any())
    assert bool(masks.quantize_mask(soft).any()) == bool(mask.any())


def test_soft_downsample_is_the_block_mean():
    mask = np.random.default_rng(0).random((12, 8)) < 0.4
    expected = mask.reshape(4, 3, 2, 4).mean((1, 3))
    np.testing.assert_allclose(masks.soft_downsample(mask, (4, 2)), expected, atol=1e-6)


def test_one_pixel_survives_a_large_shrink():
    mask = np.zeros((640, 480), bool)
    mask[639, 0] = True
    quantized = masks.quantize_mask(masks.soft_downsample(mask, (6, 6)))
    assert quantized.nonzero() == (5, 0) and quantized.sum() == 1


def test_iou_and_bounds():
    a, b = np.zeros((2, 4, 5), bool)
    a[1:3, 1:4] = True
    b[2:4, 2:5] = True
    assert masks.mask_iou(a, b) == pytest.approx(2 / 10)
    assert masks.mask_iou(a & b & ~a, a & ~a) == 0
    assert masks.mask_bounds(a) == (1, 1, 4, 3)
    with pytest.raises(ValueError, match="4x5 without any pixel"):
        masks.mask_bounds(a & ~a)
