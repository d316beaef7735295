"""Regions and round trips of every conversion."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regionjax import regions
from regionjax.regions import WHOLE_IMAGE, Region, RegionError

unit = st.floats(0, 1, width=32)
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


start = st.floats(0, 0.75, width=32)
share = st.floats(0.0078125, 1, width=32)  # of what is left of the side
ordered = st.tuples(start, start, share, share).map(
    lambda v: np.array([v[0], v[1], v[0] + v[2] * (1 - v[0]), v[1] + v[3] * (1 - v[1])], np.float32)
)
traces = st.lists(st.tuples(unit, unit), min_size=1, max_size=12).map(
    lambda points: np.array(points, np.float32)
)
bitmaps = arrays(bool, (7, 9)).filter(lambda mask: mask.any())
any_region = st.one_of(
    ordered.map(Region.from_box), traces.map(Region.from_points), bitmaps.map(Region.from_mask)
)


# ---- conversions ----


@given(ordered, sizes)
def test_pixel_boxes_round_trip(box, size):
    pixels = regions.box_to_pixels(box, *size)
    np.testing.assert_array_equal(regions.box_from_pixels(pixels, *size), box)
    xywh = regions.box_to_xywh(box, *size)
    np.testing.assert_allclose(regions.box_from_xywh(xywh, *size), box, atol=2e-7)
    np.testing.assert_allclose(xywh[2:], pixels[2:] - pixels[:2])


@given(ordered)
def test_tfds_boxes_round_trip(box):
    np.testing.assert_array_equal(regions.box_from_yxyx(regions.box_to_yxyx(box)), box)
    x0, y0, x1, y1 = box
    np.testing.assert_array_equal(regions.box_to_yxyx(box), [y0, x0, y1, x1])


@given(traces, sizes)
def test_pixel_points_round_trip(points, size):
    pixels = regions.points_to_pixels(points, *size)
    np.testing.assert_array_equal(regions.points_from_pixels(pixels, *size), points)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=9))
def test_trajectory_text_round_trip(percent):
    text = " ".join(f"[{x} {y}]" for x, y in percent)
    assert regions.points_to_text(regions.points_from_text(text)) == text


@given(traces)
def test_trajectory_text_is_within_half_a_percent(points):
    back = regions.points_from_text(regions.points_to_text(points))
    np.testing.assert_allclose(back, points, atol=0.005 + 1e-6)


def test_trajectory_text_truncates_and_clips():
    points = [(0.129, 0.4), (-0.2, 1.3)]
    assert regions.points_to_text(points) == "[12 40] [0 100]"
    for wrong in ("", "[1,2]", "[1 2", "12 40", "[1 2] x", "[-5 3]"):
        with pytest.raises(RegionError, match="not trajectory text"):
            regions.points_from_text(wrong)
    with pytest.raises(RegionError, match="holds 320"):
        regions.points_from_text("[320 40]")


@given(st.integers(1, 1024).flatmap(lambda n: st.tuples(st.just(n), arrays(
    np.int64, (3, 4), elements=st.integers(0, n - 1)))))  # fmt: skip
def test_locations_round_trip(case):
    bins, locations = case
    box = regions.box_from_locations(locations, bins)
    np.testing.assert_array_equal(regions.box_to_locations(box, bins), locations)
    text = regions.locations_to_text(locations[0])
    np.testing.assert_array_equal(regions.locations_from_text(text), locations[0])


@given(ordered, st.sampled_from([32, 1024]))
def test_locations_are_within_half_a_bin(box, bins):
    back = regions.box_from_locations(regions.box_to_locations(box, bins), bins)
    np.testing.assert_allclose(back, box, atol=0.5 / bins + 1e-6)


def test_locations_by_hand():
    assert regions.box_to_locations([0.5, 0.25, 1.0, 0.75]).tolist() == [256, 512, 768, 1023]
    assert (
        regions.locations_to_text([256, 512, 768, 1023]) == "<loc0256><loc0512><loc0768><loc1023>"
    )
    assert regions.locations_from_text("<loc0001> <loc0002>").tolist() == [1, 2]
    with pytest.raises(RegionError, match="location tokens"):
        regions.locations_from_text("<loc1>")
    with pytest.raises(RegionError, match="0…63"):
        regions.box_from_locations([0, 1, 2, 64], 64)


@given(arrays(np.int64, (4,), elements=st.integers(0, 1000)))
def test_thousand_round_trip(integers):
    back = regions.box_to_thousand(regions.box_from_thousand(integers))
    np.testing.assert_array_equal(back, integers)


def test_thousand_by_hand():
    assert regions.box_to_thousand([0.1, 0.2, 0.3, 1.0]).tolist() == [100, 200, 300, 1000]
    with pytest.raises(RegionError, match="absolute pixels"):
        regions.box_from_thousand([0, 0, 1001, 3])


@given(ordered, traces)
def test_flips_are_their_own_inverse(box, points):
    np.testing.assert_allclose(regions.flip_box(regions.flip_box(box)), box, atol=1e-6)
    np.testing.assert_allclose(regions.flip_points(regions.flip_points(points)), points, atol=1e-6)


@given(any_region)
def test_flipping_mirrors_the_coverage(region):
    mirrored = region.flipped().rasterize(9)
    drawn = 0.2 if region.kind == "points" else 1e-5  # lines are drawn in whole fine pixels
    np.testing.assert_allclose(mirrored, region.rasterize(9)[:, ::-1], atol=drawn)


def test_box_iou_and_clip():
    a, b = np.array([0, 0, 0.5, 0.5]), np.array([[0.25, 0.25, 0.75, 0.75], [0.5, 0, 1, 1]])
    np.testing.assert_allclose(regions.box_iou(a, b), [1 / 7, 0])
    assert regions.box_iou(np.zeros(4), np.zeros(4)) == 0
    np.testing.assert_allclose(regions.clip_box([-0.1, 0.2, 0.3, 1.4]), [0, 0.2, 0.3, 1])


# ---- regions ----


@given(any_region, st.integers(1, 40))
def test_coverage_is_never_empty(region, size):
    coverage = region.rasterize(size)
    assert coverage.shape == (size, size) and coverage.dtype == np.float32
    assert coverage.max() > 0 and coverage.min() >= 0 and coverage.max() <= 1


@given(ordered, st.integers(1, 30))
def test_box_coverage_is_exact(box, size):
    coverage = Region.from_box(box).rasterize(size)
    assert coverage.mean() == pytest.approx(Region.from_box(box).area(), abs=1e-5)
    fine = (np.arange(size * 16) + 0.5) / (size * 16)
    hit = (fine[:, None] > box[1]) & (fine[:, None] < box[3]) & (fine > box[0]) & (fine < box[2])
    np.testing.assert_allclose(coverage, hit.reshape(size, 16, size, 16).mean((1, 3)), atol=0.14)


@settings(max_examples=30)
@given(traces, st.sampled_from([6, 24]))
@example(np.array([(0, 0), (0.875, 1), (0, 0.75), (1, 0), (0.25, 1)], np.float32), 6)
def test_stroke_is_the_set_near_the_line(points, size):
    fine = 192 // size
    grid = (np.stack(np.meshgrid(*[np.arange(size * fine)] * 2), -1) + 0.5) / (size * fine)
    near = np.zeros(grid.shape[:2], bool)
    for start, end in (
        zip(points[:-1], points[1:], strict=True) if len(points) > 1 else [(points[0], points[0])]
    ):
        way = (end - start).astype(np.float64)
        along = np.clip((grid - start) @ way / max(way @ way, 1e-12), 0, 1)
        near |= np.linalg.norm(grid - start - along[..., None] * way, axis=-1) <= regions.BRUSH
    expected = near.reshape(size, fine, size, fine).mean((1, 3))
    difference = Region.from_points(points).rasterize(size) - expected
    # The edge of the stroke may lie a pixel of its drawing aside, and half a pixel of `grid`.
    edge = 2 * np.linalg.norm(np.diff(points, axis=0), axis=1).sum() + 2 * np.pi * regions.BRUSH
    aside = 1 / (size * np.ceil(6 / (regions.BRUSH * size))) + 0.5 / 192
    assert abs(difference).max() < 0.25 and abs(difference).mean() < edge * aside


def test_mask_coverage_is_the_area_average():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True
    np.testing.assert_allclose(Region.from_mask(mask).rasterize(2), [[0.5, 0], [0, 0]])


@given(any_region, st.integers(1, 20))
def test_sampled_points_lie_in_the_region(region, count):
    points = region.sample_points(count, np.random.default_rng(0))
    assert points.shape == (count, 2) and points.dtype == np.float32
    x0, y0, x1, y1 = region.bounding_box()
    assert (points >= np.array([x0, y0]) - 1e-6).all()
    assert (points <= np.array([x1, y1]) + 1e-6).all()
    if region.kind == "mask":
        column, row = np.minimum(points * (9, 7), (8.99, 6.99)).astype(int).T
        assert region.mask[row, column].mean() > 0.9  # float32 may step over a pixel's edge


@pytest.mark.parametrize("count", [1, 2, 7])
def test_spread_points_share_no_row_and_no_column(count):
    points = regions.spread(50, count, np.random.default_rng(0))
    strata = np.floor(points * count).astype(int)
    expected = np.broadcast_to(np.arange(count)[:, None], strata.shape)
    np.testing.assert_array_equal(np.sort(strata, axis=1), expected)
    assert count == 1 or (strata[..., 0] != strata[..., 1]).any()
    assert np.unique(points).size == points.size


def test_traces_are_sampled_evenly_in_order():
    trace = np.linspace(0, 1, 7)[:, None] * [1, 0.5]
    rng = np.random.default_rng(0)
    region = Region.from_points(trace)
    np.testing.assert_allclose(region.sample_points(3, rng), trace[[0, 3, 6]], atol=1e-6)
    np.testing.assert_allclose(region.sample_points(1, rng), trace[[3]], atol=1e-6)
    x = region.sample_points(20, rng)[:, 0]
    assert (np.diff(x) >= 0).all() and x[-1] == 1
    # RegionVLM's rule for 20 of n: trunc((n-1)/19·(j-1))
    many = np.random.default_rng(1).random((57, 2))
    index = [int(56 * j / 19) for j in range(20)]
    np.testing.assert_allclose(
        Region.from_points(many).sample_points(20, rng), many[index], atol=1e-6
    )


def test_points_outside_are_clipped_on_use():
    region = Region.from_points([(-0.1, 0.5), (1.2, 0.5)])
    np.testing.assert_allclose(region.points[0], (-0.1, 0.5))
    np.testing.assert_allclose(region.bounding_box(), (0, 0.5, 1, 0.5))
    assert region.sample_points(2, np.random.default_rng(0)).min() >= 0


def test_whole_image():
    assert WHOLE_IMAGE.area() == 1 and WHOLE_IMAGE.kind == "box"
    assert (WHOLE_IMAGE.rasterize(5) == 1).all()


def test_regions_own_their_data():
    points = np.zeros((2, 2), np.float32)
    region = Region.from_points(points)
    points[:] = 1
    assert region.points.max() == 0
    with pytest.raises(ValueError):
        region.points[0] = 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Region(), "got none"),
        (lambda: Region(box=(0, 0, 1, 1), points=[(0, 0)]), "points, box or mask"),
        (lambda: Region.from_points([]), "K >= 1"),
        (lambda: Region.from_points([(0, 0), (np.nan, 0)]), "point 1 is not finite"),
        (lambda: Region.from_points([(12, 40)]), "points_from_pixels"),
        (lambda: Region.from_box((0, 0, 1)), r"got \[3\]"),
        (lambda: Region.from_box((0, 0, np.inf, 1)), "not finite"),
        (lambda: Region.from_box((0.5, 0, 0.2, 1)), "box_from_xywh"),
        (lambda: Region.from_box((0, 0, 1.001, 1)), "leaves the image"),
        (lambda: Region.from_box((10, 10, 50, 50)), "box_from_pixels"),
        (lambda: Region.from_mask(np.ones((3, 3))), "bool"),
        (lambda: Region.from_mask(np.zeros((3, 3), bool)), "3x3 has no pixel"),
    ],
)
def test_impossible_regions_are_named(make, message):
    with pytest.raises(RegionError, match=message):
        make()


def test_tiny_overhang_is_rounding():
    np.testing.assert_array_equal(Region.from_box((-5e-7, 0, 1, 1)).box, (0, 0, 1, 1))
