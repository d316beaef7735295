"""From a record to a row of the batch."""

import collections
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import tasks, tokens
from input_pipeline.data_config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage, decode_image
from input_pipeline.records import Annotation, Record
from input_pipeline.runs import RunRegion
from input_pipeline.slots import encode_regions
from input_pipeline.transforms import EncodeExample, cut, encode_row, example_rng, scribble
from regionjax import evaluate
from regionjax.batch import BatchSpec, Segment
from regionjax.masks import quantize_mask
from regionjax.regions import WHOLE_IMAGE, Region

SPEC = BatchSpec(
    image_size=16,
    mask_size=12,
    regions=4,
    points=5,
    prompt_length=6,
    target_length=7,
    text_length=11,
)
TEXTS = [
    "part of",
    "more than",
    "describe",
    "refer",
    "narrate",
    "locate",
    "red box",
    "the red box",
    "all of it here",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("transforms") / "tokenizer"
    tokens.train(TEXTS, 100, 32, directory)
    return tokens.Tokenizer(directory)


@pytest.fixture(scope="module")
def record():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 15:33] = True
    red = RunRegion.from_mask(mask)
    pixels = np.where(mask[..., None], (255, 0, 0), (30, 60, 90)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    trace = Region.from_points(np.linspace((-0.1, 0.2), (0.6, 0.7), 30))
    annotations = [
        Annotation("phrase", "red box", "1", red),
        Annotation("expression", "the red box", "2", red),
        Annotation("caption", "all of it here", "3"),
        Annotation("narration", "red box", "4", trace),
    ]
    return Record("coco", "train2017/1.png", "1", 60, 40, file.getvalue(), annotations)


def encoder(tokenizer, spec=SPEC, seed=0, **changes):
    data = DataConfig("", {"coco": 1.0}, **changes)
    return EncodeExample(spec, data, tokenizer, seed)


# ---- images ----


def test_training_and_evaluation_see_the_same_pixels(record, tokenizer):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((643, 481)).save(file, "JPEG")
    for data in (file.getvalue(), record.image):
        one = dataclasses.replace(record, image=data)
        trained = encoder(tokenizer).map_with_index(5, one.encode())["image"]
        evaluated = evaluate.record_encoder(tokenizer, 0)(one, [], SPEC)["image"]
        np.testing.assert_array_equal(trained, evaluated)
        np.testing.assert_array_equal(trained, decode_image(data, 16, ""))


# ---- regions ----


def test_regions_together_as_one_by_one():
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 60)) > share for share in (0.5, 0.999, 0.1)]
    regions = [
        RunRegion.from_mask(masks[0]),
        Region.from_box([0.1, 0.2, 0.3, 0.9]),
        Region.from_points(rng.random((7, 2))),
        RunRegion.from_mask(masks[1]),
        WHOLE_IMAGE,
        Region.from_mask(masks[2]),
        Region.from_box([0.5, 0.5, 0.500002, 0.500002]),
    ]
    points, boxes, coverage = encode_regions(regions, 12, 5, rng)
    assert (points.shape, boxes.shape, coverage.shape) == ((7, 5, 2), (7, 4), (7, 12, 12))
    assert (points.dtype, boxes.dtype, coverage.dtype) == (np.float32, np.float32, np.uint8)
    for i, region in enumerate(regions):
        np.testing.assert_array_equal(boxes[i], region.bounding_box())
        expected = quantize_mask(region.rasterize(12))
        assert np.abs(coverage[i].astype(int) - expected).max() <= 1 and coverage[i].any()
        low, high = boxes[i, :2], boxes[i, 2:]
        assert (points[i] >= low - 1e-6).all() and (points[i] <= high + 1e-6).all()
    np.testing.assert_array_equal(points[2], regions[2].sample_points(5, rng))
    assert (coverage[4] == 255).all()


def test_no_regions():
    points, boxes, coverage = encode_regions([], 12, 5, np.random.default_rng(0))
    assert (points.shape, boxes.shape, coverage.shape) == ((0, 5, 2), (0, 4), (0, 12, 12))


