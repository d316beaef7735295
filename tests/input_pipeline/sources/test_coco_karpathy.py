"""Karpathy's split of COCO: LAVIS's files and his own, written by hand."""

import json

import pytest
from reading import edit, photograph, read

from input_pipeline.errors import DataError
from input_pipeline.sources.coco_karpathy import CocoKarpathy

FILES = {
    "val": "val2014/COCO_val2014_000000184613.jpg",
    "rest": "val2014/COCO_val2014_000000522418.jpg",
    "train": "train2014/COCO_train2014_000000000009.jpg",
}


@pytest.fixture
def source(tmp_path):
    for name in FILES.values():
        photograph(tmp_path / "images" / name)
    (tmp_path / "annotations").mkdir()
    return CocoKarpathy(tmp_path / "annotations", tmp_path / "images")


@pytest.fixture
def lavis(source):
    train = [
        {"caption": "A cake. ", "image": FILES["rest"], "image_id": "coco_522418"},
        {"caption": "Food on\na table", "image": FILES["train"], "image_id": "coco_9"},
        {"caption": "A woman cuts a cake", "image": FILES["rest"], "image_id": "coco_522418"},
    ]
    val = [{"image": FILES["val"], "caption": ["A cow", "  ", "Ein Mädchen"]}]
    for split, content in (("train", train), ("val", val)):
        (source.annotations / f"coco_karpathy_{split}.json").write_text(json.dumps(content))
    return source


@pytest.fixture
def karpathy(source):
    images = [
        {
            "filepath": FILES[key].split("/")[0],
            "filename": FILES[key].split("/")[1],
            "cocoid": 1,
            "imgid": 0,
            "split": split,
            "sentids": [number, number + 5],
            "sentences": [
                {"tokens": ["a"], "raw": f"{key} one.", "imgid": 0, "sentid": number},
                {"tokens": ["a"], "raw": f"{key} two", "imgid": 0, "sentid": number + 5},
            ],
        }
        for number, (key, split) in enumerate(
            [("val", "val"), ("rest", "restval"), ("train", "train")]
        )
    ]
    content = {"images": images, "dataset": "coco"}
    (source.annotations / "dataset_coco.json").write_text(json.dumps(content))
    return source


def summary(records):
    return [
        (r.file_name, r.image_id, r.coco_id, [(a.kind, a.id, a.text) for a in r.annotations])
        for r in records
    ]


def test_lavis(lavis):
    records, tally = read(lavis)
    assert not tally and summary(records) == [
        (
            FILES["rest"],
            "522418",
            522418,
            [("caption", "522418/0", "A cake."), ("caption", "522418/1", "A woman cuts a cake")],
        ),
        (FILES["train"], "9", 9, [("caption", "9/0", "Food on a table")]),
    ]
    assert (records[0].width, records[0].height) == (60, 40)
    records, tally = read(lavis, "val")
    assert tally == {"empty_captions": 1}
    texts = [("caption", "184613/0", "A cow"), ("caption", "184613/2", "Ein Mädchen")]
    assert summary(records) == [(FILES["val"], "184613", 184613, texts)]


def test_his_own_file_and_restval(karpathy):
    assert summary(read(karpathy)[0]) == [
        (
            FILES["rest"],
            "522418",
            522418,
            [("caption", "1", "rest one."), ("caption", "6", "rest two")],
        ),
        (FILES["train"], "9", 9, [("caption", "2", "train one."), ("caption", "7", "train two")]),
    ]
    assert [r.coco_id for r in read(karpathy, "val")[0]] == [184613]
    with pytest.raises(DataError, match=r"has no split test; it has \['train', 'val'\]"):
        read(karpathy, "test")


def test_files(lavis, karpathy):
    assert [path.name for path in lavis.files("val")] == ["coco_karpathy_val.json"]
    assert [path.name for path in lavis.files("test")] == ["dataset_coco.json"]
    (lavis.annotations / "dataset_coco.json").unlink()
    with pytest.raises(DataError, match="no file .*coco_karpathy_test.json; did you mean"):
        lavis.files("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[0].pop("image"), "entry 0 has no `image`; did you mean `image_id`"),
        (lambda c: c[1].update(caption=3), "entry 1: `caption` is a int"),
        (lambda c: c[1].update(caption=["a", None]), "a caption is a NoneType"),
        (lambda c: c[0].update(image="a.jpg"), "a.jpg is not named as COCO's"),
        (lambda c: c.append(1), "entry 3 is a int"),
    ],
)
def test_errors(lavis, change, message):
    edit(lavis.annotations / "coco_karpathy_train.json", change)
    with pytest.raises(DataError, match=message):
        read(lavis)


def test_an_image_without_a_caption(lavis):
    edit(lavis.annotations / "coco_karpathy_val.json", lambda c: c[0].update(caption=[" "]))
    assert read(lavis, "val") == ([], {"empty_captions": 1, "images_without_annotations": 1})
