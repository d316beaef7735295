"""What every source promises, tried on each of SOURCES: a new one must be added to smallest.py."""

import collections
import copy
import inspect
import io
import json
import pickle

import pytest
from PIL import Image
from smallest import HEIGHT, SMALLEST, WIDTH

from input_pipeline import sources, tasks
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.records import KINDS, Record


def photograph(size=(WIDTH, HEIGHT)):
    file = io.BytesIO()
    Image.new("RGB", size, (90, 60, 30)).save(file, "jpeg")
    return file.getvalue()


PHOTOGRAPH = photograph()


def opened(name, folder):
    return sources.open_source(name, folder.annotations, folder.images)


def read(source):
    """(items, records); all that crosses between processes is pickled."""
    tally = collections.Counter()
    source = pickle.loads(pickle.dumps(source))
    items = pickle.loads(pickle.dumps(list(source.items("train", tally))))
    return items, [record for item in items if (record := source.record(item, tally))]


def facts(record):
    """Everything in a record that can be compared."""
    plain = {
        key: value for key, value in vars(record).items() if key not in ("annotations", "proposals")
    }
    said = [
        (a.kind, a.text, a.id, a.extra, a.region.bounding_box().tolist(), a.region.area())
        for a in record.annotations
    ]
    return plain, said


def test_every_source_has_a_folder_here():
    assert SMALLEST.keys() == sources.SOURCES.keys()


@pytest.mark.parametrize("name", SMALLEST)
def test_records(tmp_path, name):
    folder = SMALLEST[name](tmp_path, PHOTOGRAPH)
    source = opened(name, folder)
    assert source.files("train") and all(path.is_file() for path in source.files("train"))
    (item,), (record,) = read(source)
    assert record.source == source.name == name
    assert record.image == PHOTOGRAPH and (record.width, record.height) == (WIDTH, HEIGHT)
    assert item.file_name == record.file_name and item.image_id == record.image_id
    assert item.coco_id == record.coco_id
    assert isinstance(record.image_id, str) and record.annotations
    for annotation in record.annotations:
        assert annotation.kind in KINDS and tasks.tasks_of(annotation)
        assert annotation.text and annotation.text == " ".join(annotation.text.split())
        assert isinstance(annotation.id, str) and annotation.id
        box = annotation.region.bounding_box()
        assert (box >= 0).all() and (box <= 1).all() and (box[2:] >= box[:2]).all()
    again = Record.decode(record.encode())
    assert facts(again) == facts(record)


@pytest.mark.parametrize("name", SMALLEST)
def test_documentation(name, tmp_path):
    source = opened(name, SMALLEST[name](tmp_path, PHOTOGRAPH))
    module = inspect.getdoc(inspect.getmodule(type(source)))
    assert "ANNOTATIONS" in module and "IMAGES" in module
    line = inspect.getdoc(type(source)).split("\n")[0]
    assert len(line) < 100 and line.endswith(".")
    assert (
        isinstance(source.licence, str) and "\n" not in source.licence and len(source.licence) > 5
    )


@pytest.mark.parametrize("name", SMALLEST)
def test_missing_annotation_files_are_named(tmp_path, name):
    folder = SMALLEST[name](tmp_path, PHOTOGRAPH)
    for path in opened(name, folder).files("train"):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match="no file") as caught:
            read(opened(name, folder))
        assert not isinstance(caught.value, BadImage)
        assert str(folder.annotations) in str(caught.value)
        path.write_bytes(content)
    assert read(opened(name, folder))[1]


@pytest.mark.parametrize("name", SMALLEST)
def test_broken_lines_are_named(tmp_path, name):
    folder = SMALLEST[name](tmp_path, PHOTOGRAPH)
    path = folder.annotations / folder.broken
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"<?", *lines[2:]])[:2000])
    with pytest.raises(DataError, match=folder.place) as caught:
        read(opened(name, folder))
    assert not isinstance(caught.value, BadImage)


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("image", [None, b"", b"<html>", PHOTOGRAPH[:300]])
def test_bad_images_are_named(tmp_path, name, image):
    folder = SMALLEST[name](tmp_path, image)
    with pytest.raises(BadImage, match=folder.image):
        read(opened(name, folder))


# Of those that share a file format, one.
FORMATS = [name for name in SMALLEST if not name.startswith(("refc", "tfds", "coco_instances"))]


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_is_wrong_in_a_file_is_an_error_in_words(tmp_path, name):
    """Every value of every file in turn is taken out or made something else.

    What is read all the same is sound.
    """
    folder = SMALLEST[name](tmp_path, PHOTOGRAPH)
    tried = 0
    for path in sorted(tmp_path.rglob("*")):
        if path.suffix not in (".json", ".jsonl", ".p"):
            continue
        before = path.read_bytes()
        for content in broken_in_turn(loaded(path)):
            path.write_bytes(dumped(content, path))
            tried += 1
            try:
                records = read(opened(name, folder))[1]
            except DataError:
                continue
            for record in records:
                assert record.annotations, content
                for annotation in record.annotations:
                    asked = [task for task in tasks.tasks_of(annotation) if task != "locate"]
                    answers = [tasks.texts(task, annotation)[1] for task in asked]
                    assert all(text.strip() for text in (annotation.text, *answers)), content
                Record.decode(record.encode())
        path.write_bytes(before)
    assert tried > 20 or name == "flickr30k_entities"


def loaded(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pickle.loads(path.read_bytes()) if path.suffix == ".p" else json.loads(path.read_text())


def dumped(content, path):
    if path.suffix == ".jsonl":
        lines = content if isinstance(content, list) else [content]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()
    return pickle.dumps(content, 2) if path.suffix == ".p" else json.dumps(content).encode()


def broken_in_turn(content, put=lambda value: value):
    """Yields copies of a JSON value with one value in it taken out, or made another."""
    for value in (None, "", " ", -1, [], {}, [[1, 2, 3, 4]]):
        yield put(value)
    keys = range(len(content)) if isinstance(content, list) else content
    for key in keys if isinstance(content, list | dict) else ():

        def inside(value, key=key):
            changed = copy.copy(content)
            changed[key] = value
            return put(changed)

        yield from broken_in_turn(content[key], inside)
        without = copy.copy(content)
        del without[key]
        yield put(without)


SAYS_THE_SIZE = {"coco", "flickr30k_entities", "visual_genome", "vcr"} | {
    name for name in SMALLEST if name.startswith("ref") and name != "referring_json"
}


@pytest.mark.parametrize("name", sorted(SAYS_THE_SIZE))
def test_images_of_another_size_are_refused(tmp_path, name):
    folder = SMALLEST[name](tmp_path, photograph((WIDTH + 1, HEIGHT)))
    with pytest.raises(DataError, match=f"{WIDTH + 1}x{HEIGHT}") as caught:
        read(opened(name, folder))
    assert not isinstance(caught.value, BadImage)