def test_scribbles_stay_in_the_mask(record):
    mask = record.annotations[0].region.mask
    rng, counts = np.random.default_rng(0), set()
    for _ in range(60):
        points = scribble(record.annotations[0].region, 5, rng).points
        counts.add(len(points))
        column, row = (points * (60, 40)).astype(int).T
        assert mask[row, column].all()
    assert counts == {1, 2, 3, 4, 5}


# ---- tasks ----


def test_prompts_are_settings(record, tokenizer):
    data = DataConfig(
        "", {"coco": 1.0}, prompts={"describe": "what {{}} is it", "locate": "{text}?"}
    )
    assert data.prompts == tasks.PROMPTS | {"describe": "what {{}} is it", "locate": "{text}?"}
    phrase, expression = record.annotations[:2]
    assert tasks.texts("describe", phrase, data.prompts) == ("what {} is it", "red box")
    assert tasks.texts("locate", expression, data.prompts) == ("the red box?", "")
    encode = encoder(tokenizer, on_long="skip", prompts={"refer": "narrate refer"})
    drawn = [encode.draw(record, example_rng(0, index)).segments for index in range(9)]
    prompts = {segment.prompt for segments in drawn for segment in segments}
    assert prompts == {"describe", "narrate refer", "narrate", "", "locate the red box"}


def test_tasks_of_weight_0_are_not_trained(record, tokenizer):
    encode = encoder(tokenizer, task_weights={"locate": 0, "caption": 0})
    for index in range(20):
        segments = encode.draw(record, example_rng(0, index)).segments
        assert {segment.prompt for segment in segments} == {"describe", "refer", "narrate"}


def test_tasks_take_slots_by_their_weights(record, tokenizer):
    """The first slot is a thing's with the chance of its task's weight; nothing comes twice."""
    second = Annotation("expression", "red box", "5", record.annotations[1].region)
    record = dataclasses.replace(record, annotations=[*record.annotations, second])
    weights = {"refer": 3.0, "locate": 0.5}
    encode = encoder(tokenizer, task_weights=weights)
    drawn = [encode.draw(record, example_rng(5, index)).segments for index in range(3000)]
    asked = [task for a in record.annotations for task in tasks.tasks_of(a)]
    total = sum(weights.get(task, 1) for task in asked)
    first = collections.Counter(segments[0].prompt.split(" ")[0] for segments in drawn)
    for task in set(asked):
        expected = asked.count(task) * weights.get(task, 1) / total
        word = tasks.PROMPTS[task].split(" ")[0]
        error = (expected * (1 - expected) / len(drawn)) ** 0.5
        assert abs(first[word] / len(drawn) - expected) < 4 * error, task
    for segments in drawn:
        said = [(segment.prompt, segment.target) for segment in segments]
        assert len(said) == len(set(said)) == min(SPEC.regions, len(asked))


def test_locating_never_shows_the_answer(record, tokenizer):
    seen = 0
    for index in range(40):
        row = encoder(tokenizer).map_with_index(index, record.encode())
        for slot in range(4):
            if row["target_box"][slot].any():
                seen += 1
                assert tokenizer.decode(row["prompt"][slot]) == "locate the red box"
                assert (row["region_mask"][slot] == 255).all()
                assert row["region_box"][slot].tolist() == [0, 0, 1, 1]
            else:
                assert not tokenizer.decode(row["prompt"][slot]).startswith("locate")
    assert 20 < seen < 40


# ---- rows ----


def test_row_has_the_fields_of_a_batch(record, tokenizer):
    row = encoder(tokenizer).map_with_index(7, record.encode())
    SPEC.check({name: np.asarray(value)[None] for name, value in row.items()})
    assert row["example"] == 7 and row["bad"] == 0
    assert encoder(tokenizer).map_with_index(2**31 + 5, record.encode())["example"] == 5


