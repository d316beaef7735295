"""TFDS datasets in ArrayRecord, built here without TensorFlow with the features of public ones."""

import collections
import io
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.ref_coco.ref_coco_dataset_builder import Builder as RefCoco
from tfds_folder import build

from input_pipeline import sources
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.records import Record
from input_pipeline.sources.tfds_records import TfdsRecords

WIDTH, HEIGHT = 40, 20
Sequence, Text, BBox = tfds.features.Sequence, tfds.features.Text, tfds.features.BBoxFeature


def box(x0, y0, x1, y1):
    """Pixels to what TFDS builders are given."""
    return tfds.features.BBox(ymin=y0 / HEIGHT, xmin=x0 / WIDTH, ymax=y1 / HEIGHT, xmax=x1 / WIDTH)


def photograph(shade=0, kind="jpeg"):
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (shade, 0, 0)).save(file, kind)
    return file.getvalue()


def mask(x0, y0, x1, y1, mode="1", size=(WIDTH, HEIGHT)):
    file = io.BytesIO()
    image = Image.new(mode, size)
    image.paste(1, (x0, y0, x1, y1))
    image.save(file, "png")
    return file.getvalue()


def read(folder, split="train", **options):
    tally = collections.Counter()
    source = pickle.loads(pickle.dumps(TfdsRecords(folder, folder, **options)))
    items = pickle.loads(pickle.dumps(list(source.items(split, tally))))
    return [record for item in items if (record := source.record(item, tally))], +tally


def told(record):
    return [(a.kind, a.text, a.id) for a in record.annotations]


def thing(number, x0, y0, x1, y1, refexp):
    return {
        "id": number,
        "area": 9,
        "bbox": box(x0, y0, x1, y1),
        "label": 18,
        "gt_box_index": 0,
        "mask": io.BytesIO(mask(x0, y0, x1 - 1, y1)),
        "refexp": [{"refexp_id": key, "raw": text} for key, text in refexp.items()],
    }


REFERENCES = [
    {"image": (7, 0), "image/id": 581857, "coco_annotations": [], "objects": []},
    {
        "image": (7, 90),
        "image/id": 581921,
        "coco_annotations": [{"id": 1, "area": 9, "bbox": box(0, 0, 4, 4), "label": 3}],
        "objects": [
            thing(10, 4, 2, 12, 10, {100: "the  dog", 101: "café\ndog"}),
            thing(11, 20, 5, 40, 20, {102: "a cat"}),
            thing(12, 0, 0, 9, 9, {}),
        ],
    },
]


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """A ref_coco of two photographs, with the features of the installed builder."""
    features = RefCoco(config="refcoco_unc", data_dir=tmp_path_factory.mktemp("none")).info.features
    examples = [
        {**example, "image": io.BytesIO(photograph(example["image"][1]))} for example in REFERENCES
    ]
    return build("ref_coco", tmp_path_factory.mktemp("tfds"), features, examples, split="testA")


def test_ref_coco(references):
    (record,), tally = read(references, "testA")
    assert told(record) == [
        ("expression", "the dog", "100"),
        ("expression", "café dog", "101"),
        ("expression", "a cat", "102"),
    ]
    assert tally == {"images_without_annotations": 1}
    assert (record.image_id, record.coco_id, record.width, record.height) == (
        "581921",
        581921,
        WIDTH,
        HEIGHT,
    )
    assert record.image == photograph(90)
    dog, again, cat = (a.region for a in record.annotations)
    assert dog is again
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:10, 4:11] = True  # the mask is a column narrower than the box
    np.testing.assert_array_equal(dog.mask, expected)
    np.testing.assert_allclose(cat.bounding_box() * (WIDTH, HEIGHT, WIDTH, HEIGHT), [20, 5, 39, 20])
    assert told(Record.decode(record.encode())) == told(record)


def test_options_take_the_place_of_what_is_known(references):
    (record,), _ = read(references, "testA", boxes="objects/bbox", expressions="objects/refexp/raw")
    found = record.annotations[0].region.box * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    np.testing.assert_allclose(found, [4, 2, 12, 10], rtol=1e-6)


