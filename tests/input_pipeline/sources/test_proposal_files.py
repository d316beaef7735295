"""Proposals as Segment Anything leaves them, and in COCO's forms; what is wrong is named."""

import collections
import dataclasses
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.sources.proposals import (
    MaskFolder,
    ResultsFile,
    Segmenter,
    find_proposals,
    read_mask,
)

WIDTH, HEIGHT = 6, 4


@dataclasses.dataclass(frozen=True)
class Item:
    image_id: str
    file_name: str


@dataclasses.dataclass(frozen=True)
class Record:
    file_name: str
    width: int = WIDTH
    height: int = HEIGHT


ITEM = Item("7", "train2014/photo_7.jpg")


def save(path, *pixels, mode="L", on=255, size=(WIDTH, HEIGHT)):
    """Writes a mask whose numbered pixels, row by row, are on."""
    values = np.zeros(size[0] * size[1], np.uint8)
    values[list(pixels)] = on
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.reshape(size[::-1])).convert(mode).save(path)


def regions(place, item=ITEM, split="val"):
    """(first on-pixel of each mask, row by row; tally)"""
    tally = collections.Counter()
    source = find_proposals(place, split)
    entries = source.open()(item)
    found = source.regions(entries, Record(item.file_name), tally) if entries else []
    return [int(np.flatnonzero(region.mask)[0]) for region in found], dict(tally)


def test_masks_of_an_image_in_a_folder(tmp_path):
    for number in (10, 2, 0):
        save(tmp_path / "photo_7" / f"{number}.png", number, number + 1)
    save(tmp_path / "photo_7" / "3.png")  # nothing is on
    (tmp_path / "photo_7" / "metadata.csv").write_text("id,area\n0,12\n")
    save(tmp_path / "photo_8" / "0.png", 5)
    assert regions(tmp_path) == ([0, 2, 10], {"empty_proposals": 1})
    assert regions(tmp_path, Item("8", "photo_8.png")) == ([5], {})
    assert regions(tmp_path, Item("9", "photo_9.png")) == ([], {})
    region = find_proposals(tmp_path, "val").regions(
        [tmp_path / "photo_7" / "2.png"], Record("photo_7.jpg"), {}
    )[0]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[0, 2:4] = True
    np.testing.assert_array_equal(region.mask, expected)


@pytest.mark.parametrize(
    ("mode", "on"), [("L", 255), ("1", 255), ("P", 255), ("RGB", 255), ("L", 1)]
)
def test_kinds_of_png(tmp_path, mode, on):
    save(tmp_path / "m.png", 1, 8, mode=mode, on=on)
    assert np.flatnonzero(read_mask(tmp_path / "m.png")).tolist() == [1, 8]


@pytest.mark.parametrize("inside", [None, "annotations"])
def test_run_lengths_of_an_image_in_a_file(tmp_path, inside):
    # Column by column: the third pixel of the first column is the 13th, row by row.
    entries = [
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [2, 1, 21]}, "area": 1},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [24]}},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 24]}},
    ]
    content = {inside: entries, "image": {}} if inside else entries
    (tmp_path / "photo_7.json").write_text(json.dumps(content))
    assert regions(tmp_path) == ([12, 0], {"empty_proposals": 1})
    assert regions(tmp_path, Item("8", "photo_8.png")) == ([], {})


def test_one_file_of_results(tmp_path):
    entry = {"image_id": 7, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [4, 2, 18]}}
    for name in ("mine.json", "proposals_val2017.json"):
        (tmp_path / name).write_text(json.dumps([entry]))
    for place in (tmp_path / "mine.json", tmp_path):
        assert isinstance(find_proposals(place, "val"), ResultsFile)
        assert regions(place) == ([1], {})
        assert regions(place, Item("8", "photo_7.jpg")) == ([], {})  # by id, not by name
    with pytest.raises(DataError, match="no file .*proposals_train2017.json.*proposals_val2017"):
        find_proposals(tmp_path, "train")


def test_places_that_cannot_be(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        find_proposals(tmp_path / "nowhere", "val")
    with pytest.raises(DataError, match="neither proposals_val2017.json nor masks of images"):
        find_proposals(tmp_path, "val")


def png(*head):
    """A PNG without pixels whose IHDR holds these bytes."""
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", bytes(head)), (b"IDAT", b"")):
        check = zlib.crc32(name + content)
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(0, 0, 80, 0, 0, 0, 80, 0, 8, 0, 0, 0, 0), "419430400 pixels.*decompression bomb"),
        (png(0, 0, 0, 4), "[Tt]runcated IHDR"),
    ],
    ids=["bomb", "cut"],
)
def test_masks_that_are_dangerous_or_broken(tmp_path, data, message):
    (tmp_path / "m.png").write_bytes(data)
    with pytest.raises(DataError, match=f"m.png cannot be read: .*{message}"):
        read_mask(tmp_path / "m.png")


def test_masks_that_cannot_be(tmp_path):
    save(tmp_path / "photo_7" / "0.png", 1, size=(WIDTH + 1, HEIGHT))
    with pytest.raises(DataError, match=r"0.png is 7x4, train2014/photo_7.jpg is 6x4"):
        regions(tmp_path)
    save(tmp_path / "photo_7" / "0.png", 1, on=128)
    with pytest.raises(DataError, match=r"0.png holds 2 values \(0, 128 …\); a mask is 0 and 255"):
        regions(tmp_path)
    (tmp_path / "photo_7" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="0.png cannot be read"):
        regions(tmp_path)
    Image.new("RGBA", (WIDTH, HEIGHT)).save(tmp_path / "photo_7" / "0.png")
    with pytest.raises(DataError, match="0.png has pixels of mode RGBA"):
        regions(tmp_path)
    (tmp_path / "photo_7.json").write_text("[]")
    with pytest.raises(DataError, match=r"both photo_7/\*.png and photo_7.json"):
        regions(tmp_path)


def test_facts_follow_the_masks(tmp_path):
    save(tmp_path / "photo_7" / "0.png", 1)
    before = find_proposals(tmp_path, "val").facts()
    (tmp_path / "photo_7" / "metadata.csv").write_text("id,area\n0,12\n")
    assert MaskFolder(tmp_path).facts() == before
    save(tmp_path / "photo_7" / "0.png", 2)
    changed = MaskFolder(tmp_path).facts()
    save(tmp_path / "photo_7" / "1.png", 2)
    assert len({str(facts) for facts in (before, changed, MaskFolder(tmp_path).facts())}) == 3


def test_auto_names_what_it_is_made_by(tmp_path):
    assert find_proposals("auto", "val") == Segmenter("")
    assert find_proposals("auto:some/model", "val") == Segmenter("some/model")
    assert find_proposals("auto", "val").facts() == {"proposals auto": "segments 1"}
    with pytest.raises(DataError, match="has no .*safetensors"):
        find_proposals(f"auto:{tmp_path}", "val").facts()