def test_texts_in_a_row(tokenizer):
    segments = [
        Segment(WHOLE_IMAGE, "refer", "the red box"),
        Segment(Region.from_box([0, 0, 0.5, 0.5]), "", "red box"),
        Segment(WHOLE_IMAGE, "locate red box", ""),
    ]
    rng = np.random.default_rng(0)
    image = np.full((16, 16, 3), 9, np.uint8)
    row = encode_row(image, segments, SPEC, tokenizer, rng=rng, name="x")
    ids = {word: tokenizer.encode(word)[0] for word in ("refer", "the", "red", "box", "locate")}
    assert row["prompt"].tolist() == [
        [ids["refer"], 0, 0, 0, 0, 0],
        [0] * 6,
        [ids["locate"], ids["red"], ids["box"], 0, 0, 0],
        [0] * 6,
    ]
    eos = tokenizer.eos_id
    assert row["target"][0].tolist() == [ids["the"], ids["red"], ids["box"], eos, 0, 0, 0]
    assert row["target"][1].tolist() == [ids["red"], ids["box"], eos, 0, 0, 0, 0]
    assert not row["target"][2:].any()
    np.testing.assert_array_equal(row["target_weight"], row["target"] > 0)
    assert (row["image"] == 9).all()
    for name in ("region_points", "region_box", "region_mask", "target_box"):
        assert not row[name][3].any()


@pytest.mark.parametrize(
    ("prompt", "target", "problem"),
    [
        ("refer " * 7, "red", "a prompt of 7 tokens, prompt_length is 6"),
        ("refer", "red " * 7, "a target of 8 tokens, target_length is 7"),
        ("refer " * 6, "red " * 5, r"a text of 6 \+ 6 tokens, text_length is 11"),
    ],
)
def test_texts_that_do_not_fit_are_named(tokenizer, prompt, target, problem):
    prompt, target = prompt.strip(), target.strip()
    segment = Segment(WHOLE_IMAGE, prompt, target)
    with pytest.raises(DataError, match=f"coco:a.jpg: {problem}: '{prompt}' → '{target}'"):
        encode_row(0, [segment], SPEC, tokenizer, rng=np.random.default_rng(0), name="coco:a.jpg")
    with pytest.raises(DataError, match="5 segments for 4 slots"):
        encode_row(0, [segment] * 5, SPEC, tokenizer, rng=None, name="")


def test_long_texts_are_left_out_on_request(record, tokenizer):
    spec = dataclasses.replace(SPEC, target_length=5)
    long = Annotation("caption", "all of it here red", "5")
    record = dataclasses.replace(record, annotations=[long, *record.annotations])
    with pytest.raises(DataError, match="a target of 6 tokens"):
        for index in range(20):
            encoder(tokenizer, spec).map_with_index(index, record.encode())
    for index in range(20):
        row = encoder(tokenizer, spec, on_long="skip").map_with_index(index, record.encode())
        assert row["target_weight"].any(axis=1).all()


def test_long_texts_are_cut_on_request(tokenizer):
    def cut_row(prompt, target, **changes):
        spec = dataclasses.replace(SPEC, **changes)
        segments = [Segment(WHOLE_IMAGE, prompt, target), Segment(WHOLE_IMAGE, "refer", "red")]
        rng = np.random.default_rng(0)
        row = encode_row(0, segments, spec, tokenizer, rng=rng, name="", truncate=True)
        texts = [np.trim_zeros(row[name][0]) for name in ("prompt", "target")]
        weights = row["target_weight"][0].sum()
        assert weights == len(texts[1]) and row["target"][1].any()
        return *(tokenizer.decode(text) for text in texts), len(texts[1]), row["long_texts"]

    long = "all of it here red box the"  # 7 words
    assert cut_row("refer", "all of it here red box") == ("refer", "all of it here red box", 7, 0)
    # A target that is cut has no eos: 7 words for 7 tokens.
    assert cut_row("refer", f"{long} box") == ("refer", long, 7, 1)
    assert cut_row(long, "red") == ("all of it here red box", "red", 2, 1)
    # 6 + 4 tokens in 8: the target makes room, down to one token.
    assert cut_row("all of it here red box", "the red box", text_length=8)[1:] == ("the red", 2, 1)
    assert cut_row(long, "the red", prompt_length=8, text_length=7) == (long[:-4], "the", 1, 1)


def test_a_box_is_never_cut(tokenizer):
    annotation = Annotation("expression", "all of it here red box", "1", Region(box=[0, 0, 0.5, 1]))
    segment = tasks.segment("locate", annotation, 32)
    for changes, prompt in (
        ({}, "locate all of it here red"),  # 6 of 7 tokens, and 5 of a box
        ({"text_length": 9}, "locate all of it"),
        ({"text_length": 5}, ""),
    ):
        spec = dataclasses.replace(SPEC, **changes)
        rng = np.random.default_rng(0)
        row = encode_row(0, [segment], spec, tokenizer, rng=rng, name="", truncate=True)
        assert tokenizer.decode(row["target"][0]) == segment.target and row["long_texts"] == 1
        assert tokenizer.decode(np.trim_zeros(row["prompt"][0])) == prompt
    spec = dataclasses.replace(SPEC, target_length=4, text_length=10)
    with pytest.raises(DataError, match="a target of 5 tokens, target_length is 4"):
        encode_row(0, [segment], spec, tokenizer, rng=None, name="", truncate=True)


