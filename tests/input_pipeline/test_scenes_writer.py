"""The world on disk: official fields, exact ids, same bytes however it was written."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from input_pipeline import scenes
from input_pipeline.scenes import WorldError
from regionjax.masks import decode_rle, mask_bounds, mask_iou

COUNTS = {"train": 30, "val": 5, "test": 4}
GOLDEN = "66f2294f7cd55994565bdf2361d3ff3891b33a717e8d68c3e11ef40efa91fee0"


def write(root, processes=1, seed=7, **changes):
    counts = {**COUNTS, **changes}
    return scenes.write_world(root, seed=seed, processes=processes, progress=False, **counts)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "world")


def read(world, name):
    return json.loads((world / name).read_text())


def sha256(world):
    return read(world, "world.json")["sha256"]


@pytest.mark.parametrize("split", COUNTS)
def test_coco_instances(world, split):
    content = read(world, f"annotations/instances_{split}2017.json")
    assert content.keys() == {"info", "licenses", "images", "annotations", "categories"}
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(set(names.values())) == len(names) == 2 * 8 * 4 * 7
    assert all(category["name"].endswith(category["supercategory"])
               for category in content["categories"])  # fmt: skip
    assert len(content["images"]) == COUNTS[split]
    taken = {}
    for image in content["images"]:
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        with Image.open(world / f"{split}2017" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (96, 96)
            assert picture.format == "JPEG" and picture.mode == "RGB"
        taken[image["id"]] = np.zeros((96, 96), int)
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) == len(ids)
    for annotation in content["annotations"]:
        mask = decode_rle(annotation["segmentation"])
        x0, y0, x1, y1 = mask_bounds(mask)
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
        assert annotation["category_id"] in names
        taken[annotation["image_id"]] += mask
    assert max(pixels.max() for pixels in taken.values()) == 1  # a pixel shows one thing
    per_image = np.bincount([list(taken).index(a["image_id"]) for a in content["annotations"]])
    assert per_image.min() >= 3 and per_image.max() <= 8


def test_coco_captions(world):
    content = read(world, "annotations/captions_val2017.json")
    assert content.keys() == {"info", "licenses", "images", "annotations"}
    assert [a.keys() for a in content["annotations"]] == [{"id", "image_id", "caption"}] * 10
    assert len({a["id"] for a in content["annotations"]}) == 10


def test_proposals_hold_every_thing_and_more(world):
    things = read(world, "annotations/instances_train2017.json")["annotations"]
    proposals = {}
    for entry in read(world, "annotations/proposals_train2017.json"):
        assert entry.keys() == {"image_id", "category_id", "segmentation", "bbox", "score"}
        assert entry["category_id"] == 1 and 0.5 <= entry["score"] <= 1
        mask = decode_rle(entry["segmentation"])
        x0, y0, x1, y1 = mask_bounds(mask)
        assert entry["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        proposals.setdefault(entry["image_id"], []).append(mask)
    ious = [[mask_iou(decode_rle(thing["segmentation"]), p) for p in proposals[thing["image_id"]]]
            for thing in things]  # fmt: skip
    assert np.mean([max(row) for row in ious]) > 0.9 and min(max(row) for row in ious) > 0.6
    assert np.mean([np.mean(row) for row in ious]) < 0.2  # a blind choice
    assert sum(map(len, proposals.values())) > 1.8 * len(things)


def test_refer(world):
    with (world / "refer/world/refs(unc).p").open("rb") as file:
        refs = pickle.load(file)
    content = read(world, "refer/world/instances.json")
    things = {annotation["id"]: annotation for annotation in content["annotations"]}
    images = {image["id"]: image for image in content["images"]}
    assert len(images) == sum(COUNTS.values())
    assert {ref["split"] for ref in refs} == set(COUNTS)
    for ref in refs:
        assert ref.keys() == {"ref_id", "ann_id", "category_id", "image_id", "file_name",
                              "split", "sent_ids", "sentences"}  # fmt: skip
        thing = things[ref["ann_id"]]
        assert (thing["image_id"], thing["category_id"]) == (ref["image_id"], ref["category_id"])
        assert ref["file_name"] == images[ref["image_id"]]["file_name"]
        assert (world / f"{ref['split']}2017" / ref["file_name"]).is_file()
        assert [s["sent_id"] for s in ref["sentences"]] == ref["sent_ids"]
        assert all(s["tokens"] == s["sent"].split() for s in ref["sentences"])
    assert len({s["sent_id"] for ref in refs for s in ref["sentences"]}) == sum(
        len(ref["sentences"]) for ref in refs
    )
    assert len(refs) > 0.9 * len(things)  # nearly every thing can be told from the others


@pytest.mark.parametrize("split", COUNTS)
def test_localized_narratives(world, split):
    path = world / f"localized_narratives/coco_{split}_localized_narratives.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == COUNTS[split]
    for line in map(json.loads, lines):
        assert list(line) == ["dataset_id", "image_id", "annotator_id", "caption",
                              "timed_caption", "traces", "voice_recording"]  # fmt: skip
        assert line["dataset_id"] == f"mscoco_{split}2017"
        assert (world / f"{split}2017" / f"{int(line['image_id']):012d}.jpg").is_file()
        assert line["caption"] == " ".join(u["utterance"] for u in line["timed_caption"])
        assert all(u.keys() == {"utterance", "start_time", "end_time"}
                   for u in line["timed_caption"])  # fmt: skip
        assert all(point.keys() == {"x", "y", "t"} for part in line["traces"] for point in part)


def test_splits_share_nothing(world):
    ids, pictures = [], []
    for split in COUNTS:
        ids += [i["id"] for i in read(world, f"annotations/instances_{split}2017.json")["images"]]
        pictures += [path.read_bytes() for path in (world / f"{split}2017").iterdir()]
    assert len(set(ids)) == len(set(pictures)) == sum(COUNTS.values())


def test_processes_do_not_change_a_byte(world, tmp_path):
    assert sha256(write(tmp_path / "two", processes=2, train=60)) == sha256(
        write(tmp_path / "one", train=60)
    )
    # and a larger world begins with the smaller one
    for path in (world / "train2017").iterdir():
        assert path.read_bytes() == (tmp_path / "one/train2017" / path.name).read_bytes()


def test_golden_hash(world):
    """If this fails on purpose, raise writer.GENERATOR with it."""
    assert sha256(world) == GOLDEN


def test_seeds_differ(world, tmp_path):
    other = write(tmp_path / "other", seed=8)
    name = "train2017/000100000000.jpg"
    assert (other / name).read_bytes() != (world / name).read_bytes()


def test_writing_again_touches_nothing(world):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*") if path.is_file()}
    write(world)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_world_is_refused(world):
    before = sha256(world)
    with pytest.raises(WorldError, match=r"val 5 there, 6 wanted.*name another folder"):
        write(world, val=6)
    with pytest.raises(WorldError, match="seed 7 there, 8 wanted"):
        write(world, seed=8)
    assert sha256(world) == before


def test_a_folder_of_others_is_refused_untouched(tmp_path):
    (tmp_path / "train2017").mkdir()
    photograph = tmp_path / "train2017/000100000000.jpg"
    photograph.write_text("mine")
    with pytest.raises(WorldError, match="holds train2017 but no world.json"):
        write(tmp_path)
    assert [*tmp_path.rglob("*.jpg")] == [photograph] and photograph.read_text() == "mine"


def test_a_killed_run_is_begun_again(world, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("input_pipeline.scenes.writer._write_refer", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "world")
    assert not (tmp_path / "world/world.json").exists()
    with pytest.raises(WorldError, match="val 5 there, 6 wanted"):
        write(tmp_path / "world", val=6)
    assert sha256(write(tmp_path / "world")) == sha256(world)


def test_impossible_worlds_are_named(tmp_path):
    with pytest.raises(WorldError, match="image_size=20"):
        scenes.write_world(tmp_path, seed=0, train=1, val=1, test=1, image_size=20)
    with pytest.raises(WorldError, match="'val': -1"):
        write(tmp_path, val=-1)
