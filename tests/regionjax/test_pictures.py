"""Drawings: outlines against areas, coordinates against the pixels they stand for."""

import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from regionjax import charts, pictures
from regionjax.regions import Region


def signed_area(loop):
    """Shoelace formula; positive for a loop that runs clockwise on the screen."""
    x, y = np.array(loop).T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_outlines_enclose_the_mask(mask):
    """Blobs run one way, holes the other, so the areas add up to the pixels of the mask."""
    loops = pictures.outline(mask)
    assert sum(map(signed_area, loops)) == mask.sum()
    for loop in loops:
        sides = np.diff(np.array([*loop, loop[0]]), axis=0)
        assert (np.count_nonzero(sides, axis=1) == 1).all()  # along pixel edges …
        turns = np.count_nonzero(sides, axis=0)
        assert turns[0] == turns[1] == len(loop) / 2  # … turning at every corner


def test_outline_of_a_ring():
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    assert sorted(map(sorted, pictures.outline(mask))) == [
        [(0, 0), (0, 3), (3, 0), (3, 3)],
        [(1, 1), (1, 2), (2, 1), (2, 2)],
    ]


def test_pixels_that_touch_at_a_corner_are_two_blobs():
    assert len(pictures.outline(np.eye(2, dtype=bool))) == 2


def encoded(width, height, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (width, height), 1).save(file, "PNG")
    return file.getvalue()


def test_album_embeds_a_photograph_once_and_small():
    album = pictures.Album()
    assert album.add("a", encoded(64, 48)) == ("photo-0", 64, 48)
    assert album.add("b", encoded(1280, 640, "L")) == ("photo-1", 256, 128)
    assert album.add("a", b"not looked at") == ("photo-0", 64, 48)
    assert album.definitions().count("data:image/jpeg") == 2


def parsed(layer, width=200, height=100):
    return ElementTree.fromstring(f"<svg>{layer(width, height)}</svg>")


def test_box_layer_is_in_pixels():
    shape = parsed(pictures.box_layer((0.1, 0.2, 0.6, 0.7), "truth"))[1]
    assert [shape.get(name) for name in ("x", "y", "width", "height")] == ["20", "20", "100", "50"]
    assert shape.get("class") == "shape truth"


@pytest.mark.parametrize("side", [(2, 4), (100, 200), (400, 800)])
def test_mask_layer_fits_the_photograph_at_any_resolution(side):
    mask = np.zeros(side, bool)
    mask[side[0] // 2 :, side[1] // 2 :] = True
    shape = parsed(pictures.mask_layer(mask, "shown"))[1]
    scale = np.array(re.findall(r"[\d.]+", shape.get("transform")), float)
    start, *steps = re.findall(r"[Mhv][-\d ]+", shape.get("d"))
    corner = np.array(start[1:].split(), float)
    corners = {tuple(corner * scale)}
    for step in steps:
        corner = corner + (np.array([1, 0]) if step[0] == "h" else np.array([0, 1])) * int(step[1:])
        corners.add(tuple(corner * scale))
    assert corners == {(100, 50), (200, 50), (200, 100), (100, 100)}


def test_trace_layer_keeps_order_and_marks_the_start():
    region = Region.from_points([(0.5, 0.5), (1.5, 0.25), (0, 0)])
    drawn = parsed(pictures.region_layer(region, "shown"))
    assert drawn[0].get("points") == "100,50 200,25 0,0"
    radii = [float(dot.get("r")) for dot in drawn[2]]
    assert radii[0] > radii[1] == radii[2]


def test_heat_is_clear_where_it_is_lowest_and_survives_nan():
    heatmap = np.array([[0, 1], [np.nan, 0]], np.float32)
    uri = parsed(pictures.heat_layer(heatmap))[0].get("href")
    assert uri.startswith("data:image/png;base64,")
    parsed(pictures.heat_layer(np.zeros((3, 3))))


def test_picture_escapes_its_label():
    svg = pictures.picture(("photo-0", 2, 2), [], '<"&')
    assert ElementTree.fromstring(svg).get("aria-label") == '<"&'


# ---- charts -------------------------------------------------------------------------------------


def test_bar_places_score_interval_and_baseline():
    svg = ElementTree.fromstring(charts.bar(5, 4, 6, 1, top=10))
    fill = next(shape for shape in svg if shape.get("class") == "fill")
    baseline = next(shape for shape in svg if shape.get("class") == "baseline")
    interval = next(shape for shape in svg if shape.get("class") == "interval")
    assert fill.get("width") == "120" and baseline.get("d").startswith("M24 ")
    assert interval.get("d").startswith("M96 11H144")


def test_curves():
    steps = np.arange(1, 1001)
    noisy = {"loss": (steps, np.exp(-steps / 200) + 0.01), "loss/<b>": (steps, steps / 1000)}
    figure = ElementTree.fromstring(charts.curves(noisy, "loss", logarithmic=True))
    lines = [e for e in figure.iter("polyline") if "trend" in e.get("class")]
    assert len(lines) == 2
    assert all(len(line.get("points").split()) == 300 for line in lines)  # thinned
    heights = [float(point.split(",")[1]) for point in lines[0].get("points").split()]
    assert heights[0] < heights[-1]  # falls
    assert "loss/<b>" in "".join(figure.itertext())


@pytest.mark.parametrize(
    "points, drawn",
    [
        (([], []), False),
        (([1, 2], [float("nan"), float("inf")]), False),
        (([0], [3.0]), True),
        (([1, 2], [0.0, 0.0]), True),
        (([1, 2], [-1.0, 5.0]), True),  # no logarithm of that
    ],
)
def test_curves_of_little(points, drawn):
    figure = charts.curves({"x": points}, "x", logarithmic=True)
    assert bool(figure) == drawn
    if drawn:
        ElementTree.fromstring(figure)


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (0.03, "0.03"), (0.00025, "2.5e-4"), (1500, "1.5k"), (250, "250"), (-2, "-2")],
)
def test_labels(value, text):
    assert charts.label(value) == text