def test_long_texts_are_counted(record, tokenizer):
    spec = dataclasses.replace(SPEC, target_length=5)
    long = [Annotation("caption", "all of it here red", str(n)) for n in range(3)]
    for on_long, counted in (("truncate", 3), ("skip", 3)):
        encode = encoder(tokenizer, spec, on_long=on_long)
        data = dataclasses.replace(record, annotations=long).encode()
        row = encode.map_with_index(0, data)
        assert row["long_texts"] == counted
        filled = row["target_weight"].any(axis=1).sum()
        assert filled == (3 if on_long == "truncate" else 0)


def test_bad_images_stop_or_weigh_nothing(record, tokenizer):
    bad = dataclasses.replace(record, image=record.image[:60]).encode()
    with pytest.raises(BadImage, match="coco:train2017/1.png"):
        encoder(tokenizer).map_with_index(3, bad)
    row = encoder(tokenizer, on_bad="skip").map_with_index(3, bad)
    assert (row["bad"], row["example"]) == (1, 3)
    assert not any(row[name].any() for name in row.keys() - {"bad", "example"})


# ---- chance ----


def test_an_example_is_a_function_of_seed_and_place(record, tokenizer):
    def rows(seed, places):
        return {i: encoder(tokenizer, seed=seed).map_with_index(i, record.encode()) for i in places}

    first, again = rows(0, range(6)), rows(0, reversed(range(6)))
    for place, row in first.items():
        for name, value in row.items():
            np.testing.assert_array_equal(value, again[place][name])
    different = [row["region_points"].tobytes() for row in first.values()]
    different += [row["region_points"].tobytes() for row in rows(1, range(6)).values()]
    assert len(set(different)) == 12


def test_tasks_and_shapes_come_in_their_shares(record, tokenizer):
    few = dataclasses.replace(SPEC, regions=2)
    shares = {"mask": 0.5, "box": 0.1, "points": 0.2, "click": 0.2}
    encode = encoder(tokenizer, few, **{f"as_{way}": share for way, share in shares.items()})
    shapes, prompts = collections.Counter(), collections.Counter()
    for index in range(1500):
        for segment in encode.draw(record, example_rng(0, index)).segments:
            prompts[segment.prompt] += 1
            if segment.prompt in ("describe", "refer"):
                kind, points = segment.region.kind, segment.region.points
                shapes["click" if kind == "points" and len(points) == 1 else kind] += 1
    for share in prompts.values():  # five candidates, two of them a time
        assert share / 3000 == pytest.approx(0.2, abs=0.03)
    total = sum(shapes.values())
    click = shares["points"] / SPEC.points  # so many of the scribbles are no more than that
    shares = shares | {"points": shares["points"] - click, "click": shares["click"] + click}
    for shape, share in shares.items():
        assert shapes[shape] / total == pytest.approx(share, abs=0.05)


def test_parts_are_one_side_of_the_mask_and_say_so(record, tokenizer):
    whole = record.annotations[0].region.mask
    shares = []
    for seed in range(200):
        side = cut(record.annotations[0].region, np.random.default_rng(seed))
        if side is not None:
            assert not (side.mask & ~whole).any()
            rest = RunRegion.from_mask(whole & ~side.mask)
            # Two convex sides of a rectangle: each row of either is one run.
            for half in (side.mask, rest.mask):
                assert (np.diff(half.astype(int), axis=1) == 1).sum(1).max() <= 1
            shares.append(side.area() / record.annotations[0].region.area())
    assert len(shares) > 80 and 0.2 <= min(shares) < 0.35 and 0.65 < max(shares) <= 0.8

    encode = encoder(tokenizer, as_mask=0.5, as_box=0.0, as_points=0.0, as_part=0.5)
    targets = collections.Counter()
    for index in range(400):
        for segment in encode.draw(record, example_rng(0, index)).segments:
            if segment.prompt in ("describe", "refer"):
                part = segment.target.startswith("part of ")
                assert part == (segment.region.area() < record.annotations[0].region.area())
                targets[part] += 1
    # Half of them are cut, of which those with too little on a side stay whole.
    assert 0.2 < targets[True] / targets.total() < 0.4


