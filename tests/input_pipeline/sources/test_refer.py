"""REFER: its splits, its data sets' layouts, and pickles that are not trusted."""

import collections
import dataclasses
import json
import os
import pickle

import numpy as np
import pytest
from reading import edit, photograph, read

from input_pipeline import sources
from input_pipeline.errors import DataError


def below(root, name="refer"):
    return sources.source_below(root, name)


def write_refer(folder, split_by, images, references, segmentation):
    """A REFER folder: images [(id, file_name)], references [(id, image_id, ann_id, split)]."""
    folder.mkdir(parents=True)
    content = {
        "images": [{"id": i, "file_name": n, "width": 60, "height": 40} for i, n in images],
        "annotations": [
            {
                "id": object_id,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [10, 5, 20, 30],
                "area": 600,
                "iscrowd": 0,
                "segmentation": segmentation,
            }
            for object_id, image_id in {(r[2], r[1]) for r in references}
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    refs = [
        {
            "ref_id": ref_id,
            "ann_id": object_id,
            "image_id": image_id,
            "category_id": 1,
            "file_name": "ignored.jpg",
            "split": split,
            "sent_ids": [10 * ref_id],
            "sentences": [
                {"sent_id": 10 * ref_id, "raw": "X", "sent": f"thing {ref_id}", "tokens": ["x"]}
            ],
        }
        for ref_id, image_id, object_id, split in references
    ]
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))


# ---- the built-in world's ----


def test_expressions_share_the_object_of_coco(folder):
    records, tally = read(below(folder))
    assert len(records) == 12 and not tally
    coco = {r.image_id: r for r in read(below(folder, "coco"))[0]}
    for record in records:
        assert record.coco_id == int(record.image_id)
        assert [a.text for a in record.annotations] == ["the red one", "red box"]
        red = coco[record.image_id].annotations[0]
        for annotation in record.annotations:
            assert annotation.kind == "expression"
            np.testing.assert_array_equal(annotation.region.mask, red.region.mask)
        assert record.annotations[0].geometry is record.annotations[1].geometry
    assert len(read(below(folder), "val")[0]) == 4
    with pytest.raises(DataError, match=r"no split test; it has \['train', 'val'\]"):
        read(below(folder), "test")


def test_expressions_as_they_were_typed(folder):
    records, tally = read(dataclasses.replace(below(folder), sentences="raw"))
    assert len(records) == 12 and not tally
    assert {tuple(a.text for a in r.annotations) for r in records} == {("The red one", "red box")}
    with pytest.raises(DataError, match="sentences"):
        dataclasses.replace(below(folder), sentences="typed")


def test_splits_go_by_their_letters(own_folder):
    refs = own_folder / "refer/world/refs(unc).p"
    references = pickle.loads(refs.read_bytes())
    for reference, split in zip(references, ("testA", "testB", "testAC"), strict=True):
        reference["split"] = split
    refs.write_bytes(pickle.dumps(references, protocol=0))
    source = below(own_folder)
    for split, expected in (
        ("test", [1, 2, 3]),
        ("testA", [1, 3]),
        ("testB", [2]),
        ("testC", [3]),
        ("testAC", [3]),
    ):
        items = list(source.items(split, collections.Counter()))
        assert [item.image["id"] for item in items] == expected
        assert items[0].file_name.startswith("test2017/")


# ---- the published sets ----

COCO_SETS = [
    ("refcoco_unc", "refcoco", "unc"),
    ("refcoco_google", "refcoco", "google"),
    ("refcoco+_unc", "refcoco+", "unc"),
    ("refcocog_umd", "refcocog", "umd"),
    ("refcocog_google", "refcocog", "google"),
]
POLYGONS = [[10, 5, 20, 5, 20, 35, 10, 35], [15, 5, 30, 5, 30, 15, 15, 15]]  # they overlap


@pytest.mark.parametrize(("name", "folder_name", "split_by"), COCO_SETS)
def test_sets_on_coco(tmp_path, name, folder_name, split_by):
    photo = "COCO_train2014_000000000307.jpg"
    photograph(tmp_path / "train2014" / photo)
    references = [(1, 307, 5, "val"), (2, 307, 5, "val"), (3, 307, 6, "train")]
    write_refer(tmp_path / "refer" / folder_name, split_by, [(307, photo)], references, POLYGONS)
    (record,), tally = read(below(tmp_path, name), "val")
    assert record.source == name and record.coco_id == 307
    assert record.file_name == f"train2014/{photo}"
    assert [(a.text, a.id) for a in record.annotations] == [("thing 1", "10"), ("thing 2", "20")]
    expected = np.zeros((40, 60), bool)
    expected[5:35, 10:20] = expected[5:15, 15:30] = True
    assert expected.sum() == 400  # the overlap counts once
    np.testing.assert_array_equal(record.annotations[0].region.mask, expected)
    assert len(tally) == 2  # the published set has more references and images


def test_published_numbers(tmp_path):
    photo = "COCO_train2014_000000000307.jpg"
    images = [(307, photo), (308, photo.replace("7", "8"))]
    references = [(1, 307, 5, "val"), (2, 308, 6, "val"), (3, 307, 7, "testA")]
    write_refer(tmp_path / "refer/refcocog", "umd", images, references, POLYGONS)
    tally = collections.Counter()
    source = below(tmp_path, "refcocog_umd")
    assert len(list(source.items("val", tally))) == 2
    assert tally == {
        "fewer_references_than_the_published_2573": 2571,
        "fewer_images_than_the_published_1300": 1298,
    }
    type(source).published["testA"] = (1, 0)
    try:
        tally = collections.Counter()
        list(source.items("testA", tally))
        assert +tally == {"more_images_than_the_published_0": 1}
    finally:
        del type(source).published["testA"]


