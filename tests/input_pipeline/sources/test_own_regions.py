"""The format that users write by hand: its documented example, and every mistake by its line."""

import collections
import gzip
import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.parts import differences
from input_pipeline.plan import Plan
from input_pipeline.records import Record
from input_pipeline.sources import own_regions
from input_pipeline.tasks import tasks_of

WIDTH, HEIGHT = 300, 260  # of the documented example
SMALL = [40, 20]  # of the others


def write(root, *lines, size=SMALL):
    (root / "images/beach").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / "images/beach/17.jpg")
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def read(root):
    tally = collections.Counter()
    source = sources.open_source("own_regions", root, root / "images")
    items = pickle.loads(pickle.dumps(list(source.items("train", tally))))
    return [record for item in items if (record := source.record(item, tally))], +tally


def regions_of(root, *entries):
    """(annotations, tally) of a line with these regions."""
    records, tally = read(write(root, {"image": "beach/17.jpg", "regions": entries}))
    return [a for record in records for a in record.annotations], tally


def documented():
    """The line in the module's docstring."""
    text = own_regions.__doc__
    return json.JSONDecoder().raw_decode(text[text.index('{"image"') :])[0]


def test_the_documented_example(tmp_path):
    write(tmp_path, documented(), size=(WIDTH, HEIGHT))
    (tmp_path / "masks").mkdir()
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[200:230, 270:290] = 255
    Image.fromarray(drawn).save(tmp_path / "masks/17-2.png")
    (record,), tally = read(tmp_path)
    assert not tally
    assert [(a.kind, a.text, a.id) for a in record.annotations] == [
        ("phrase", "kite", "region 0"),
        ("expression", "the dog on the left", "region 1"),
        ("expression", "the wet dog", "region 1"),
        ("phrase", "dog", "region 2"),
        ("narration", "and here the waves roll in", "region 3"),
        ("caption", "A kite over a beach with two dogs.", "caption 0"),
        ("question", "How many dogs are there?", "question 0"),
        ("question", "What colour is it?", "question 1"),
    ]
    kite, left, wet, dog, waves, _, many, colour = record.annotations
    np.testing.assert_allclose(kite.region.box * (300, 260, 300, 260), [12, 30, 96, 140], rtol=1e-6)
    assert left.geometry is wet.geometry
    corners = np.array([[210, 180], [262, 184], [240, 251]])
    a, b, c = corners  # the shoelace formula
    area = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2
    assert abs(left.region.mask.sum() - area) < 0.02 * area
    np.testing.assert_allclose(left.region.bounds, (210, 180, 262, 251), atol=1)
    np.testing.assert_array_equal(dog.region.mask, drawn > 0)
    np.testing.assert_allclose(
        waves.region.points * (300, 260), [[5, 200], [40, 204.5], [90, 210]], rtol=1e-6
    )
    assert many.geometry is None and many.extra == {"answer": "2"}
    np.testing.assert_array_equal(colour.region.box, kite.region.box)
    assert [tasks_of(a) for a in (kite, left, waves)] == [
        ("describe",),
        ("refer", "locate"),
        ("narrate",),
    ]
    again = Record.decode(record.encode())
    assert [(a.kind, a.text, a.id, a.extra) for a in again.annotations] == [
        (a.kind, a.text, a.id, a.extra) for a in record.annotations
    ]


def test_the_keys_are_those_that_are_documented():
    described = set(re.findall(r"^  (\w+) ", own_regions.__doc__, re.M)) - {"python"}
    assert described == {*own_regions._LINE, *own_regions._REGION, *own_regions._QUESTION}