def test_two_things_are_more_than_one_and_say_so(record, tokenizer):
    blue = RunRegion.from_mask(np.pad(np.ones((8, 10), bool), ((0, 32), (50, 0))))
    red = record.annotations[0].region
    annotations = [*record.annotations[:2], Annotation("phrase", "box", "5", blue)]
    two = dataclasses.replace(record, annotations=annotations)
    encode = encoder(tokenizer, as_mask=0.5, as_box=0.0, as_points=0.0, as_more=0.5)
    alone = {"red box": red.mask, "the red box": red.mask, "box": blue.mask}
    targets = collections.Counter()
    for index in range(200):
        for segment in encode.draw(two, example_rng(0, index)).segments:
            if segment.prompt in ("describe", "refer"):
                more = segment.target.startswith("more than ")
                shown = alone[segment.target.removeprefix("more than ")]
                shown = red.mask | blue.mask if more else shown
                np.testing.assert_array_equal(segment.region.mask, shown)
                targets[more] += 1
    assert targets[True] / targets.total() == pytest.approx(0.5, abs=0.06)
    # Where there is no other thing, it is shown by itself.
    segments = encode.draw(record, example_rng(0, 0)).segments
    assert not any(segment.target.startswith("more than") for segment in segments)


def test_answers_to_questions_are_no_part_of_anything(record, tokenizer):
    red = record.annotations[0].region
    asked = Annotation("question", "red box", "6", red, {"answer": "the red box"})
    of_box = dataclasses.replace(record, annotations=[asked])
    encode = encoder(tokenizer, as_mask=0.0, as_box=0.0, as_points=0.0, as_part=0.5, as_more=0.5)
    for index in range(20):
        [segment] = encode.draw(of_box, example_rng(0, index)).segments
        assert segment.target == "the red box" and segment.region is asked.region


def test_parts_whose_text_does_not_fit_are_shown_whole(record, tokenizer):
    tight = dataclasses.replace(SPEC, target_length=4, text_length=10)  # "the red box" and eos
    encode = encoder(tokenizer, tight, as_mask=0.0, as_box=0.0, as_points=0.0, as_part=1.0)
    encode = dataclasses.replace(encode, data=dataclasses.replace(encode.data, on_long="skip"))
    seen = collections.Counter()
    for index in range(100):
        for segment in encode.draw(record, example_rng(0, index)).segments:
            seen[segment.target] += 1
    assert seen["the red box"] and seen["red box"]
    assert not any(text.startswith("part of") for text in seen)


@pytest.mark.parametrize("way", ["hidden", "shuffled"])
def test_regions_hidden_and_points_out_of_order(record, tokenizer, way):
    points = {"as_mask": 0.0, "as_box": 0.0, "as_points": 1.0}
    encode = encoder(tokenizer, **points, show_regions=way)
    as_is = encoder(tokenizer, **points)
    trace = record.annotations[3].region.points
    seen, moved = collections.Counter(), 0
    for index in range(60):
        segments = encode.draw(record, example_rng(0, index)).segments
        first = as_is.draw(record, example_rng(0, index)).segments[0].region
        for place, segment in enumerate(segments):
            task = segment.prompt.split(" ")[0]
            seen[task] += 1
            if way == "hidden" or task in ("", "locate"):
                assert segment.region is WHOLE_IMAGE
            elif task == "narrate":
                found = segment.region.points
                assert (np.diff(found[:, 0]) < 0).any() and (np.diff(trace[:, 0]) > 0).all()
                assert sorted(found.tolist()) == sorted(trace.tolist())
            elif place == 0:  # nothing else was drawn before it: the same scribble
                assert sorted(segment.region.points.tolist()) == sorted(first.points.tolist())
                moved += bool((segment.region.points != first.points).any())
    assert len(seen) == 5 and (way == "hidden" or moved > 5)
