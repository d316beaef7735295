"""Visual Genome: files written by hand in the published form, and the real sample."""

import collections
import dataclasses
import json
import pickle

import numpy as np
import pytest
from reading import edit, photograph, read

from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.sources.visual_genome import VisualGenome

SITE = "https://cs.stanford.edu/people/rak248"


def write(root, **changes):
    """Three images of 60 x 40; what is said of the second one comes first in every file."""
    content = {
        "image_data": [
            image(1, "VG_100K_2/1.jpg", coco_id=None),
            image(2, "VG_100K/2.jpg", coco_id=547168),
            image(3, "VG_100K/3.jpg", coco_id=None),
        ],
        "region_descriptions": [
            {"id": 2, "regions": [region(20, "a  dog é ", 10, 10, 20, 10)]},
            {
                "id": 1,
                "regions": [
                    region(10, "the clock", 6, 4, 30, 20),
                    region(11, "leaves the image", 50, 30, 20, 20),
                    region(12, "outside", 60, 10, 5, 5),
                    region(13, "thin", 5, 5, 0, 5),
                    region(14, " ", 5, 5, 5, 5),
                ],
            },
        ],
        "objects": [
            {"image_id": 2, "objects": [thing(200, "dog", 10, 10, 20, 10)]},
            {
                "image_id": 1,
                "objects": [
                    thing(100, "white clock", 6, 4, 30, 20),
                    thing(101, "tree", 0, 0, 60, 40),
                    {**thing(102, "x", 0, 0, 60, 40), "names": [" "]},
                ],
            },
        ],
        "attributes": [
            {
                "image_id": 1,
                "attributes": [
                    {
                        **thing(100, "clock", 6, 4, 30, 20),
                        "attributes": ["round", "White", "on a wall", "Round", "", " old "],
                    },
                    thing(101, "tree", 0, 0, 60, 40),
                    {**thing(103, "man", 30, 10, 15, 30), "attributes": ["standing"]},
                ],
            },
        ],
        "question_answers": [
            {
                "id": 1,
                "qas": [
                    question(900, "What color is the clock?", "Green."),
                    question(901, "Why? ", ""),
                ],
            },
        ],
    }
    for name, entries in {**content, **changes}.items():
        (root / f"{name}.json").write_text(json.dumps(entries, ensure_ascii=False))
    for name in ("VG_100K_2/1.jpg", "VG_100K/2.jpg", "VG_100K/3.jpg"):
        photograph(root / name, 60, 40)
    return VisualGenome(root, root)


def image(image_id, file_name, coco_id):
    size = {"width": 60, "height": 40}
    return {"image_id": image_id, "url": f"{SITE}/{file_name}", **size, "coco_id": coco_id}


def region(region_id, phrase, x, y, width, height):
    box = {"x": x, "y": y, "width": width, "height": height}
    return {"region_id": region_id, "image_id": 0, "phrase": phrase, **box}


def thing(object_id, name, x, y, w, h):
    return {"object_id": object_id, "names": [name], "x": x, "y": y, "w": w, "h": h}


def question(qa_id, text, answer):
    return {"qa_id": qa_id, "question": text, "answer": answer, "a_objects": [], "q_objects": []}


def pixels(annotation):
    return np.rint(annotation.region.box * (60, 40, 60, 40)).astype(int).tolist()


def test_all_parts(tmp_path):
    records, tally = read(write(tmp_path))
    assert [(r.image_id, r.coco_id) for r in records] == [("1", None), ("2", 547168)]
    first, second = records
    assert first.file_name == "VG_100K_2/1.jpg" and second.file_name == "VG_100K/2.jpg"
    assert {a.id: (a.kind, a.text) for a in first.annotations} == {
        "region/10": ("phrase", "the clock"),
        "region/11": ("phrase", "leaves the image"),
        "object/100": ("phrase", "round old white clock"),  # of attributes.json, in its order
        "object/101": ("phrase", "tree"),
        "object/103": ("phrase", "standing man"),
        "question/900": ("question", "What color is the clock?"),
    }
    boxes = {a.id: pixels(a) for a in first.annotations if a.kind == "phrase"}
    assert boxes == {
        "region/10": [6, 4, 36, 24],
        "region/11": [50, 30, 60, 40],
        "object/100": [6, 4, 36, 24],
        "object/101": [0, 0, 60, 40],
        "object/103": [30, 10, 45, 40],
    }
    (asked,) = [a for a in first.annotations if a.kind == "question"]
    assert asked.extra == {"answer": "Green."} and asked.geometry is None
    assert [a.text for a in second.annotations] == ["a dog é", "dog"]
    assert tally == {
        "images_without_annotations": 1,
        "boxes_clipped": 1,
        "boxes_without_area": 2,
        "regions_without_text": 1,
        "objects_without_name": 1,
        "attributes_of_several_words": 1,
        "questions_without_text": 1,
    }


def test_parts(tmp_path):
    source = write(tmp_path)
    (tmp_path / "attributes.json").unlink()
    with pytest.raises(DataError, match="no file .*attributes.json"):
        source.files("train")
    some = dataclasses.replace(source, parts="objects,questions")
    names = [path.name for path in some.files("train")]
    assert names == ["image_data.json", "objects.json", "question_answers.json"]
    records, _ = read(some)
    texts = {a.text for r in records for a in r.annotations}
    assert texts == {"white clock", "tree", "dog", "What color is the clock?"}
    with pytest.raises(DataError, match="parts=region is not known; did you mean `regions`"):
        dataclasses.replace(source, parts="objects,region")