COCO = {  # tensorflow_datasets/object_detection/coco.py and coco_captions.py
    "image": tfds.features.Image(encoding_format="jpeg"),
    "image/filename": Text(),
    "image/id": np.int64,
    "objects": Sequence(
        {
            "id": np.int64,
            "area": np.int64,
            "bbox": BBox(),
            "label": tfds.features.ClassLabel(num_classes=80),
            "is_crowd": np.bool_,
        }
    ),
    "captions": Sequence({"text": np.str_, "id": np.int64}),
}


def captioned(names=None):
    label = tfds.features.ClassLabel(names=names) if names else COCO["objects"].feature["label"]
    features = {**COCO, "objects": Sequence({**COCO["objects"].feature, "label": label})}
    things = [
        (1, (0, 0, 10, 10), 1, False),
        (2, (5, 5, 30, 15), 0, True),
        (3, (4, 4, 4, 9), 0, False),
    ]
    return features, {
        "image": io.BytesIO(photograph()),
        "image/filename": "COCO_val2014_000000000042.jpg",
        "image/id": 42,
        "objects": [
            {"id": number, "area": 1, "bbox": box(*edges), "label": label, "is_crowd": crowd}
            for number, edges, label, crowd in things
        ],
        "captions": [{"text": "a shoe", "id": 641613}, {"text": " ", "id": 643}],
    }


def test_coco_captions(tmp_path):
    features, example = captioned(["dog", "shoe"])
    (record,), tally = read(build("coco_captions", tmp_path, features, [example]))
    assert told(record) == [("caption", "a shoe", "641613"), ("phrase", "shoe", "1")]
    assert (record.image_id, record.coco_id) == ("42", 42)
    np.testing.assert_allclose(record.annotations[1].region.box, [0, 0, 0.25, 0.5])
    assert tally == {
        "crowd_regions": 1,
        "boxes_without_area": 1,
        "texts_without_region": 2,
        "empty_texts": 1,
    }


def test_labels_without_names_are_no_phrases(tmp_path):
    features, example = captioned()
    folder = build("coco_captions", tmp_path, features, [example])
    (record,), _ = read(folder)
    assert told(record) == [("caption", "a shoe", "641613")]
    with pytest.raises(DataError, match="objects/label is a ClassLabel, which cannot be `labels`"):
        read(folder, boxes="objects/bbox", labels="objects/label")


OTHER = {
    "photo": tfds.features.Image(encoding_format="png"),
    "key": Text(),
    "sentence": Text(),
    "where": BBox(),
    "kind": tfds.features.ClassLabel(names=["kite", "boat"]),
    "outline": tfds.features.Image(encoding_format="png"),
    "qa": Sequence({"question": Text(), "answer": Text()}),
    "numbers": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
}


