"""Photographs that are left out, and warnings about those that are trained on and evaluated."""

import dataclasses

import pytest
from data_folder import write_folder

from input_pipeline import prepare
from input_pipeline.data_config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.leakage import (
    Exclusion,
    count_photographs,
    overlaps,
    photograph,
    read_exclusion,
)
from input_pipeline.parts import find_parts, open_records
from input_pipeline.records import Record
from input_pipeline.sources.source import Item
from regionjax import journal
from regionjax.batch import BatchSpec
from regionjax.train import open_input


@pytest.mark.parametrize(
    ("file_name", "coco_id", "called"),
    [
        ("val2017/000000000139.jpg", 139, "coco:139"),
        ("VG_100K/2317.jpg", 139, "coco:139"),
        ("COCO_val2014_000000000139.jpg", None, "coco:139"),
        ("any/000000000139.jpg", None, "coco:139"),
        ("VG_100K/2317.jpg", None, "2317.jpg"),
        ("000000000139.png", None, "000000000139.png"),
        ("COCO_val2014_139.jpg", None, "COCO_val2014_139.jpg"),
    ],
)
def test_what_photographs_are_called(file_name, coco_id, called):
    assert photograph(file_name, coco_id) == called


@pytest.mark.parametrize(
    ("listed", "left_out"),
    [
        ("7", {"vg", "coco"}),  # an image id of the one, a COCO id of the other
        ("coco:7", {"coco"}),
        ("000000000007.jpg", {"coco"}),
        ("COCO_train2014_000000000007.jpg", {"coco"}),
        ("VG_100K/8.jpg", {"vg"}),
        ("8.jpg", {"vg"}),
        ("flickr/8.jpg", set()),
        ("70", set()),
    ],
)
def test_what_a_line_leaves_out(tmp_path, listed, left_out):
    (tmp_path / "list.txt").write_bytes(f"\ufeff{listed} \r\n\r\nnothing\r\n".encode())
    exclusion = read_exclusion([tmp_path / "list.txt"])
    items = {
        "coco": Item("instance-3", "val2014/COCO_val2014_000000000007.jpg", 7),
        "vg": Item("7", "VG_100K/8.jpg", None),
    }
    assert {name for name, item in items.items() if exclusion.covers(item)} == left_out


def test_lists_that_are_not_there(tmp_path):
    assert read_exclusion([]) is None
    with pytest.raises(DataError, match="no-list.txt, a list of photographs: .*No such file"):
        read_exclusion([tmp_path / "no-list.txt"])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="empty.txt lists no photograph"):
        read_exclusion([tmp_path / "empty.txt"])
    with pytest.raises(DataError, match="holds no prepared data"):
        read_exclusion([f"{tmp_path}:coco-val"])


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory):
    """refer-val (images 1001…1004), coco-train (1…12) and narratives of 1…12 in one folder."""
    out = tmp_path_factory.mktemp("out")
    prepared(folder, out, "refer", "--split", "val")
    prepared(folder, out, "coco", "localized_narratives", "--split", "train")
    return out


def prepared(folder, out, *arguments):
    common = "--root", str(folder), "--out", str(out), "--processes", "1"
    prepare.main([*arguments, *common])


def test_excluding_a_part(folder, out, tmp_path):
    with pytest.raises(SystemExit):
        prepared(folder, tmp_path, "coco", "--exclude_images", f"{out}:coco-trian")
    chosen = tmp_path / "some.txt"
    chosen.write_text("coco:3\n000000000005.jpg\n")
    prepared(folder, tmp_path, "refer", "--split", "train", "--exclude_images", str(chosen))
    remain = [int(record.image_id) for record in open_records(tmp_path, "refer", "train")]
    assert remain == [1, 2, 4, *range(6, 13)]
    lists = "--exclude_images", f"{tmp_path}:refer-train", "--exclude_images", f"{out}:refer-val"
    prepared(folder, tmp_path, "localized_narratives", "--split", "train", *lists)
    records = open_records(tmp_path, "localized_narratives", "train")
    assert [record.image_id for record in records] == ["3", "5"]
    facts = find_parts([tmp_path])["localized_narratives"]["train"].facts
    assert facts["left_out"] == {"excluded_images": 10}
    assert facts["inputs"]["excluded_images"] == 14  # of refer-train and refer-val
    shared = overlaps(
        [find_parts([tmp_path])["localized_narratives"]["train"]],
        [find_parts([tmp_path])["refer"]["train"]],
    )
    assert shared == []


