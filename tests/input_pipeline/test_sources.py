"""The official formats, on files written by hand and on real ones."""

import collections
import json
import pickle
import shutil

import numpy as np
import pytest
from data_folder import SIZE, narrative, write_json

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.sources import proposals


def read(name, root, split="train"):
    """(records, tally) of a source and split."""
    tally = collections.Counter()
    source = sources.source_below(root, name)
    items = list(source.items(split, tally))
    return [record for item in items if (record := source.record(item, tally))], tally


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


# ---- COCO ----


def test_coco_instances_and_captions(folder):
    records, tally = read("coco", folder)
    assert len(records) == 12 and not +tally
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
    records, tally = read("coco", own_folder)
    assert +tally == {
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
    records, _ = read("coco", own_folder)
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
        read("coco", own_folder)


def test_proposals(own_folder):
    counts = [SIZE * 2, 5, SIZE**2 - SIZE * 2 - 5]
    entry = {"image_id": 2, "segmentation": {"size": [SIZE, SIZE], "counts": counts}}
    path = proposals.proposals_file(own_folder, "train")
    write_json(path, [entry])
    entries = proposals.read_proposals(path)
    assert entries == {"2": [entry]}
    (region,) = proposals.proposal_regions(entries["2"], SIZE, SIZE, "2.jpg")
    assert np.argwhere(region.mask).tolist() == [[row, 2] for row in range(5)]
    with pytest.raises(DataError, match="2.jpg: proposal 0: "):
        proposals.proposal_regions(entries["2"], SIZE, SIZE + 1, "2.jpg")


def test_coco_on_real_photographs(shared_data):
    root = shared_data / "coco_mini"
    records, tally = read("coco", root)
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


# ---- any annotation file ----


@pytest.mark.parametrize("name", ["coco", "refer", "localized_narratives"])
def test_missing_files(tmp_path, name):
    with pytest.raises(DataError, match="no data folder"):
        sources.source_below(tmp_path / "nowhere", name)
    with pytest.raises(DataError, match="no file"):
        read(name, tmp_path)


def test_nearest_names(own_folder):
    with pytest.raises(DataError, match="cocco is not a source; did you mean `coco`"):
        sources.source_below(own_folder, "cocco")
    with pytest.raises(DataError, match="instances_trian2017.json; .*`instances_train2017.json`"):
        read("coco", own_folder, "trian")


def test_broken_json_names_line_and_column(own_folder):
    path = own_folder / "annotations/instances_train2017.json"
    path.write_text('{"images": [],\n "annotations": [}')
    with pytest.raises(DataError, match=r"instances_train2017.json, line 2, column 18: not JSON"):
        read("coco", own_folder)
    path = own_folder / "localized_narratives/coco_train_localized_narratives.jsonl"
    path.write_text(json.dumps(narrative(1)) + "\n\n{'no': 1}\n")
    with pytest.raises(DataError, match=r"narratives.jsonl, line 3, column 2: not JSON"):
        read("localized_narratives", own_folder)
    path.write_bytes(b"[1]\n")
    with pytest.raises(DataError, match=r"narratives.jsonl, line 1: a list, expected an object"):
        read("localized_narratives", own_folder)


@pytest.mark.parametrize("name", ["coco", "refer", "localized_narratives"])
def test_bad_images_are_named(own_folder, name):
    path = own_folder / "train2017/000000000002.jpg"
    whole = path.read_bytes()
    for content in (b"not an image", whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(BadImage, match=r"train2017/000000000002.jpg \(\d+ bytes\): \w"):
            read(name, own_folder)
    path.unlink()
    with pytest.raises(BadImage, match="000000000002.jpg: No such file"):
        read(name, own_folder)


def test_a_truncated_photograph(own_folder, shared_data):
    shutil.copy(shared_data / "photos/truncated.jpg", own_folder / "train2017/000000000001.jpg")
    with pytest.raises(BadImage, match="000000000001.jpg"):
        read("coco", own_folder)


# ---- REFER ----


def test_refer(folder):
    records, tally = read("refer", folder)
    assert len(records) == 12 and not +tally
    coco = {r.image_id: r for r in read("coco", folder)[0]}
    for record in records:
        assert [a.text for a in record.annotations] == ["the red one", "red box"]
        red = coco[record.image_id].annotations[0]
        for annotation in record.annotations:
            assert annotation.kind == "expression"
            np.testing.assert_array_equal(annotation.region.mask, red.region.mask)
    assert len(read("refer", folder, "val")[0]) == 4
    with pytest.raises(DataError, match=r"no split test; it has \['train', 'val'\]"):
        read("refer", folder, "test")


def test_refer_splits_and_photographs(own_folder):
    refs = own_folder / "refer/world/refs(unc).p"
    references = pickle.loads(refs.read_bytes())
    for reference, split in zip(references, ("testA", "testB", "testAC"), strict=True):
        reference["split"] = split
    refs.write_bytes(pickle.dumps(references, protocol=0))
    source = sources.source_below(own_folder, "refer")
    for split, expected in (("test", [1, 2, 3]), ("testA", [1, 3]), ("testC", [3]), ("testB", [2])):
        items = list(source.items(split, collections.Counter()))
        assert [item.image["id"] for item in items] == expected
        assert items[0].file_name.startswith("test2017/")
    name = "COCO_train2014_000000000001.jpg"
    path = own_folder / "refer/world/instances.json"
    edit(path, lambda content: content["images"][0].update(file_name=name))
    items = list(source.items("testA", collections.Counter()))
    assert items[0].file_name == f"train2014/{name}"


def test_refer_reads_what_python_2_wrote(own_folder):
    # Protocol 0 of Python 2: byte strings (S), longs (L), no class anywhere.
    old = (
        "(lp0\n(dp1\nS'ref_id'\nL7L\nsS'ann_id'\nL10L\nsS'image_id'\nL1L\nsS'split'\nS'train'\n"
        "sS'sentences'\n(lp2\n(dp3\nS'sent_id'\nI3\nsS'sent'\nS'caf\\xe9 red'\nsasa."
    )
    (own_folder / "refer/world/refs(unc).p").write_bytes(old.encode("latin1"))
    records, _ = read("refer", own_folder)
    assert [a.text for a in records[0].annotations] == ["café red"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system; only plain containers"),
        (pickle.dumps([np.float64(1)]), "only plain containers"),
        (pickle.dumps([{"split": "train"}])[:-4], "cannot be unpickled"),
        (pickle.dumps({"a": 1}), "holds a dict, expected a list"),
        (pickle.dumps([{"split": "train"}]), "reference 0 has no `image_id`"),
        (pickle.dumps([{"split": "train", "image_id": 1, "ann_id": 5}]), "annotation 5 is not in"),
        (pickle.dumps([{"split": "train", "image_id": 9, "ann_id": 5}]), "image 9 is not in"),
    ],
)
def test_refer_pickles_are_not_trusted(own_folder, content, message):
    (own_folder / "refer/world/refs(unc).p").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read("refer", own_folder)