def test_masks_of_every_form_are_the_same(tmp_path):
    expected = np.zeros(SMALL[::-1], bool)
    expected[2:6, 3:5] = True
    Image.fromarray(expected).save(tmp_path / "white.png")
    Image.fromarray(expected.astype(np.uint8)).save(tmp_path / "dark.png")  # grey of 1
    Image.fromarray(expected.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    counts = [62, 4, 16, 4, 714]
    found, tally = regions_of(
        tmp_path,
        {"text": "a", "mask": "white.png"},
        {"text": "b", "mask": "dark.png"},
        {"text": "c", "mask": "deep.png"},
        {"text": "d", "mask": [[3, 2, 5, 2, 5, 6, 3, 6]]},
        {"text": "e", "mask": {"size": SMALL[::-1], "counts": counts}},
    )
    assert len(found) == 5 and not tally
    for annotation in found:
        np.testing.assert_array_equal(annotation.region.mask, expected)


def test_files_are_the_lines_and_the_masks_that_they_name(tmp_path):
    """What a part is made of; masks that only other texts speak of are not among them."""
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.new("L", SMALL, 255).save(tmp_path / name)
    box = {"text": 'the "mask": "d.png"', "box": [0, 0, 9, 9], "provenance": {"mask": "d.png"}}
    write(
        tmp_path,
        {"image": "beach/17.jpg", "regions": [box, {"text": "x", "mask": "b.png"}]},
        {"image": "beach/17.jpg", "questions": [{"question": "?", "mask": "a.png"}]},
        {"image": "beach/17.jpg", "regions": [{"text": "x", "mask": "b.png"}]},
        {"image": "beach/17.jpg", "regions": [{"text": "x", "mask": "gone.png"}]},
    )
    source = sources.open_source("own_regions", tmp_path, tmp_path / "images")
    assert [path.name for path in source.files("train")] == ["train.jsonl", "b.png", "a.png"]
    inputs = Plan("own", "train", source).inputs()
    assert inputs["files"].keys() == {"train.jsonl", "a.png", "b.png"}
    Image.new("L", SMALL, 0).save(tmp_path / "b.png")
    (changed,) = differences(inputs, Plan("own", "train", source).inputs()).split(";")
    assert changed.startswith("b.png: ")


def test_what_lies_outside_is_cut_or_counted(tmp_path):
    found, tally = regions_of(
        tmp_path,
        {"text": "cut", "box": [30, -5, 50, 10]},
        {"text": ["gone", "away"], "box": [40, 0, 50, 10]},
        {"text": "thin", "mask": [[3.1, 2, 3.2, 2, 3.2, 6]]},
        {"text": "trace", "points": [[-2, 5], [20, 10]], "provenance": {"by": "me"}},
        {"text": "astray", "points": [[-2, 5], [41, 30]]},
    )
    assert [a.text for a in found] == ["cut", "trace"]
    np.testing.assert_allclose(found[0].region.box, [0.75, 0, 1, 0.5])
    np.testing.assert_allclose(found[1].region.points, [[-0.05, 0.25], [0.5, 0.5]])
    assert found[1].extra == {"provenance": {"by": "me"}}
    assert tally == {
        "boxes_clipped": 1,
        "boxes_without_area": 1,
        "masks_without_pixel": 1,
        "points_all_outside": 1,
        "points_outside_image": 1,
        "texts_without_region": 4,
    }
    found, tally = regions_of(tmp_path, {"text": "gone", "box": [40, 0, 50, 10]})
    assert found == [] and tally["images_without_annotations"] == 1


def test_captions_questions_and_ids(tmp_path):
    line = {
        "image": "beach/17.jpg",
        "size": SMALL,
        "coco_id": 391895,
        "caption": ["one ", "two"],
        "questions": [
            {"question": "Why?"},
            {"question": "Who?", "answers": ["he", "she"], "points": [[20, 10]]},
            {"question": "Gone?", "answer": "yes", "box": [40, 0, 50, 10]},
        ],
    }
    (record,), tally = read(write(tmp_path, line))
    assert [(a.text, a.extra) for a in record.annotations] == [
        ("one", {}),
        ("two", {}),
        ("Why?", {}),
        ("Who?", {"answers": ["he", "she"]}),
    ]
    assert record.annotations[3].region.points.tolist() == [[0.5, 0.5]]
    assert (record.coco_id, record.file_name) == (391895, "beach/17.jpg")
    assert tally == {"boxes_without_area": 1, "texts_without_region": 1}


LINE = {"image": "beach/17.jpg", "caption": "fine"}
KITE = {"text": "kite", "box": [1, 2, 9, 12]}
ASKED = {"question": "Why?", "answer": "so"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgae": "a.jpg"}, "line 2: `imgae` is not a key of this format; did you mean `image`"),
        ({"image": 17}, "line 2: `image` is a int"),
        ({"caption": None}, "line 2: `caption` is None, expected a text"),
        ({"caption": []}, "line 2: `caption` is empty"),
        ({"caption": ["a", " "]}, "line 2: `caption` is ' ', expected a text"),
        ({"regions": KITE}, "line 2: `regions` is a dict"),
        ({"regions": ["kite"]}, "line 2, region 0 is a str, expected an object"),
        ({"questions": [ASKED, "Why?"]}, "line 2, question 1 is a str"),
        ({"size": [20, 40]}, r"line 2: beach/17.jpg has 40x20 pixels, its `size` says \[20, 40\]"),
        ({"coco_id": "17"}, "line 2: `coco_id` is a str"),
    ],
)
def test_mistakes_in_a_line(tmp_path, change, message):
    write(tmp_path, LINE, {**LINE, **change})
    with pytest.raises(DataError, match=r"train.jsonl, " + message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3, 4]}, "`bbox` is not a key of this format; did you mean `box`"),
        ({"text": ""}, "`text` is '', expected a text"),
        ({"text": []}, "`text` is empty"),
        ({"kind": "expresion"}, "kind 'expresion' is none of .*did you mean `expression`"),
        ({"kind": 1}, "`kind` is a int"),
        ({"points": [[1, 2]]}, "has both `box` and `points`"),
        ({"box": [9, 2, 1, 12]}, "out of order; .*not x, y, width, height"),
        ({"box": [0.1, 0.2, 0.5, 0.5]}, "a box is in pixels, not 0…1"),
        ({"box": None, "points": [[0.1, 0.2]]}, "has both"),
        ({"provenance": "me"}, "`provenance` is a str"),
    ],
)
def test_mistakes_in_a_region(tmp_path, change, message):
    with pytest.raises(DataError, match="train.jsonl, line 1, region 1:? .*" + message):
        regions_of(tmp_path, KITE, {**KITE, **change})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({}, "region 0 has none of box, mask, points"),
        ({"points": []}, r"region 0: points \[\] are not a list of \[x, y\]"),
        ({"points": [1, 2]}, "region 0: points .* are not a list of"),
        ({"points": [[1, 2], [3]]}, "region 0: "),
        ({"points": [[0.5, 0.5], [0.6, 0.5]]}, "in pixels, not 0…1"),
        ({"points": [[500, 2]]}, "region 0: point 0 .* more than one image side outside"),
        ({"mask": [[1, 2, 3, 4]]}, "region 0: polygon 0 has 4 numbers"),
        ({"mask": {"size": [40, 20], "counts": [800]}}, r"region 0: RLE of size \[40, 20\]"),
        ({"mask": "none.png"}, "region 0: mask .*none.png: No such file"),
        ({"mask": "train.jsonl"}, "region 0: mask .*cannot identify image"),
        ({"mask": "colour.png"}, r"mask .*colour.png is coloured \(mode RGB\); save it as grey"),
        ({"mask": "palette.png"}, r"is coloured \(mode P\)"),
        ({"mask": "large.png"}, "region 0: mask large.png has 41x20 pixels, its image 40x20"),
        ({"mask": "half.png"}, "region 0: mask .*half.png: "),
    ],
)
def test_shapes_that_cannot_be(tmp_path, shape, message):
    for name, mode, width in (("colour", "RGB", 40), ("palette", "P", 40), ("large", "L", 41)):
        Image.new(mode, (width, 20), 1).save(tmp_path / f"{name}.png")
    Image.effect_noise(SMALL, 90).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:300])
    with pytest.raises(DataError, match="train.jsonl, line 1, .*" + message):
        regions_of(tmp_path, {"text": "kite", **shape})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"answer": "so"}, "question 0 has no `question`"),
        ({**ASKED, "anwser": "so"}, "`anwser` is not a key of this format; did you mean `answer`"),
        ({**ASKED, "answer": 2}, "question 0: `answer` is 2, expected a text"),
        ({**ASKED, "answers": "so"}, "question 0: `answers` is a str"),
        ({**ASKED, "box": [1, 2, 3]}, "question 0: box .* is not x0, y0, x1, y1"),
    ],
)
def test_mistakes_in_a_question(tmp_path, entry, message):
    write(tmp_path, {"image": "beach/17.jpg", "questions": [entry]})
    with pytest.raises(DataError, match="train.jsonl, line 1, .*" + message):
        read(tmp_path)


def test_files_that_are_no_json_lines(tmp_path):
    source = own_regions.OwnRegions(tmp_path, tmp_path)
    path = tmp_path / "train.jsonl"
    for content, message in (
        (gzip.compress(b"{}"), r"train.jsonl is compressed \(gzip\): unpack it"),
        (
            b'[\n{"image": "a.jpg"}\n]',
            r"line 1, column 1: .* \(each line is an object of its own",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            list(source.items("train", collections.Counter()))
    path.rename(tmp_path / "train.jsonl.gz")
    with pytest.raises(DataError, match="no file .*train.jsonl, but train.jsonl.gz: unpack it"):
        source.files("train")


def test_lines_without_content(tmp_path):
    write(tmp_path, {"image": "beach/17.jpg", "size": SMALL})
    with pytest.raises(DataError, match="line 1 has none of regions, caption, questions"):
        read(tmp_path)
    write(tmp_path, {"caption": "fine"})
    with pytest.raises(DataError, match="line 1 has no `image`"):
        read(tmp_path)