def test_other_exclusions_are_other_inputs(folder, tmp_path, capsys):
    prepared(folder, tmp_path, "coco", "--split", "val")
    (tmp_path / "list.txt").write_text("1001\n")
    with pytest.raises(SystemExit):
        arguments = "--split", "val", "--exclude_images", str(tmp_path / "list.txt")
        prepared(folder, tmp_path, "coco", *arguments)
    assert "excluded_images: None → 1" in capsys.readouterr().err


def test_nothing_excluded_is_said(folder, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("coco:99\n")
    arguments = "--split", "val", "--exclude_images", str(tmp_path / "list.txt")
    prepared(folder, tmp_path, "coco", *arguments)
    assert "none of the photographs to be excluded is in it" in capsys.readouterr().out


def test_overlaps_are_named(out):
    found = find_parts([out])
    train = [found["coco"]["train"], found["localized_narratives"]["train"]]
    assert overlaps(train, [found["refer"]["val"]]) == []
    itself, warning = overlaps(train, [found["coco"]["train"]])
    assert itself.startswith("coco-train is trained on and evaluated, all of its 12 photographs")
    assert warning.startswith(
        "localized_narratives-train is trained on and has 12 photographs of COCO that coco-train"
    )
    assert f"--exclude_images {out}:coco-train" in warning
    assert len(overlaps(train, train)) == 4


def test_photographs_are_counted_once():
    """Whatever their sources call them."""
    one = Record("coco", "train2017/000000000009.jpg", "9", 1, 1, b"a", [], coco_id=9)
    named = dataclasses.replace(one, file_name="COCO_train2014_000000000009.jpg", coco_id=None)
    genome = dataclasses.replace(one, file_name="VG_100K/5.jpg", image=b"b")
    other = dataclasses.replace(one, file_name="VG_100K/6.jpg", image=b"a", coco_id=None)
    copy = dataclasses.replace(other, file_name="6.jpg", image_id="6")
    assert count_photographs([one, named, genome]) == 1
    assert count_photographs([one, other, copy, dataclasses.replace(copy, image=b"c")]) == 3


def test_exclusion_digest():
    one, two = (Exclusion(frozenset(names)).facts for names in (["a", "b"], ["b", "c"]))
    assert one["excluded_images"] == two["excluded_images"] == 2 and one != two


def test_training_warns(tmp_path, caplog):
    """By the run's journal, once for each pair of parts."""
    root = write_folder(write_folder(tmp_path / "data", 3), 2, "val", first_id=2)  # 1 2 3, 2 3
    data = DataConfig(str(root), {"coco": 1.0, "localized_narratives": 0.0}, location_bins=16)
    spec = BatchSpec(
        image_size=16,
        mask_size=4,
        regions=2,
        points=2,
        prompt_length=6,
        target_length=8,
        text_length=12,
    )
    journal.log.addHandler(caplog.handler)
    try:
        for changes in ({}, {"eval_split": "train"}):
            batches = open_input(
                dataclasses.replace(data, **changes),
                spec,
                tmp_path / f"run-{len(changes)}",
                seed=0,
                batch_size=2,
                vocabulary=100,
            )
            batches.close()
    finally:
        journal.log.removeHandler(caplog.handler)
    warnings = [
        record.message.strip() for record in caplog.records if record.levelname == "WARNING"
    ]
    assert [message.split(";")[0] for message in warnings] == [
        "coco-train is trained on and has 2 photographs of COCO that coco-val evaluates",
        "coco-train is trained on and has 2 photographs of COCO that localized_narratives-val "
        "evaluates",
        "coco-train is trained on and evaluated, all of its 3 photographs: its scores say nothing "
        "about new ones",
        "coco-train is trained on and has 3 photographs of COCO that localized_narratives-train "
        "evaluates",
    ]
