"""Augmented images against their geometry: what was painted is where its region says it is."""

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from input_pipeline import tokens
from input_pipeline.augmentation import View, draw_view, jittered, mirrored_annotation
from input_pipeline.data_config import DataConfig
from input_pipeline.images import decode_image
from input_pipeline.records import Annotation, Record
from input_pipeline.runs import RunRegion
from input_pipeline.transforms import EncodeExample, example_rng
from regionjax.batch import BatchSpec
from regionjax.masks import mask_bounds
from regionjax.regions import WHOLE_IMAGE, Region, RegionError, box_from_pixels, box_iou

quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def config(**changes):
    return DataConfig("", {"coco": 1.0}, **changes)


@st.composite
def pictures(draw):
    """A mask [H, W] with pixels, and a View of it that cuts none of them."""
    height, width = draw(st.integers(2, 24)), draw(st.integers(2, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.zeros((height, width), bool)
    low = [rng.integers(0, side) for side in (height, width)]
    high = [rng.integers(start + 1, side + 1) for start, side in zip(low, mask.shape, strict=True)]
    inside = mask[low[0] : high[0], low[1] : high[1]]
    inside[...] = rng.random(inside.shape) < rng.choice([0.1, 0.6, 1.0])
    if not mask.any():
        inside[0, 0] = True
    x0, y0, x1, y1 = mask_bounds(mask)
    edges = (
        int(rng.integers(0, x0 + 1)),
        int(rng.integers(0, y0 + 1)),
        int(rng.integers(x1, width + 1)),
        int(rng.integers(y1, height + 1)),
    )
    return mask, View(width, height, edges, draw(st.booleans()))


def seen(image, view):
    """The pixels of an image in a view, by slicing."""
    x0, y0, x1, y1 = view.edges
    part = image[y0:y1, x0:x1]
    return part[:, ::-1] if view.flip else part


# ---- regions ----


@quickly
@given(pictures())
def test_masks_follow(picture):
    mask, view = picture
    for region in (RunRegion.from_mask(mask), Region(mask=mask)):
        moved = view.region(region)
        expected = seen(mask, view)
        np.testing.assert_array_equal(moved.mask, expected)
        assert tuple(moved.bounds) == tuple(mask_bounds(expected))
        assert (moved.height, moved.width) == expected.shape
        np.testing.assert_allclose(
            moved.rasterize(5), RunRegion.from_mask(expected).rasterize(5), atol=1e-6
        )
        assert moved.area() == pytest.approx(expected.mean())
        row, column = np.nonzero(expected)
        hit = moved.sample_points(20, np.random.default_rng(0)) * expected.shape[::-1]
        assert expected[hit[:, 1].astype(int), hit[:, 0].astype(int)].all()


@quickly
@given(pictures())
def test_boxes_and_points_follow(picture):
    mask, view = picture
    x0, y0, x1, y1 = mask_bounds(mask)
    painted = np.zeros(mask.shape, bool)
    painted[y0:y1, x0:x1] = True
    box = view.region(Region(box=box_from_pixels((x0, y0, x1, y1), view.width, view.height))).box
    part = seen(painted, view)
    expected = box_from_pixels(mask_bounds(part), part.shape[1], part.shape[0])
    np.testing.assert_allclose(box, expected, atol=1e-5)

    rows, columns = np.nonzero(mask)
    points = (np.stack([columns, rows], axis=1) + 0.5) / (view.width, view.height)
    moved = view.region(Region(points=points)).points
    column, row = np.floor(moved * part.shape[::-1]).astype(int).T
    numbered = np.full(mask.shape, -1)
    numbered[rows, columns] = np.arange(len(rows))
    assert seen(numbered, view)[row, column].tolist() == list(range(len(rows)))  # order is kept


def test_points_outside_count_as_on_the_edge():
    view = View(100, 50, (10, 0, 100, 50), flip=False)
    trace = Region(points=[[0.1, -0.9], [1.9, 0.5], [0.55, 2]])
    np.testing.assert_allclose(view.region(trace).points, [[0, 0], [1, 0.5], [0.5, 1]], atol=1e-6)
    mirror = dataclasses.replace(view, flip=True)
    np.testing.assert_allclose(mirror.region(trace).points, [[1, 0], [0, 0.5], [0.5, 1]], atol=1e-6)


def test_the_whole_image_stays_whole_and_nothing_is_cut():
    view = View(100, 50, (10, 0, 100, 50), flip=True)
    assert view.region(WHOLE_IMAGE) is WHOLE_IMAGE
    mask = np.zeros((50, 100), bool)
    mask[3, 9] = True
    with pytest.raises(RegionError, match=r"cuts a mask within \(9, 3, 10, 4\)"):
        view.region(RunRegion.from_mask(mask))
    with pytest.raises(RegionError, match=r"\(10, 0, 100, 50\) of the image cuts a box"):
        view.region(Region(box=[0.09, 0.1, 0.5, 0.5]))
    with pytest.raises(RegionError, match="a mask of 100x50 on an image of 50x100"):
        view.region(RunRegion.from_mask(mask.T))


@quickly
@given(pictures(), st.floats(0, 0.4), st.integers(0, 2**32))
def test_views_cut_up_to_the_limit_and_no_region(picture, crop, seed):
    mask, view = picture
    width, height = view.width, view.height
    box = Region(box=box_from_pixels(mask_bounds(mask), width, height))
    regions = [RunRegion.from_mask(mask), box, WHOLE_IMAGE, Region(points=box.box[None, :2])]
    rng = np.random.default_rng(seed)
    drawn = draw_view(config(crop=crop, flip=0.5), width, height, regions, rng)
    x0, y0, x1, y1 = drawn.edges
    assert 0 <= x0 <= crop * width and width - crop * width <= x1 <= width
    assert 0 <= y0 <= crop * height and height - crop * height <= y1 <= height
    np.testing.assert_array_equal(drawn.region(regions[0]).mask, seen(mask, drawn))
    drawn.region(box)  # would raise


def test_views_use_all_of_the_margin():
    region = Region(box=[0.05, 0.3, 0.98, 0.6])
    rng = np.random.default_rng(0)
    views = [draw_view(config(crop=0.1, flip=0.3), 200, 100, [region], rng) for _ in range(2000)]
    for side, (low, high) in enumerate([(0, 10), (0, 10), (196, 200), (90, 100)]):
        edges = [view.edges[side] for view in views]
        assert set(edges) == set(range(low, high + 1))
    assert np.mean([view.flip for view in views]) == pytest.approx(0.3, abs=0.04)


def test_what_is_said_of_whole_images_is_said_of_all_of_them():
    rng = np.random.default_rng(0)
    for regions in ([WHOLE_IMAGE, WHOLE_IMAGE], []):
        views = [draw_view(config(crop=0.1, flip=0.3), 200, 100, regions, rng) for _ in range(50)]
        assert {view.edges for view in views} == {(0, 0, 200, 100)}
        assert {view.flip for view in views} == {True, False}


# ---- whole examples ----

SPEC = BatchSpec(
    image_size=64,
    mask_size=64,
    regions=4,
    points=6,
    prompt_length=6,
    target_length=6,
    text_length=12,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("augmentation") / "tokenizer"
    texts = ["describe refer narrate locate", "the left right blob", "player 23", "clockwise"]
    tokens.train([*texts, "counterclockwise"], 200, 64, directory)
    return tokens.Tokenizer(directory)


def record_of(mask, texts, format="PNG"):
    """A red blob on blue; phrase and expression say where it is, a trace goes through it."""
    red = RunRegion.from_mask(mask)
    pixels = np.where(mask[..., None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, quality=95)
    trace = Region(points=red.sample_points(9, np.random.default_rng(0)))
    annotations = [
        Annotation("phrase", texts[0], "1", red),
        Annotation("expression", texts[0], "2", red),
        Annotation("narration", texts[-1], "3", trace),
    ]
    height, width = mask.shape
    return Record("coco", "a.png", "1", width, height, file.getvalue(), annotations)


def blob(seed):
    rng = np.random.default_rng(seed)
    y, x = np.indices((90, 130))
    middle, radius = rng.uniform((35, 30), (95, 60)), rng.uniform(12, 28, 2)
    return ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 < 1


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_painted_pixels_are_where_the_regions_are(tokenizer, format):
    flips = 0
    for seed in range(25):
        record = record_of(blob(seed), ["the left blob"], format)
        data = config(crop=0.3, flip=0.5, as_mask=1.0, as_box=0.0, as_points=0.0)
        encode = EncodeExample(SPEC, data, tokenizer, seed)
        row = encode.map_with_index(seed, record.encode())
        red = row["image"][..., 0].astype(int) - row["image"][..., 2] > 0
        assert 0.05 < red.mean() < 0.9
        x0, y0, x1, y1 = mask_bounds(red)
        painted = np.array([x0, y0, x1, y1]) / 64
        said = {tokenizer.decode(ids) for ids in row["target"][~row["target_box"].any(-1)]}
        flipped = said == {"the right blob"}
        assert flipped or said == {"the left blob"}
        flips += flipped
        prompts = [tokenizer.decode(prompt) for prompt in row["prompt"]]
        assert sorted(prompts) == sorted(["describe", f"locate {said.pop()}", "narrate", "refer"])
        for slot, prompt in enumerate(prompts):
            hit = np.minimum(row["region_points"][slot] * 64, 63).astype(int)
            if prompt == "narrate":
                assert red[hit[:, 1], hit[:, 0]].mean() > 0.8
            elif prompt.startswith("locate"):
                assert box_iou(row["target_box"][slot], painted) > 0.9
            else:
                mask = row["region_mask"][slot] > 127
                assert (mask & red).sum() / (mask | red).sum() > 0.93
                assert box_iou(row["region_box"][slot], painted) > 0.9
                assert red[hit[:, 1], hit[:, 0]].mean() > 0.8
    assert 5 < flips < 20


def test_texts_that_cannot_be_mirrored_keep_the_image_as_it_is(tokenizer):
    for text, flipped in (("player 23", False), ("nothing is left", False), ("the blob", True)):
        record = record_of(blob(3), ["the left blob", text])
        plain = EncodeExample(SPEC, config(), tokenizer, 0).map_with_index(0, record.encode())
        encode = EncodeExample(SPEC, config(flip=1.0), tokenizer, 0)
        row = encode.map_with_index(0, record.encode())
        expected = plain["image"][:, ::-1] if flipped else plain["image"]
        np.testing.assert_array_equal(row["image"], expected)


def test_a_mirrored_text_that_no_longer_fits_keeps_the_image_as_it_is(tmp_path):
    many = [f"word{number} clockwise" for number in range(300)]  # so that words are put together
    tokens.train(many, 300, 8, tmp_path / "t")
    tokenizer = tokens.Tokenizer(tmp_path / "t")
    record = record_of(blob(3), ["clockwise"])
    record = dataclasses.replace(record, annotations=record.annotations[:1])
    short, counter = (len(tokenizer.encode(text)) + 1 for text in ("clockwise", "counterclockwise"))
    assert short < counter
    for length, flipped in ((short, False), (counter, True)):
        spec = dataclasses.replace(
            SPEC, prompt_length=9, target_length=length, text_length=length + 9
        )
        rng = np.random.default_rng(0)
        drawn = EncodeExample(spec, config(flip=1.0), tokenizer, 0).draw(record, rng)
        assert drawn.view.flip == flipped
        assert drawn.segments[0].target == ("counterclockwise" if flipped else "clockwise")


def test_as_little_is_cut_when_only_a_part_is_shown(tokenizer):
    """What is described has to stay in the image, also where a point of it or nothing is shown."""
    mask = np.zeros((90, 130), bool)
    mask[2:88, 3:128] = True
    record = record_of(mask, ["the left blob"])
    for way in ("as_points", "as_nothing", "as_part"):
        shares = {f"as_{other}": 0.0 for other in ("mask", "box", "points", "part", "nothing")}
        data = config(crop=0.4, **shares | {way: 1.0})
        for index in range(20):
            drawn = EncodeExample(SPEC, data, tokenizer, 0).draw(record, example_rng(0, index))
            x0, y0, x1, y1 = drawn.view.edges
            assert x0 <= 3 and y0 <= 2 and x1 >= 128 and y1 >= 88


def test_all_texts_of_an_annotation_are_mirrored():
    labels = {"choices": ["left", "[0] is right of [12]"], "answer": 1, "rationales": ["no"]}
    choice = Annotation("choice", "is [0] on the left?", "1", None, labels | {"rationale": 0})
    other = mirrored_annotation(choice)
    assert other.text == "is [0] on the right?" and other.id == "1"
    assert other.extra["choices"] == ["right", "[0] is left of [12]"]
    assert (other.extra["answer"], other.extra["rationales"]) == (1, ["no"])
    asked = Annotation("question", "which side?", "2", None, {"answer": "left", "answers": []})
    assert mirrored_annotation(asked).extra["answer"] == "right"
    asked = Annotation("question", "which number?", "2", None, {"answer": "23"})
    assert mirrored_annotation(asked) is None


# ---- pixels ----


def test_a_part_of_a_jpeg_is_where_it_was():
    """Its colours are its places; large enough to be decoded at a half and at a quarter."""
    y, x = np.indices((483, 641))
    pixels = np.stack([x / 641, y / 483, 0 * x], axis=-1) * 255
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=95, subsampling=0)
    for size in (64, 150, 224):
        for edges in (None, (0, 0, 641, 483), (31, 17, 600, 470), (130, 101, 401, 400)):
            x0, y0, x1, y1 = edges or (0, 0, 641, 483)
            image = decode_image(file.getvalue(), size, "", edges).astype(float)
            middle = (np.arange(size) + 0.5) / size
            inner = slice(3, -3)  # at its edges bicubic flattens a slope
            across = (x0 + middle * (x1 - x0)) / 641 * 255 - 0.7  # uint8 cuts half a step
            down = (y0 + middle * (y1 - y0)) / 483 * 255 - 0.7
            assert np.abs(image[..., 0].mean(0) - across)[inner].max() < 0.8
            assert np.abs(image[..., 1].mean(1) - down)[inner].max() < 0.8


class Drawn:
    """A generator that draws what it is told."""

    def __init__(self, *draws):
        self.draws = np.array(draws)

    def random(self, count):
        assert count == len(self.draws)
        return self.draws


@pytest.mark.parametrize("draws", [(0.5, 0.5, 0.5), (1, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0.1)])
def test_jitter_as_in_pillow(draws):
    rng = np.random.default_rng(0)
    image = rng.integers(80, 160, (20, 30, 3), dtype=np.uint8)
    data = config(brightness=0.2, contrast=0.3, saturation=0.4)
    found = jittered(image, data, Drawn(*draws))
    assert found.dtype == np.uint8
    expected = Image.fromarray(image)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, draw, spread in zip(enhancers, draws, (0.2, 0.3, 0.4), strict=True):
        expected = enhancer(expected).enhance(1 + spread * (2 * draw - 1))
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2
    if draws == (0.5, 0.5, 0.5):
        np.testing.assert_array_equal(found, image)


def test_jitter_is_a_function_of_the_example(tokenizer):
    record = record_of(blob(1), ["the left blob"])
    data = config(brightness=0.3, contrast=0.3, saturation=0.3, crop=0.2, flip=0.5)

    def row(index):
        return EncodeExample(SPEC, data, tokenizer, 0).map_with_index(index, record.encode())

    rows = [row(index) for index in range(4)]
    for index in (2, 0):
        for name, value in row(index).items():
            np.testing.assert_array_equal(value, rows[index][name])
    assert len({row["image"].tobytes() for row in rows}) == 4
