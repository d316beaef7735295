"""Flickr30k Entities: files written by hand in the published form, and the real ones."""

import collections
import shutil

import numpy as np
import pytest
from PIL import Image
from reading import photograph, read

from input_pipeline.errors import DataError
from input_pipeline.images import BadImage
from input_pipeline.sources.flickr30k_entities import Flickr30kEntities

SENTENCES = """\
[/EN#1/people Two young guys] with [/EN#2/bodyparts/other shaggy hair] eye [/EN#0/notvisual it] .
[/EN#1/people Zwei  Männer] are in [/EN#3/scene the yard] near [/EN#4/other a dog] .
No phrase here

[/EN#5/other wind] blows over [/EN#9/other the sea] .
[/EN#2/bodyparts Hair] , [/EN#6/other a thing] and [/EN#7/other a line] .
"""
OBJECT = "<object>{names}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def thing(names, *box, scene=0, no_box=0):
    names = "".join(f"<name>{name}</name>" for name in names)
    if box:
        return OBJECT.format(*box, names=names) + "</bndbox></object>"
    flags = f"<scene>{scene}</scene><nobndbox>{no_box}</nobndbox>"
    return f"<object>{names}{flags}</object>"


THINGS = [
    thing("1", 3, 5, 13, 25),
    thing("12", 21, 11, 31, 21),  # of two chains
    thing("3", scene=1),
    thing("4", 51, 31, 90, 60),  # leaves the image of 60 x 40
    thing("5", no_box=1),
    thing("6", 70, 10, 80, 20),
    thing("7", 30, 10, 30, 20),
]


@pytest.fixture
def entities(tmp_path):
    for folder in ("Sentences", "Annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train.txt").write_text("36979\n1000092795\n")
    (tmp_path / "val.txt").write_bytes("\ufeff134206\r\n".encode())
    for image_id in ("36979", "1000092795"):
        photograph(tmp_path / f"flickr30k-images/{image_id}.jpg", 60, 40)
        (tmp_path / f"Sentences/{image_id}.txt").write_text(SENTENCES)
        write_xml(tmp_path, image_id, THINGS)
    return tmp_path


def write_xml(root, image_id, things, size=(60, 40)):
    (root / f"Annotations/{image_id}.xml").write_text(
        f"<annotation><filename>{image_id}.jpg</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{''.join(things)}</annotation>"
    )


def test_phrases_and_captions(entities):
    records, tally = read(Flickr30kEntities(entities, entities))
    assert [record.image_id for record in records] == ["36979", "1000092795"]
    (record, _) = records
    assert record.file_name == "flickr30k-images/36979.jpg" and record.coco_id is None
    assert [a.text for a in record.annotations if a.kind == "caption"] == [
        "Two young guys with shaggy hair eye it .",
        "Zwei Männer are in the yard near a dog .",
        "No phrase here",
        "wind blows over the sea .",
        "Hair , a thing and a line .",
    ]
    phrases = {a.text: a.region for a in record.annotations if a.kind == "expression"}
    assert list(phrases) == ["Two young guys", "shaggy hair", "Zwei Männer", "a dog", "Hair"]
    assert len({a.id for a in record.annotations}) == 10
    pixels = phrases["shaggy hair"].box * (60, 40, 60, 40)
    np.testing.assert_allclose(pixels, [20, 10, 30, 20], rtol=1e-6)  # from 1 to from 0
    np.testing.assert_allclose(phrases["a dog"].box * (60, 40, 60, 40), [50, 30, 60, 40], rtol=1e-6)
    union = np.zeros((40, 60), bool)
    union[4:24, 2:12] = union[10:20, 20:30] = True
    np.testing.assert_array_equal(phrases["Two young guys"].mask, union)
    assert phrases["Zwei Männer"] is phrases["Two young guys"]  # stored once
    assert tally == {
        "phrases_not_visual": 2,
        "phrases_of_the_scene": 2,
        "phrases_without_box": 2,
        "phrases_not_annotated": 2,
        "phrases_of_boxes_outside": 4,
        "boxes_clipped": 2,
        "boxes_without_area": 4,
    }


def test_unrelated_captions(entities):
    (entities / "UNRELATED_CAPTIONS").write_text("# format: <imageID> <n>\n36979 1\n36979 4\n7 1\n")
    source = Flickr30kEntities(entities, entities)
    assert entities / "UNRELATED_CAPTIONS" in source.files("train")
    (first, second), tally = read(source)
    assert tally["captions_unrelated"] == 2
    captions = [a.text for a in first.annotations if a.kind == "caption"]
    assert [text.split()[0] for text in captions] == ["Zwei", "No", "Hair"]
    assert "shaggy hair" not in {a.text for a in first.annotations}
    assert len(second.annotations) == 10