def other(**changes):
    return {
        "photo": io.BytesIO(photograph(kind="png")),
        "key": "x7",
        "sentence": "a kite",
        "where": box(10, 5, 20, 15),
        "kind": 0,
        "outline": io.BytesIO(mask(0, 0, 3, 2, "L")),
        "qa": [{"question": "Is it up?", "answer": "yes"}],
        "numbers": np.zeros((1, 4), np.float32),
    } | changes


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A dataset in a form of its own: one box an image, other names."""
    return build("kites", tmp_path_factory.mktemp("tfds"), OTHER, [other()])


NAMED = {"image": "photo", "image_id": "key"}


def test_features_by_option(others):
    (record,), tally = read(
        others,
        **NAMED,
        captions="sentence",
        boxes="where",
        masks="outline",
        labels="kind",
        expressions="sentence",
        questions="qa/question",
        answers="qa/answer",
    )
    assert told(record) == [
        ("caption", "a kite", "0"),
        ("phrase", "kite", "0"),
        ("expression", "a kite", "0"),
        ("question", "Is it up?", "0"),
    ]
    assert record.annotations[3].extra == {"answer": "yes"}
    assert np.argwhere(record.annotations[1].region.mask).tolist() == [
        [row, column] for row in range(2) for column in range(3)
    ]
    assert (record.image_id, record.coco_id, record.file_name) == ("x7", None, "kites/train/0")
    assert not tally


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no features that are known to be texts.*its features are key, kind"),
        ({"captions": "sentense"}, "no feature sentense; did you mean `sentence`"),
        ({"captions": "key", "image": ""}, "no feature image; .*its features are"),
        ({"captions": "kind"}, "kind is a ClassLabel, which cannot be `captions`"),
        ({"boxes": "numbers", "labels": "kind"}, "numbers is a Tensor, which cannot be `boxes`"),
        ({"labels": "kind"}, "`labels` needs `boxes`"),
        ({"questions": "qa/question"}, "`questions` needs `answers`"),
        (
            {
                "boxes": "where",
                "expressions": "qa/question",
                "masks": "photo",
                "labels": "qa/answer",
            },
            "qa/answer is 1 lists deep, `labels` may be 0",
        ),
        ({"captions": "sentence", "image_id": "qa/question"}, "`image_id` may be 0"),
    ],
)
def test_options_that_cannot_be(others, options, message):
    with pytest.raises(DataError, match=message):
        read(others, **{**NAMED, **options})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"photo": io.BytesIO(b"")}, BadImage, r"train example 0 \(0 bytes\): the file is empty"),
        ({"photo": io.BytesIO(b"text")}, BadImage, "train example 0 .*no image"),
        (
            {"outline": io.BytesIO(mask(0, 0, 3, 2, "L", (41, 20)))},
            DataError,
            "train example 0, mask 0: 41x20 pixels, its image 40x20",
        ),
        ({"outline": io.BytesIO(b"x")}, BadImage, "train example 0, mask 0 .*no image"),
    ],
)
def test_broken_examples_are_named(tmp_path, changes, error, message):
    folder = build("kites", tmp_path, OTHER, [other(**changes)])
    with pytest.raises(error, match=message):
        read(folder, **NAMED, boxes="where", masks="outline", labels="kind")


def test_empty_masks_fall_back_to_the_box(tmp_path):
    black = other(outline=io.BytesIO(mask(0, 0, 0, 0)))
    folder = build("kites", tmp_path, OTHER, [black])
    (record,), tally = read(folder, **NAMED, boxes="where", masks="outline", labels="kind")
    np.testing.assert_allclose(record.annotations[0].region.box, [0.25, 0.25, 0.5, 0.75])
    assert tally == {"masks_without_pixel": 1}


def test_folders_that_cannot_be_read(references, tmp_path):
    with pytest.raises(DataError, match="no file .*dataset_info.json"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no split testa; did you mean `testA`\?; it has"):
        read(references, "testa")
    for name in ("features.json", "dataset_info.json"):
        folder = shutil.copytree(references, tmp_path / name)
        (folder / name).write_text("{")
        with pytest.raises(DataError, match=f"{folder} is no TFDS dataset"):
            read(folder, "testA")
    for name, change, message in (
        ("cut", lambda shard: shard.write_bytes(shard.read_bytes()[:1000]), "ArrayRecord"),
        ("gone", lambda shard: shard.unlink(), "No such file"),
    ):
        folder = shutil.copytree(references, tmp_path / name)
        (shard,) = folder.glob("*.array_record*")
        change(shard)
        with pytest.raises(DataError, match=f"{name}, testA example 0 cannot be read.*{message}"):
            read(folder, "testA")


def test_other_file_formats_are_named(references, tmp_path):
    folder = shutil.copytree(references, tmp_path / "copy")
    facts = folder / "dataset_info.json"
    assert '"array_record"' in facts.read_text()
    facts.write_text(facts.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match="prepared as tfrecord; .*file_format='array_record'"):
        read(folder, "testA")


def test_the_source_is_listed(references):
    source = sources.open_source("tfds", references, references)
    names = [path.name for path in source.files("testA")]
    assert names == ["dataset_info.json", "features.json"]