def test_items_are_small_and_travel(tmp_path):
    source = write(tmp_path)
    for item in source.items("train", collections.Counter()):
        assert len(pickle.dumps(item)) < 500
        again = source.record(pickle.loads(pickle.dumps(item)), collections.Counter())
        assert again.image_id == item.image_id


def test_lists_make_splits(tmp_path):
    source = write(tmp_path)
    with pytest.raises(DataError, match="no file .*val.txt"):
        source.files("val")
    (tmp_path / "val.txt").write_bytes("\ufeff2\r\n\r\n".encode())
    assert [r.image_id for r in read(source, "val")[0]] == ["2"]
    assert [r.image_id for r in read(source)[0]] == ["1"]
    assert tmp_path / "val.txt" in source.files("train")
    (tmp_path / "train.txt").write_text("2\n1\n")
    assert [r.image_id for r in read(source)[0]] == ["1", "2"]
    (tmp_path / "val.txt").write_text("2\n7\n")
    with pytest.raises(DataError, match="val.txt, line 2: image '7' is not listed"):
        read(source, "val")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("image_data", lambda c: c.append(c[0]), "image 3: image_id 1 is listed twice"),
        ("image_data", lambda c: c[1].pop("url"), "image 1 has no `url`"),
        ("image_data", lambda c: c[1].pop("image_id"), "image 1 has no `image_id`"),
        ("image_data", lambda c: c[1].update(url="1.jpg"), "url '1.jpg' has no folder"),
        ("image_data", lambda c: c[0].update(width=61), "60x40 pixels, image_data.json .* 61x40"),
        ("objects", lambda c: c[0].update(image_id=7), "entry 0: image 7 is not in image_data"),
        ("objects", lambda c: c[0].update(image_id=1), "entry 1: image 1 has an entry already"),
        ("objects", lambda c: c[0].pop("objects"), "objects.json: entry 0 has no `objects`"),
        (
            "objects",
            lambda c: c[1]["objects"][1].update(names=[3]),
            "objects.json, image 1, entry 1: `names` .3. are not all texts",
        ),
        (
            "region_descriptions",
            lambda c: c[0]["regions"][0].pop("width"),
            "region_descriptions.json, image 2, entry 0 has no `width`",
        ),
        (
            "question_answers",
            lambda c: c[0]["qas"][1].update(answer=None),
            "question_answers.json, image 1, entry 1: `answer` is a NoneType",
        ),
    ],
)
def test_errors_name_the_place(tmp_path, file, change, message):
    source = write(tmp_path)
    edit(tmp_path / f"{file}.json", change)
    with pytest.raises(DataError, match=message):
        read(source)


def test_broken_files(tmp_path):
    source = write(tmp_path)
    (tmp_path / "VG_100K/2.jpg").write_bytes(b"no image")
    with pytest.raises(BadImage, match="VG_100K/2.jpg"):
        read(source)
    (tmp_path / "objects.json").write_text('[{"image_id": 1,\n "objects": [}]}]')
    with pytest.raises(DataError, match="objects.json, line 2, column 14: not JSON"):
        read(source)


def test_real_files(shared_data, tmp_path):
    real = shared_data / "visual_genome"
    content = {path.stem: json.loads(path.read_text()) for path in real.glob("*.json")}
    for entry in content["image_data"]:
        name = "/".join(entry["url"].split("/")[-2:])
        photograph(tmp_path / name, entry["width"], entry["height"])
    source = VisualGenome(real, tmp_path, parts="regions,objects,questions")
    records, tally = read(source)
    assert len(records) == 100
    sizes = {str(entry["image_id"]): entry for entry in content["image_data"]}
    expected = {}
    for entry in content["region_descriptions"]:
        for r in entry["regions"]:
            box = (r["x"], r["y"], r["x"] + r["width"], r["y"] + r["height"])
            expected[f"region/{r['region_id']}"] = entry["id"], r["phrase"], box
    for entry in content["objects"]:
        for r in entry["objects"]:
            box = (r["x"], r["y"], r["x"] + r["w"], r["y"] + r["h"])
            expected[f"object/{r['object_id']}"] = entry["image_id"], r["names"][0], box
    questions, clipped = 0, 0
    for record in records:
        scale = np.tile([sizes[record.image_id]["width"], sizes[record.image_id]["height"]], 2)
        for annotation in record.annotations:
            if annotation.kind == "question":
                questions += 1
                continue
            image_id, text, box = expected.pop(annotation.id)
            assert str(image_id) == record.image_id
            assert annotation.text == " ".join(text.split())
            inside = np.clip(box, 0, scale)
            np.testing.assert_allclose(annotation.region.box * scale, inside, atol=1e-3)
            clipped += (inside != box).any()
    asked = sum(len(entry["qas"]) for entry in content["question_answers"])
    assert questions == asked == 3393
    assert not expected
    assert tally == {"boxes_clipped": clipped} and clipped == 17
