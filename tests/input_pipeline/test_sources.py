"""The official formats, on files written by hand and on real ones."""

import collections
import json
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


def test_proposals(own_folder):
    counts = [SIZE * 2, 5, SIZE**2 - SIZE * 2 - 5]
    entry = {"image_id": 2, "segmentation": {"size": [SIZE, SIZE], "counts": counts}}
    path = proposals.proposals_file(own_folder, "train")
    write_json(path, [entry])
    entries = proposals.read_proposals(path)
    assert entries == {"2": [entry]}
    (region,) = proposals.proposal_regions(entries["2"], SIZE, SIZE, "2.jpg", {})
    assert np.argwhere(region.mask).tolist() == [[row, 2] for row in range(5)]
    with pytest.raises(DataError, match="2.jpg: proposal 0: "):
        proposals.proposal_regions(entries["2"], SIZE, SIZE + 1, "2.jpg", {})


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
