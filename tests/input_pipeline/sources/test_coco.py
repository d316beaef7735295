"""COCO of 2017 and 2014, on files written by hand and on real ones."""

import collections
import json

import numpy as np
import pytest
from data_folder import SIZE, write_json
from reading import edit, read

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.leakage import coco_id_of
from input_pipeline.sources.coco import instance_region


def below(root):
    return sources.source_below(root, "coco")


def test_coco_instances_and_captions(folder):
    records, tally = read(below(folder))
    assert len(records) == 12 and not tally
    for record in records:
        kinds = collections.Counter(a.kind for a in record.annotations)
        blue = 1 + int(record.image_id) % 2
        assert kinds == {"phrase": 1 + blue, "expression": 3 - blue, "caption": 1}
        expressions = [a.text for a in record.annotations if a.kind == "expression"]
        assert expressions == (["red box", "blue box"] if blue == 1 else ["red box"])
        assert record.file_name == f"train2017/{int(record.image_id):012d}.jpg"
        assert record.image == (folder / record.file_name).read_bytes()
        assert (record.width, record.height) == (SIZE, SIZE)
    entries = json.loads((folder / "annotations/instances_train2017.json").read_text())
    boxes = {str(entry["id"]): entry["bbox"] for entry in entries["annotations"]}
    for annotation in (a for r in records for a in r.annotations if a.kind == "phrase"):
        x, y, w, h = boxes[annotation.id]
        expected = np.zeros((SIZE, SIZE), bool)
        expected[y : y + h, x : x + w] = True
        np.testing.assert_array_equal(annotation.region.mask, expected)


def test_coco_crowds_and_odd_segmentations(own_folder):
    def change(content):
        crowd, thin, dot, boxed, sliver = content["annotations"][:5]
        crowd["iscrowd"] = 1  # its category's only one in the image
        thin.update(
            segmentation=[[10.2, 4.1, 10.3, 4.1, 10.3, 20, 10.2, 20]], bbox=[10.2, 4.1, 0.1, 16]
        )
        dot.update(
            segmentation={"size": [SIZE, SIZE], "counts": [SIZE**2]}, bbox=[95.9, 95.9, 9, 9]
        )
        boxed.update(segmentation=[[1, 2, 3, 4]], bbox=[90, 10, 20, 20])
        sliver.update(segmentation=[], bbox=[5, 5, 0, 0])
        content["images"].append({**content["images"][0], "id": 99})

    edit(own_folder / "annotations/instances_train2017.json", change)
    records, tally = read(below(own_folder))
    assert tally == {
        "crowd_regions": 1,
        "regions_thinner_than_a_pixel": 3,
        "outlines_of_two_points": 1,
        "regions_by_box": 2,
        "images_without_annotations": 1,
    }
    regions = {a.id: a.region for record in records for a in record.annotations}
    assert "10" not in regions
    pixels = {key: np.argwhere(regions[key].mask).tolist() for key in ("12", "30")}
    assert regions["11"].mask.sum() == 17 and regions["11"].mask[4:21, 10].all()
    assert pixels["12"] == [[95, 95]]
    np.testing.assert_allclose(regions["20"].box * SIZE, [90, 10, 96, 30], rtol=1e-6)


def test_a_crowd_makes_its_category_ambiguous(own_folder):
    def change(content):
        content["annotations"][1]["iscrowd"] = 1  # one of two blue boxes

    edit(own_folder / "annotations/instances_train2017.json", change)
    records, _ = read(below(own_folder))
    assert [a.text for a in records[0].annotations if a.kind == "expression"] == ["red box"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "no list `images`"),
        (lambda c: c["annotations"][0].pop("segmentation"), "10 has no `segmentation`"),
        (
            lambda c: c["annotations"][0].update(image_id=77),
            "image 77, which is not listed",
        ),
        (lambda c: c["annotations"][0].update(category_id=77), "category 77"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "7 numbers"),
        (lambda c: c["images"][0].update(width=77), "has 96x96 pixels.*77x96"),
        (lambda c: c["images"][0].pop("width"), "image 0 has no `width`"),
        (lambda c: c["images"].append(c["images"][0]), "listed twice"),
    ],
)
def test_coco_errors_name_the_place(own_folder, change, message):
    edit(own_folder / "annotations/instances_train2017.json", change)
    with pytest.raises(DataError, match=message):
        read(below(own_folder))


