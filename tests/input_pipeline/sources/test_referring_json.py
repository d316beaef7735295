"""Expressions in plain JSON: hand-made entries, and the real file with blank photographs."""

import collections
import json

import numpy as np
import pytest
from reading import edit, photograph, read

from input_pipeline.errors import DataError
from input_pipeline.sources.referring_json import ReferringJson

PHOTO = "val2014/COCO_val2014_000000000042.jpg"  # 60 x 40 pixels


def write(root, entries, name="refs_val.json"):
    (root / name).write_text(json.dumps(entries))
    return root


@pytest.fixture
def root(tmp_path):
    photograph(tmp_path / PHOTO)
    photograph(tmp_path / "b.png")
    return tmp_path


def boxes(record):
    return [
        np.round(a.region.bounding_box() * (60, 40, 60, 40), 3).tolist() for a in record.annotations
    ]


def test_entries_of_an_image_are_gathered(root):
    write(
        root,
        [
            {"image": PHOTO, "sentence": "the  left one", "bbox": [0, 10, 30, 40]},
            {"image": "b.png", "sentence": "b", "bbox": [1, 2, 3, 4], "width": 60, "height": 40},
            {"image": PHOTO, "problem": "Find this: a man: old.", "solution": [30.5, 0, 60, 20]},
            {"image": PHOTO, "sentences": ["x", " ", "y"], "box": [1, 2, 3, 4]},
        ],
    )
    records, tally = read(ReferringJson(root, root), "val")
    assert tally == {"empty_expressions": 1}
    assert [(r.file_name, r.coco_id) for r in records] == [(PHOTO, 42), ("b.png", None)]
    assert [(a.kind, a.id, a.text) for a in records[0].annotations] == [
        ("expression", "0", "the left one"),
        ("expression", "2", "a man: old"),
        ("expression", "3/0", "x"),
        ("expression", "3/2", "y"),
    ]
    assert boxes(records[0]) == [[0, 10, 30, 40], [30.5, 0, 60, 20], [1, 2, 3, 4], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("form", "box"),
    [
        ("xyxy", [15, 10, 45, 30]),
        ("xywh", [15, 10, 30, 20]),
        ("unit", [0.25, 0.25, 0.75, 0.75]),
        ("thousand", [250, 250, 750, 750]),
    ],
)
def test_forms_of_a_box(root, form, box):
    write(root, [{"image": PHOTO, "q": "one", "where": box, "sentence": "no", "box": [0, 0, 1, 1]}])
    source = ReferringJson(root, root, text="q", box="where", form=form)
    (record,), tally = read(source, "val")
    assert not tally and boxes(record) == [[15, 10, 45, 30]]
    assert record.annotations[0].text == "one"


def test_no_target_and_odd_boxes(root):
    cases = [
        None,
        [],
        [50, 30, 90, 35],
        [70, 0, 80, 10],
        [5, 5, 5, 9],
        [[0, 0, 9, 2], [4, 1, 6, 9]],
    ]
    write(root, [{"image": PHOTO, "text": f"{n}", "box": box} for n, box in enumerate(cases)])
    (record,), tally = read(ReferringJson(root, root), "val")
    assert [a.text for a in record.annotations] == ["2", "5"]
    assert tally == {
        "expressions_without_target": 2,
        "boxes_clipped": 1,
        "boxes_without_area": 2,
        "expressions_without_region": 2,
    }
    assert boxes(record)[0] == [50, 30, 60, 35]
    assert record.annotations[1].region.mask.sum() == 9 * 2 + 2 * 8 - 2  # two boxes, one overlap
    write(root, [{"image": PHOTO, "text": "x", "box": None}])
    nothing = {"expressions_without_target": 1, "images_without_annotations": 1}
    assert read(ReferringJson(root, root), "val") == ([], nothing)


