"""Triplets as lines and as tars, written here with json and tarfile alone."""

import collections
import dataclasses
import io
import json
import pickle
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.records import Record
from input_pipeline.sources.tar_samples import read_samples

WIDTH, HEIGHT = 40, 20
HOW = {"prompt": "a photo of", "scores": [0.5, 0.25]}
LINES = [
    {"image": "a/1.jpg", "text": " a red\tkite ", "box": [10, 5, 20, 15], "provenance": HOW},
    {"image": "a/1.jpg", "text": "two dogs", "boxes": [[0, 0, 2, 1], [3, 0, 5, 1]], "caption": "x"},
    {"image": "2.png", "text": "sand", "box": [-9, 10, 90, 30], "caption": "a beach"},
    {"image": "2.png", "text": "a boat", "box": [50, 0, 60, 9], "caption": "a beach"},
]


def photograph(kind="jpeg", shade=0):
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (shade, 0, 0)).save(file, kind)
    return file.getvalue()


def write_lines(root, lines=LINES, name="train.jsonl"):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "images/a").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "images/a/1.jpg").write_bytes(photograph())
    (root / "images/2.png").write_bytes(photograph("png"))
    return root


def write_tar(path, members, mode="w"):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            if isinstance(content, dict | list):
                content = json.dumps(content).encode()
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def read(root, images="images"):
    tally = collections.Counter()
    source = sources.open_source("triplets", root / "annotations", root / images)
    items = pickle.loads(pickle.dumps(list(source.items("train", tally))))
    return [record for item in items if (record := source.record(item, tally))], +tally


def told(record):
    return [(a.kind, a.text, a.id, a.extra) for a in record.annotations]


def test_lines(tmp_path):
    records, tally = read(write_lines(tmp_path))
    assert [told(record) for record in records] == [
        [
            ("expression", "a red kite", "1", {"provenance": HOW}),
            ("expression", "two dogs", "2", {}),
            ("caption", "x", "2", {}),
        ],
        [("expression", "sand", "3", {}), ("caption", "a beach", "3", {})],
    ]
    assert tally == {"boxes_clipped": 1, "boxes_without_area": 1, "texts_without_region": 1}
    kite, dogs, _ = records[0].annotations
    np.testing.assert_allclose(kite.region.box, [0.25, 0.25, 0.5, 0.75])
    assert np.argwhere(dogs.region.mask).tolist() == [[0, 0], [0, 1], [0, 3], [0, 4]]
    np.testing.assert_allclose(records[1].annotations[0].region.box, [0, 0.5, 1, 1])
    for record, name in zip(records, ("a/1.jpg", "2.png"), strict=True):
        assert record.file_name == record.image_id == name and record.coco_id is None
        assert record.image == (tmp_path / "images" / name).read_bytes()
        assert told(Record.decode(record.encode())) == told(record)


def test_files_of_a_split(tmp_path):
    write_lines(tmp_path, LINES[:1])
    write_lines(tmp_path, LINES[2:3], "train-00001.jsonl")
    write_lines(tmp_path, LINES[2:3], "training.jsonl")
    write_lines(tmp_path, LINES[2:3], "val.jsonl")
    (tmp_path / "annotations/train").mkdir()
    write_lines(tmp_path, LINES[:2], "train/0.jsonl")
    write_tar(tmp_path / "annotations/train-7.tar", [("k.jpg", photograph())])
    source = sources.open_source("triplets", tmp_path / "annotations", tmp_path / "images")
    names = [str(path.relative_to(tmp_path / "annotations")) for path in source.files("train")]
    assert names == ["train.jsonl", "train-00001.jsonl", "train/0.jsonl", "train-7.tar"]
    with pytest.raises(DataError, match="no file .*trian.jsonl; did you mean `train.jsonl`"):
        source.files("trian")


