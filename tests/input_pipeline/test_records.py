"""Records to bytes and back, and the files they lie in."""

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.records import Annotation, Record, Records, write_shard
from input_pipeline.runs import RunRegion
from regionjax.regions import WHOLE_IMAGE, Region


def make_record(number=0):
    rng = np.random.default_rng(number)
    mask = rng.random((20, 30)) > 0.5
    shared = RunRegion.from_mask(mask)
    trace = Region.from_points(rng.normal(0.5, 0.4, (40, 2)).clip(-0.9, 1.9))
    return Record(
        source="coco",
        file_name=f"train2017/{number}.jpg",
        image_id=str(number),
        width=30,
        height=20,
        image=rng.bytes(101),
        annotations=[
            Annotation("phrase", "Käse „gut“", "1", shared),
            Annotation("expression", "the Käse", "2", shared),
            Annotation("narration", "there it is", "7/0", trace),
            Annotation("phrase", "box", "3", Region.from_box([0.1, 0.2, 0.5, 0.9])),
            Annotation("caption", "all of it", "4"),
            Annotation("question", "what?", "5", shared, {"answer": "Käse", "answers": ["ja"]}),
        ],
        proposals=[RunRegion.from_mask(~mask)],
        coco_id=17,
    )


def test_record_round_trip():
    record = make_record()
    copy = Record.decode(record.encode())
    for name in ("source", "file_name", "image_id", "width", "height", "image", "coco_id"):
        assert getattr(copy, name) == getattr(record, name)
    for was, now in zip(record.annotations, copy.annotations, strict=True):
        assert (was.kind, was.text, was.id, was.extra) == (now.kind, now.text, now.id, now.extra)
        assert was.region.kind == now.region.kind
        np.testing.assert_array_equal(was.region.mask, now.region.mask)
        np.testing.assert_array_equal(was.region.points, now.region.points)
        np.testing.assert_array_equal(was.region.box, now.region.box)
        np.testing.assert_array_equal(was.region.bounding_box(), now.region.bounding_box())
    assert copy.annotations[0].region is copy.annotations[1].region
    assert copy.annotations[4].region is WHOLE_IMAGE
    np.testing.assert_array_equal(copy.proposals[0].mask, record.proposals[0].mask)


def test_shared_geometry_is_stored_once():
    record = make_record()
    alone = Record(**{**vars(record), "annotations": record.annotations[:1]})
    both = Record(**{**vars(record), "annotations": record.annotations[:2]})
    assert len(both.encode()) - len(alone.encode()) < 48


@pytest.mark.parametrize("data", [b"", b"\x05\x00\x00\x00nope!", make_record().encode()[:40]])
def test_other_bytes_are_no_record(data):
    with pytest.raises(DataError, match=f"{len(data)} bytes that are not a record"):
        Record.decode(data)


def test_random_access_over_shards(tmp_path):
    files = [tmp_path / "a.array_record", tmp_path / "b.array_record"]
    assert write_shard(files[0], (make_record(n).encode() for n in range(3))) == 3
    assert write_shard(files[1], (make_record(n).encode() for n in range(3, 5))) == 2
    assert not list(tmp_path.glob("*.part"))
    records = Records(dict(zip(files, (3, 2), strict=True)))
    assert len(records) == 5
    assert [records[n].image_id for n in (4, 0, 2, 3)] == ["4", "0", "2", "3"]
    assert [record.image_id for record in records] == ["0", "1", "2", "3", "4"]
    with pytest.raises(IndexError, match="record 5 of 5"):
        records[5]