def test_files(root):
    write(root, [{"image": PHOTO, "text": "x", "box": [1, 2, 3, 4]}])
    source = ReferringJson(root, root)
    assert [path.name for path in source.files("val")] == ["refs_val.json"]
    alone = ReferringJson(root / "refs_val.json", root)
    assert len(read(alone, "train")[0]) == 1
    write(root, [], "other_val.json")
    with pytest.raises(DataError, match="has other_val.json, refs_val.json; give one of them"):
        source.files("val")
    write(root, [], "val.json")
    assert [path.name for path in source.files("val")] == ["val.json"]
    with pytest.raises(DataError, match="no file .*train.json"):
        source.files("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("image"), "refs_val.json: entry 0 has no `image`"),
        (lambda e: e.pop("text"), "entry 0 has none of normal_caption, .*text=KEY"),
        (lambda e: e.pop("box"), "entry 0 has none of bbox, .*box=KEY"),
        (lambda e: e.update(text=3), "`text` is a int"),
        (lambda e: e.update(text=["a", 3]), "`text` holds something that is not text"),
        (lambda e: e.update(box=[1, 2, 3]), "is not four numbers"),
        (lambda e: e.update(box=[1, 2, 3, "x"]), "is not four numbers"),
        (lambda e: e.update(box=[30, 2, 3, 4]), "is out of order"),
        (lambda e: e.update(box="1 2 3 4"), "`box` is a str"),
        (lambda e: e.update(width=61), "`width` is 61, .*42.jpg has 60x40 pixels"),
        (lambda e: e.update(image="c.png"), "c.png: No such file"),
    ],
)
def test_errors(root, change, message):
    write(root, [{"image": PHOTO, "text": "x", "box": [1, 2, 3, 4]}])
    edit(root / "refs_val.json", lambda entries: change(entries[0]))
    with pytest.raises(DataError, match=message):
        read(ReferringJson(root, root), "val")


def test_options_that_do_not_fit(root):
    write(root, [{"image": PHOTO, "text": "x", "box": [15, 10, 45, 30]}])
    for form, limit in (("unit", 1), ("thousand", 1000)):
        edit(root / "refs_val.json", lambda e: e[0].update(box=[15, 10, 1045, 30]))
        with pytest.raises(DataError, match=f"goes beyond {limit}"):
            read(ReferringJson(root, root, form=form), "val")
    with pytest.raises(DataError, match="form=xyhw is not known; did you mean `xywh`"):
        ReferringJson(root, root, form="xyhw")
    with pytest.raises(DataError, match="has no `txt`; did you mean `text`"):
        read(ReferringJson(root, root, text="txt"), "val")


def test_real_expressions(shared_data, tmp_path):
    path = shared_data / "refcocos/refcocos_test.json"
    entries = json.loads(path.read_text())
    for entry in entries:
        if not (tmp_path / entry["image"]).exists():
            photograph(tmp_path / entry["image"], entry["width"], entry["height"])
    records, tally = read(ReferringJson(path.parent, tmp_path), "test")
    found = {a.id: (r, a) for r in records for a in r.annotations}
    empty = [entry for entry in entries if entry["categories"]["empty_case"]]
    assert tally["expressions_without_target"] == len(empty) == 25
    assert len(found) == len(entries) - len(empty) == 481
    names = collections.Counter(entry["image"] for entry in entries if entry["solution"])
    assert {r.file_name: len(r.annotations) for r in records} == names
    for number, entry in enumerate(entries):
        if not entry["solution"]:
            assert str(number) not in found
            continue
        record, annotation = found[str(number)]
        assert record.coco_id == int(entry["image"][-16:-4])
        assert annotation.text == " ".join(entry["normal_caption"].split())
        # The file says the same box a second time, in thousandths.
        box = annotation.region.bounding_box()
        assert np.abs(box * 1000 - entry["normalized_solution"]).max() <= 1.01
    # The instruction holds the same text, and the thousandths the same box.
    source = ReferringJson(path, tmp_path, "problem", "normalized_solution", "thousand")
    again, _ = read(source, "test")
    for one, other in zip(records, again, strict=True):
        assert [a.text for a in one.annotations] == [a.text for a in other.annotations]
        for a, b in zip(one.annotations, other.annotations, strict=True):
            assert np.abs(a.region.bounding_box() - b.region.bounding_box()).max() <= 0.00101