def triplet(line):
    return {key: value for key, value in line.items() if key != "image"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_say_what_lines_say(tmp_path, form, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "format", form)
    expected, tally = read(write_lines(tmp_path / "lines"))
    long = "folder/" + "n" * 90 + "/"  # needs more than the plain header has
    write_tar(
        tmp_path / "annotations/train-000000.tar",
        [
            (f"{long}1.json", [triplet(line) for line in LINES[:2]]),
            (f"{long}1.jpg", photograph()),
            (f"{long}1.txt", b"what is passed over"),
        ],
    )
    write_tar(
        tmp_path / "annotations/train-000001.tar",
        [
            ("2.extra.json", b"not this one"),
            ("2.PNG", photograph("png")),
            ("2.json", [triplet(line) for line in LINES[2:]]),
            ("3.jpg", photograph()),
        ],
    )
    records, found = read(tmp_path, "annotations")
    assert found == tally + collections.Counter(samples_without_json=1)
    names = [f"train-000000.tar/{long}1", "train-000001.tar/2"]
    for record, line, name in zip(records, expected, names, strict=True):
        assert record.file_name == name and record.image == line.image
        assert [a[:2] + a[3:] for a in told(record)] == [a[:2] + a[3:] for a in told(line)]
        ours, theirs = (
            [a.region.bounding_box().tolist() for a in one.annotations] for one in (record, line)
        )
        assert ours == theirs


def test_images_of_a_tar_are_read_where_they_lie(tmp_path):
    photographs = [photograph(shade=shade) for shade in range(0, 250, 10)]
    members = [
        (f"{n}.{ending}", content)
        for n, data in enumerate(photographs)
        for ending, content in (("jpg", data), ("json", triplet(LINES[0])))
    ]
    write_tar(tmp_path / "annotations/train.tar", members)
    source = sources.open_source("triplets", tmp_path / "annotations", tmp_path / "annotations")
    items = list(source.items("train", collections.Counter()))
    for n in (17, 3, 24, 0):
        assert source.record(items[n], collections.Counter()).image == photographs[n]
    bad = dataclasses.replace(items[5], place=(items[5].place[0] + 100, items[5].place[1] - 100))
    with pytest.raises(BadImage, match="train.tar/5 .*no image"):
        source.record(bad, collections.Counter())


def test_memory_does_not_grow_with_a_tar(tmp_path):
    peaks = []
    for count in (50, 500):
        path = tmp_path / f"{count}.tar"
        write_tar(path, [(f"{n}.{e}", b"{}") for n in range(count) for e in ("jpg", "json")])
        tracemalloc.start()
        assert sum(1 for _ in read_samples(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.pop("image"), "line 2 has no `image`"),
        (lambda line: line.pop("text"), "line 2 has no `text`"),
        (lambda line: line.update(text=" "), "line 2: `text` is empty"),
        (lambda line: line.update(boxs=line.pop("box")), "`boxs` is not a key .*mean `boxes`"),
        (lambda line: line.update(boxes=[[1, 2, 3, 4]]), "line 2 has both `box` and `boxes`"),
        (lambda line: line.update(box=[20, 5, 10, 15]), "line 2, box 0: .* out of order"),
        (lambda line: line.update(boxes=[], box=0) or line.pop("box"), "line 2: `boxes` is empty"),
        (lambda line: line.update(provenence={}), "`provenence` is not .*mean `provenance`"),
        (lambda line: line.update(provenance="LLaVA"), "line 2: `provenance` is a str"),
        (lambda line: line.update(caption=["a"]), "line 2: `caption` is a list"),
    ],
)
def test_errors_name_the_line(tmp_path, change, message):
    line = dict(LINES[0])
    change(line)
    write_lines(tmp_path, [LINES[0], line])
    with pytest.raises(DataError, match=message):
        read(tmp_path)


SAMPLE = [("7.json", triplet(LINES[0])), ("7.jpg", photograph())]


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        (SAMPLE[:1], BadImage, "train.tar/7: beside its JSON lies no image"),
        ([SAMPLE[0], ("7.jpg", b"")], BadImage, r"train.tar/7 \(0 bytes\): the file is empty"),
        ([SAMPLE[0], ("7.jpg", SAMPLE[1][1][:300])], BadImage, r"train.tar/7 \(300 bytes\)"),
        ([*SAMPLE, ("7.png", b"")], DataError, "train.tar: 7 has two images, .* 7.png"),
        ([("7.json", b"{"), SAMPLE[1]], DataError, "train.tar: 7.json, line 1, column 2: not JSON"),
        ([("7.json", b"[3]"), SAMPLE[1]], DataError, "7.json, triplet 0 is a int"),
        ([("7.json", LINES[0]), SAMPLE[1]], DataError, "triplet 0: `image` is not a key"),
    ],
)
def test_errors_name_the_sample(tmp_path, members, error, message):
    write_tar(tmp_path / "annotations/train.tar", members)
    with pytest.raises(error, match=message):
        read(tmp_path, "annotations")


def test_tars_that_cannot_be_read(tmp_path):
    path = tmp_path / "annotations/train.tar"
    write_tar(path, SAMPLE, "w:gz")
    with pytest.raises(DataError, match="train.tar cannot be read as an uncompressed tar"):
        read(tmp_path, "annotations")
    write_tar(path, [*SAMPLE, ("8.jpg", bytes(5000))])
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match="train.tar cannot be read .*unexpected end"):
        read(tmp_path, "annotations")