def test_files(entities):
    source = Flickr30kEntities(entities, entities)
    assert [path.name for path in source.files("train")] == [
        *("train.txt", "36979.txt", "36979.xml", "1000092795.txt", "1000092795.xml")
    ]
    with pytest.raises(DataError, match="no file .*tran.txt; did you mean `train.txt`"):
        source.files("tran")
    with pytest.raises(DataError, match="no file .*134206.xml"):
        read(source, "val")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.txt", "36979\nx\n", "train.txt, line 2: 'x' is not an image's number"),
        ("UNRELATED_CAPTIONS", "12\n", "UNRELATED_CAPTIONS, line 1: '12' is not `image caption`"),
        ("Sentences/36979.txt", "A\n[/EN#1 A man] .", "36979.txt, line 2: mark-up in"),
        ("Sentences/36979.txt", "[/EN#1/people ] .", "36979.txt, line 1: mark-up in"),
        ("Sentences/36979.txt", "[/EN#1/people A man .", "36979.txt, line 1: mark-up in"),
        ("Sentences/36979.txt", b"A man\xff", "36979.txt, byte 5: not UTF-8"),
        ("Annotations/36979.xml", "<annotation>", "36979.xml: not XML: .*line 1, column 12"),
        ("Annotations/36979.xml", "<annotation/>", "36979.xml has no size/width"),
    ],
)
def test_broken_files(entities, file, content, message):
    (entities / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read(Flickr30kEntities(entities, entities))


@pytest.mark.parametrize(
    ("things", "message"),
    [
        (thing("1", 1, 2, 3, "x"), "object 0: bndbox/ymax is 'x', not a whole number"),
        (thing("1", 9, 2, 3, 4), "chain 1, box 0: box .* out of order"),
        (thing("", 1, 2, 3, 4), "object 0 has no name"),
        ("<object><name>1</name><scene>1</scene></object>", "object 0 has no nobndbox"),
    ],
)
def test_broken_objects(entities, things, message):
    write_xml(entities, "36979", [things])
    with pytest.raises(DataError, match=f"36979.xml, {message}"):
        read(Flickr30kEntities(entities, entities))


def test_images_are_as_annotated(entities):
    write_xml(entities, "1000092795", THINGS, size=(60, 41))
    with pytest.raises(DataError, match="1000092795.jpg has 60x40 pixels, .*.xml speaks of 60x41"):
        read(Flickr30kEntities(entities, entities))
    (entities / "flickr30k-images/36979.jpg").unlink()
    with pytest.raises(BadImage, match="36979.jpg: No such file"):
        read(Flickr30kEntities(entities, entities))


def test_real_files(shared_data, tmp_path):
    real = shared_data / "flickr30k_entities"
    for folder in ("Sentences", "Annotations"):
        (tmp_path / folder).symlink_to(real / folder)
    for name in ("train.txt", "val.txt", "test.txt", "UNRELATED_CAPTIONS"):
        shutil.copy(real / "official_splits" / name, tmp_path)
    source = Flickr30kEntities(tmp_path, tmp_path)
    counts = [sum(1 for _ in source.items(s, None)) for s in ("train", "val", "test")]
    assert counts == [29_783, 1_000, 1_000]
    (tmp_path / "one.txt").write_text("1000092795\n")
    image = tmp_path / "flickr30k-images/1000092795.jpg"
    image.parent.mkdir()
    Image.new("RGB", (333, 500)).save(image)
    (record,), tally = read(source, "one")
    kinds = collections.Counter(a.kind for a in record.annotations)
    # Of 14 phrases, those of chains 1 (four times), 4 and 6 have boxes in this cut-down file.
    assert kinds == {"caption": 5, "expression": 6}
    assert tally == {"phrases_without_box": 1, "phrases_not_annotated": 7}
    regions = {a.text: a.region for a in record.annotations if a.kind == "expression"}
    np.testing.assert_allclose(
        regions["A man"].box * (333, 500, 333, 500), [196, 109, 260, 372], rtol=1e-6
    )
    bushes = regions["many bushes"].mask
    assert bushes.sum() == 210 * 253 + 56 * 122 and bushes[219:472, 0:210].all()
    for path in sorted((real / "Sentences").iterdir()):  # all of the real mark-up can be read
        captions = source._captions(path.stem)
        assert len(captions) == 5
        for line, (caption, phrases) in zip(path.open(), captions, strict=False):
            assert len(phrases) == line.count("[/EN#") and "[" not in caption
