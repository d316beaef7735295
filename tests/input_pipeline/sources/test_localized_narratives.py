"""Localized Narratives: files, layouts, records."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from data_folder import narrative

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.sources.localized_narratives import LocalizedNarratives, narrations


def read(source, split="train"):
    """(records, tally) of a source and split."""
    tally = collections.Counter()
    items = list(source.items(split, tally))
    return [record for item in items if (record := source.record(item, tally))], +tally


def below(root):
    return sources.source_below(root, "localized_narratives")


def test_narratives(folder):
    records, tally = read(below(folder))
    assert len(records) == 12 and not tally
    for record in records:
        assert record.coco_id == int(record.image_id)
        assert record.image == (folder / record.file_name).read_bytes()
        assert [a.text for a in record.annotations] == ["There is red", "Then comes blue"]
        for annotation, side in zip(record.annotations, (0.2, 0.8), strict=True):
            points = annotation.region.points
            assert annotation.kind == "narration"
            assert (points[:, 0] == np.float32(side)).all()
            assert (np.diff(points[:, 1]) > 0).all()
            # Words last from i to i + 0.95 s, points come every 0.1 s.
            assert len(points) == 30


@pytest.mark.parametrize(
    ("dataset", "image_id", "path"),
    [
        ("mscoco_val2017", "139", "val2017/000000000139.jpg"),
        ("mscoco_val2014", "139", "val2014/COCO_val2014_000000000139.jpg"),
        ("mscoco_test2017", "7", "test2017/000000000007.jpg"),
        ("Flick30k", "1000092795", "flickr30k-images/1000092795.jpg"),
        ("Flickr30k", "36979", "flickr30k-images/36979.jpg"),
        (
            "ADE20k",
            "ADE_val_00000175",
            "ADEChallengeData2016/images/validation/ADE_val_00000175.jpg",
        ),
        ("ADE20k", "ADE_train_1", "ADEChallengeData2016/images/training/ADE_train_1.jpg"),
        ("open_images_train_v6", "000a1249af2bc5f0", "train/000a1249af2bc5f0.jpg"),
        ("open_images_validation", "0001eeaf4aed83f9", "validation/0001eeaf4aed83f9.jpg"),
        ("OpenImages_v6", "1234567890123456", "test/1234567890123456.jpg"),  # the split being read
    ],
)
def test_images_are_found_by_their_data_set(tmp_path, dataset, image_id, path):
    source = LocalizedNarratives(tmp_path, tmp_path)
    content = {"dataset_id": dataset, "image_id": image_id}
    assert source.image_file(content, "test", "here") == path


def test_other_layouts(tmp_path):
    source = LocalizedNarratives(tmp_path, tmp_path, coco_images="2014", open_images="parts")
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014/COCO_val2014_000000000042.jpg").touch()
    for dataset, image_id, path in (
        ("mscoco_val2017", "139", "val2014/COCO_val2014_000000000139.jpg"),
        ("mscoco_train2017", "9", "train2014/COCO_train2014_000000000009.jpg"),
        ("mscoco_train2017", "42", "val2014/COCO_val2014_000000000042.jpg"),
        ("open_images_train_v6", "f00a1249af2bc5f0", "train_f/f00a1249af2bc5f0.jpg"),
        ("open_images_test", "f00a1249af2bc5f0", "test/f00a1249af2bc5f0.jpg"),
    ):
        content = {"dataset_id": dataset, "image_id": image_id}
        assert source.image_file(content, "train", "here") == path


@pytest.mark.parametrize(
    ("dataset", "image_id", "message"),
    [
        ("mscoco_2014", "1", "dataset_id 'mscoco_2014' is not known; did you mean `mscoco_"),
        ("mscoco_val2017", "x1", "here: image_id 'x1' of mscoco_val2017 is not a number"),
        ("ADE20k", "175", "here: image_id '175' of ADE20k is not ADE_train_"),
        ("OpenImages", "0001eeaf4aed83f9", "neither OpenImages nor mine is a split"),
    ],
)
def test_unknown_images_are_errors(tmp_path, dataset, image_id, message):
    with pytest.raises(DataError, match=message):
        LocalizedNarratives(tmp_path, tmp_path).image_file(
            {"dataset_id": dataset, "image_id": image_id}, "mine", "here"
        )


def test_files_of_all_data_sets(tmp_path):
    for name in (
        "ade20k_train_localized_narratives.jsonl",
        "ade20k_validation_localized_narratives.jsonl",
        "coco_train_localized_narratives-00000-of-00002.jsonl",
        "coco_train_localized_narratives-00001-of-00002.jsonl",
        "coco_val_captions.jsonl",
        "flickr30k_val_localized_narratives.jsonl",
        "open_images_train_v6_localized_narratives-00000-of-00001.jsonl",
        "open_images_validation_localized_narratives.jsonl",
    ):
        (tmp_path / name).touch()
    source = LocalizedNarratives(tmp_path, tmp_path)

    def first_words(split, **options):
        return [f.name[:7] for f in dataclasses.replace(source, **options).files(split)]

    assert first_words("val") == ["ade20k_", "flickr3", "open_im"]
    assert first_words("train") == ["ade20k_", "coco_tr", "coco_tr", "open_im"]
    assert first_words("train", dataset="coco") == ["coco_tr", "coco_tr"]
    with pytest.raises(DataError, match="nothing for coco val; did you mean `coco train`"):
        first_words("val", dataset="coco")
    (tmp_path / "coco_train_localized_narratives-00000-of-00002.jsonl").unlink()
    with pytest.raises(DataError, match="1 of the 2 parts of coco_train.*00001-of-00002.jsonl"):
        source.files("train")
    assert len(first_words("val")) == 3
    part = tmp_path / "coco_train_localized_narratives-00001-of-00002.jsonl"
    assert LocalizedNarratives(part, tmp_path).files("train") == [part]
    with pytest.raises(DataError, match="is of the split train, not val"):
        LocalizedNarratives(part, tmp_path).files("val")


@pytest.mark.parametrize("option", ["sentences", "coco_images", "open_images"])
def test_options_are_checked(tmp_path, option):
    with pytest.raises(DataError, match=f"{option}=papers is not known"):
        LocalizedNarratives(tmp_path, tmp_path, **{option: "papers"})


def test_broken_lines_and_images(own_folder):
    path = own_folder / "localized_narratives/coco_train_localized_narratives.jsonl"
    (own_folder / "train2017/000000000002.jpg").write_bytes(b"no image")
    with pytest.raises(BadImage, match="000000000002.jpg"):
        read(below(own_folder))
    path.write_text(json.dumps(narrative(1)) + "\n\n{'no': 1}\n")
    with pytest.raises(DataError, match=r"narratives.jsonl, line 3, column 2: not JSON"):
        read(below(own_folder))
    path.write_bytes(b"[1]\n")
    with pytest.raises(DataError, match=r"narratives.jsonl, line 1: a list, expected an object"):
        read(below(own_folder))


def test_lines_are_parsed_where_their_records_are_made(own_folder):
    """Of a published line the beginning tells which image it is of; any other is read whole."""
    path = own_folder / "localized_narratives/coco_train_localized_narratives.jsonl"
    line = json.dumps(narrative(1))
    other = json.dumps(dict(reversed(narrative(2).items())))
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{other}\r\n".encode())
    records, _ = read(below(own_folder))
    assert [(r.image_id, len(r.annotations)) for r in records] == [("1", 2), ("2", 2)]
    source = below(own_folder)
    broken = line.replace('"t": 0.1', '"t": 0,1')
    path.write_text(f"{line}\n{broken}\n")
    _, item = source.items("train", collections.Counter())
    with pytest.raises(DataError, match=r"narratives.jsonl, line 2, column \d+: not JSON"):
        source.record(item, collections.Counter())
    path.write_text(f"{line}\n{line[:-200]}")  # cut short: seen before any image is read
    with pytest.raises(DataError, match=r"narratives.jsonl, line 2, column \d+: not JSON"):
        list(source.items("train", collections.Counter()))


@pytest.mark.parametrize("sentences", ["true", "paper"])
def test_empty_traces(own_folder, sentences):
    """COCO val, line 4414: image 381639, annotator 89."""
    lines = [narrative(1), {**narrative(2), "traces": []}, {**narrative(3), "traces": [[], []]}]
    path = own_folder / "localized_narratives/coco_train_localized_narratives.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    records, tally = read(dataclasses.replace(below(own_folder), sentences=sentences))
    assert [record.image_id for record in records] == ["1"]
    assert tally["narratives_without_trace"] == 2 and tally["sentences_without_trace"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.pop("caption"), "here has no `caption`"),
        (lambda n: n.update(caption=3), "`caption` is a int"),
        (lambda n: n["timed_caption"][0].update(start_time="0"), "`start_time` is a str"),
        (lambda n: n["traces"][0][0].pop("t"), "trace point without numbers x, y, t"),
        (lambda n: n["traces"][0][0].update(x=float("nan")), "not finite"),
        (lambda n: n["traces"][0][3].update(x=300.0), "sentence 0: point 3 .*outside"),
    ],
)
def test_narrative_errors(change, message):
    content = narrative(1)
    change(content)
    with pytest.raises(DataError, match=message):
        narrations(content, "here", collections.Counter())


def test_paper_reads_a_folder(own_folder):
    records, tally = read(dataclasses.replace(below(own_folder), sentences="paper"))
    assert len(records) == 3 and not tally
    for annotation in records[0].annotations:
        assert annotation.region.points.shape == (20, 2)