def test_coco_on_real_photographs(shared_data):
    root = shared_data / "coco_mini"
    records, tally = read(below(root))
    content = json.loads((root / "annotations/instances_train2017.json").read_text())
    entries = {str(entry["id"]): entry for entry in content["annotations"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    phrases = [(r, a) for r in records for a in r.annotations if a.kind == "phrase"]
    assert len(records) == 80 and len(phrases) + tally["crowd_regions"] == 739
    for record, annotation in phrases:
        entry = entries[annotation.id]
        assert annotation.text == names[entry["category_id"]]
        assert record.image_id == str(entry["image_id"])
        pixels = annotation.region.area() * record.width * record.height
        assert abs(pixels - entry["area"]) <= 0.03 * entry["area"] + 12
        box = annotation.region.bounding_box() * np.tile([record.width, record.height], 2)
        x, y, w, h = entry["bbox"]
        outside = np.array([x, y, -x - w, -y - h]) - box * (1, 1, -1, -1)
        assert outside.max() <= 1  # pixels


# ---- 2014, and files that are not there ----


def test_2014_by_name(own_folder):
    path = own_folder / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    (own_folder / "val2014").mkdir()
    for image in content["images"]:
        name = f"COCO_val2014_{image['file_name']}"
        (own_folder / "train2017" / image["file_name"]).rename(own_folder / "val2014" / name)
        image["file_name"] = name
    write_json(own_folder / "annotations/instances_val2014.json", content)
    records, tally = read(below(own_folder), "val2014")
    assert [(r.file_name, r.coco_id) for r in records] == [
        (f"val2014/COCO_val2014_{number:012d}.jpg", number) for number in (1, 2, 3)
    ]
    assert not tally and {a.kind for a in records[0].annotations} == {"phrase", "expression"}
    assert below(own_folder).files("val2014") == [own_folder / "annotations/instances_val2014.json"]
    names = [path.name for path in below(own_folder).files("train2017")]
    assert names == ["instances_train2017.json", "captions_train2017.json"]
    with pytest.raises(DataError, match="instances_val2017.json; did you mean `instances_val2014"):
        read(below(own_folder), "val")


def test_one_of_the_two_files(own_folder):
    images = json.loads((own_folder / "annotations/instances_train2017.json").read_text())["images"]
    captions = own_folder / "annotations/captions_train2017.json"
    edit(captions, lambda content: content.update(images=images))
    for name, kinds in (
        ("coco_instances", {"phrase", "expression"}),
        ("coco_captions", {"caption"}),
    ):
        records, _ = read(sources.source_below(own_folder, name))
        assert records
        assert {a.kind for record in records for a in record.annotations} == kinds
    captions.unlink()
    with pytest.raises(DataError, match="no file .*captions_train2017.json"):
        read(sources.source_below(own_folder, "coco_captions"))


def test_captions_alone(own_folder):
    instances = own_folder / "annotations/instances_train2017.json"
    images = json.loads(instances.read_text())["images"]
    captions = own_folder / "annotations/captions_train2017.json"
    instances.unlink()
    with pytest.raises(DataError, match="captions_train2017.json has no list `images`"):
        read(below(own_folder))
    edit(captions, lambda content: content.update(images=images))
    records, _ = read(below(own_folder))
    assert [[a.text for a in r.annotations] for r in records] == [
        ["2 blue on noise"],
        ["1 blue on noise"],
        ["2 blue on noise"],
    ]
    captions.unlink()
    for split in ("test", "test2014"):
        with pytest.raises(DataError, match="publishes no annotations of its test images"):
            read(below(own_folder), split)
    with pytest.raises(DataError, match="no file .*instances_train2017.json"):
        read(below(own_folder))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("train2014/COCO_train2014_000000000009.jpg", 9),
        ("000000581929.jpg", 581929),
        ("a/b/COCO_test2015_000000000001.jpg", 1),
        ("saiapr_tc-12/00/25.jpg", None),
        ("0000000000009.jpg", None),
        ("COCO_train2014_9.jpg", None),
    ],
)
def test_ids_of_photographs_by_their_names(name, number):
    assert coco_id_of(name) == number


def test_other_photographs_in_its_form_are_not_those_of_coco(own_folder):
    def change(content):
        content["images"][0]["file_name"] = "beach.jpg"

    edit(own_folder / "annotations/instances_train2017.json", change)
    (own_folder / "train2017/000000000001.jpg").rename(own_folder / "train2017/beach.jpg")
    records, _ = read(below(own_folder))
    assert [(r.image_id, r.coco_id) for r in records] == [("1", None), ("2", 2), ("3", 3)]


# ---- segmentations ----


def test_a_list_of_run_lengths_is_their_union(tmp_path):
    # 4 x 3 pixels, down the columns: the second column, and the first row of the third.
    first, second = ({"size": [3, 4], "counts": counts} for counts in ([3, 3, 6], [6, 1, 5, 0]))
    empty = {"size": [3, 4], "counts": [12]}
    entry = {"id": 5, "bbox": [1, 0, 2, 3], "segmentation": [first, empty, second]}
    tally = collections.Counter()
    region = instance_region(entry, 4, 3, "a.jpg", tally)
    assert region.mask.astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    entry["segmentation"] = [second]
    assert instance_region(entry, 4, 3, "a.jpg", tally).mask.sum() == 1 and not +tally
    entry["segmentation"] = [empty]
    assert instance_region(entry, 4, 3, "a.jpg", tally).bounds == (1, 0, 3, 3)
    assert tally == {"regions_thinner_than_a_pixel": 1}
    outside = {"id": 5, "bbox": [4, 0, 2, 2], "segmentation": [[4, 0, 6, 0, 6, 2]]}
    assert instance_region(outside, 4, 3, "a.jpg", tally) is None
    assert instance_region({**outside, "segmentation": []}, 4, 3, "a.jpg", tally) is None
    assert +tally == {"regions_thinner_than_a_pixel": 1, "regions_outside_image": 2}
    for wrong, message in (
        ([first, {"size": [4, 3], "counts": [12]}], r"a.jpg: annotation 5: RLE of size \[4, 3\]"),
        ([first, [1, 2, 3, 4, 5, 6]], "a.jpg: annotation 5: "),
        ([{"size": [3, 4], "counts": [3, 3]}], "annotation 5: run lengths do not fill"),
    ):
        entry["segmentation"] = wrong
        with pytest.raises(DataError, match=message):
            instance_region(entry, 4, 3, "a.jpg", tally)