@pytest.mark.parametrize("split_by", ["unc", "berkeley"])
def test_refclef(tmp_path, split_by):
    # Two runs of 10 pixels: in columns 10 and 11, from row 5.
    half = {"size": [40, 60], "counts": [405, 10, 40 * 60 - 415]}
    other = {"size": [40, 60], "counts": [445, 10, 40 * 60 - 455]}
    references = [(1, 25, "25_1", "train"), (2, 26, "26_1", "train"), (3, 25, "25_1", "testC")]
    write_refer(
        tmp_path / "refer/refclef", split_by, [(25, "00/images/25.jpg")], references, [half, other]
    )
    photograph(tmp_path / "saiapr_tc-12/00/images/25.jpg")
    (record,), tally = read(below(tmp_path, f"refclef_{split_by}"))
    assert tally == {"references_to_images_not_listed": 1}
    assert record.file_name == "00/images/25.jpg" and record.coco_id is None
    region = record.annotations[0].region
    assert region.bounds == (10, 5, 12, 15) and region.mask.sum() == 20
    assert len(read(below(tmp_path, f"refclef_{split_by}"), "testC")[0]) == 1


def test_unlisted_images_and_objects(own_folder):
    path = own_folder / "refer/world/instances.json"
    edit(path, lambda content: content["annotations"].pop(0))
    with pytest.raises(DataError, match=r"refs\(unc\).p: reference 0: annotation 10 is not in"):
        read(below(own_folder))
    edit(path, lambda content: content["images"].pop(0))
    with pytest.raises(DataError, match=r"refs\(unc\).p: reference 0: image 1 is not in"):
        read(below(own_folder))
    edit(path, lambda content: content["images"][0].update(height=33))
    refs = own_folder / "refer/world/refs(unc).p"
    refs.write_bytes(pickle.dumps(pickle.loads(refs.read_bytes())[1:]))
    with pytest.raises(DataError, match="000000000002.jpg has 96x96 pixels, .* of 96x33"):
        read(below(own_folder))
    (own_folder / "refer/world/instances.json").unlink()
    with pytest.raises(DataError, match="no file .*instances.json"):
        read(below(own_folder))


def test_empty_expressions_are_counted(own_folder):
    refs = own_folder / "refer/world/refs(unc).p"
    references = pickle.loads(refs.read_bytes())
    references[0]["sentences"][0]["sent"] = "  "
    references[1]["sentences"] = []
    refs.write_bytes(pickle.dumps(references))
    records, tally = read(below(own_folder))
    assert [[a.text for a in r.annotations] for r in records] == [
        ["red box"],
        ["the red one", "red box"],
    ]
    assert tally == {"empty_expressions": 1, "images_without_annotations": 1}


# ---- pickles ----


def test_what_python_2_wrote(own_folder):
    # Protocol 0 of Python 2: byte strings (S), longs (L), no class anywhere.
    old = (
        "(lp0\n(dp1\nS'ref_id'\nL7L\nsS'ann_id'\nL10L\nsS'image_id'\nL1L\nsS'split'\nS'train'\n"
        "sS'sentences'\n(lp2\n(dp3\nS'sent_id'\nI3\nsS'sent'\nS'caf\\xe9 red'\nsasa."
    )
    (own_folder / "refer/world/refs(unc).p").write_bytes(old.encode("latin1"))
    records, _ = read(below(own_folder))
    assert [a.text for a in records[0].annotations] == ["café red"]


class Malicious:
    """Unpickled by pickle itself, it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_that_run_code_are_refused(own_folder, tmp_path, protocol):
    made = tmp_path / "made"
    content = pickle.dumps([{"split": "train"}, Malicious(made)], protocol=protocol)
    refs = own_folder / "refer/world/refs(unc).p"
    refs.write_bytes(content)
    with pytest.raises(DataError, match=r"refs\(unc\).p.*asks for \w+.mkdir; only plain contain"):
        read(below(own_folder))
    assert not made.exists()
    pickle.loads(content)
    assert made.exists()  # it would have


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system; only plain containers"),  # GLOBAL
        (b"(S'true'\nios\nsystem\n.", "asks for os.system; only plain containers"),  # INST
        (b"(cos\nsystem\nS'true'\no.", "asks for os.system; only plain containers"),  # OBJ
        (b"\x80\x02\x82\x01.", "unregistered extension code 1"),  # EXT1
        (b"Pname\n.", "persistent"),  # PERSID
        (b"(]I1\ns.", "cannot be unpickled"),  # a list as a key
        (b"g7\n.", "cannot be unpickled"),  # a value that was never kept
        (b"\x80\x63.", "unsupported pickle protocol: 99"),
        (b"", "Ran out of input"),
        (pickle.dumps([np.float64(1)]), "only plain containers"),
        (pickle.dumps([{"split": "train"}])[:-4], "cannot be unpickled"),
        (pickle.dumps({"a": 1}), "holds a dict, expected a list"),
        (pickle.dumps([{"split": "train"}]), "reference 0 has no `image_id`"),
        (pickle.dumps([{"split": 1}]), "`split` is a int"),
    ],
)
def test_other_pickles_are_not_trusted_either(own_folder, content, message):
    (own_folder / "refer/world/refs(unc).p").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(below(own_folder))
