"""Visual Genome: regions, objects with their attributes, and questions.

ANNOTATIONS holds image_data.json and, for each of the option `parts`, a file as published (any
version that has boxes of its own; `image_id` or `id` both name the image):
  regions     region_descriptions.json   a region's sentence is a `phrase` with its box
  objects     objects.json               an object's name is a `phrase` with its box
  attributes  attributes.json            its attributes of one word go before the name: "brown dog"
  questions   question_answers.json      a `question` about the whole image
parts=regions,questions reads only these; the default is all four.

IMAGES/VG_100K/ID.jpg and IMAGES/VG_100K_2/ID.jpg, by the image's url.

Visual Genome has no splits of its own. ANNOTATIONS/SPLIT.txt names the images of a split, one id a
line; without a train.txt, `train` is every image that val.txt and test.txt, if there, do not name.
"""

import dataclasses
import json
import pathlib

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import ID, existing, field
from input_pipeline.sources.json_entries import list_entries
from input_pipeline.sources.named_files import check_option
from input_pipeline.sources.pixel_regions import box_region
from input_pipeline.sources.source import Item

# Part: its file, and the list in each of that file's entries.
_PARTS = {
    "regions": ("region_descriptions.json", "regions"),
    "objects": ("objects.json", "objects"),
    "attributes": ("attributes.json", "attributes"),
    "questions": ("question_answers.json", "qas"),
}
_HELD_OUT = ("val", "test")


@dataclasses.dataclass(frozen=True)
class GenomeItem(Item):
    """An image of image_data.json.

    Attributes:
      size: (width, height), pixels.
      places: {part: (first byte, byte after) of the image's entry in that part's file}.
    """

    size: tuple
    places: dict


@dataclasses.dataclass(frozen=True)
class VisualGenome:
    """Visual Genome: region sentences, objects with attributes, questions."""

    annotations: pathlib.Path
    images: pathlib.Path
    parts: str = ",".join(_PARTS)
    name = "visual_genome"
    licence = "Visual Genome: CC BY 4.0; photographs from Flickr and COCO under their own licences"

    def __post_init__(self):
        for part in self.parts.split(","):
            check_option(part, _PARTS, "parts")

    def files(self, split):
        """Annotation files of a split."""
        parts = [self._file(part) for part in self.parts.split(",")]
        found = [existing(path) for path in [self.annotations / "image_data.json", *parts]]
        return found + self._lists(split)

    def items(self, split, tally):
        """Yields a GenomeItem an image of the split, in the order of image_data.json."""
        path = self.files(split)[0]
        images = {}
        for number, (image, _) in enumerate(list_entries(path)):
            where = f"{path}: image {number}"
            image_id = _image_id(image, where)
            if image_id in images:
                raise DataError(f"{where}: image_id {image_id} is listed twice")
            width, height = (field(image, side, where, int) for side in ("width", "height"))
            url = field(image, "url", where, str).split("/")
            if len(url) < 2:
                raise DataError(f"{where}: url {url[0]!r} has no folder and file name")
            coco_id = image.get("coco_id")
            if coco_id is not None:
                field(image, "coco_id", where, int)
            images[image_id] = ("/".join(url[-2:]), coco_id, (width, height))
        places = {part: self._places(part, images) for part in self.parts.split(",")}
        belongs = self._belongs(split, images)
        for image_id, (file_name, coco_id, size) in images.items():
            if belongs(image_id):
                found = {p: places[p][image_id] for p in places if image_id in places[p]}
                if found:
                    yield GenomeItem(str(image_id), file_name, coco_id, size, found)
                else:
                    tally["images_without_annotations"] += 1

    def record(self, item, tally):
        """The Record of an image; None if nothing is said of it."""
        listed = {part: self._entries(part, place) for part, place in item.places.items()}
        objects, attributes = (listed.get(part, ()) for part in ("objects", "attributes"))
        annotations = [
            *_regions(listed.get("regions", ()), item.size, tally),
            *_objects(objects, attributes, item.size, tally),
            *_questions(listed.get("questions", ()), tally),
        ]
        if not annotations:
            tally["images_without_annotations"] += 1
            return None
        data, *size = read_image(self.images, item.file_name)
        if tuple(size) != item.size:
            raise DataError(
                f"{item.file_name} has {size[0]}x{size[1]} pixels, "
                f"image_data.json speaks of {item.size[0]}x{item.size[1]}"
            )
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=size[0],
            height=size[1],
            image=data,
            annotations=annotations,
            coco_id=item.coco_id,
        )

    def _file(self, part):
        return self.annotations / _PARTS[part][0]

    def _places(self, part, images):
        """{image id: place of its entry}"""
        path, found = self._file(part), {}
        for number, (entry, place) in enumerate(list_entries(path)):
            where = f"{path}: entry {number}"
            image_id = _image_id(entry, where)
            field(entry, _PARTS[part][1], where, list)
            if image_id not in images:
                raise DataError(f"{where}: image {image_id} is not in image_data.json")
            if image_id in found:
                raise DataError(f"{where}: image {image_id} has an entry already")
            found[image_id] = place
        return found

    def _entries(self, part, place):
        """What an image's entry of a part lists: [(entry, where)]."""
        with self._file(part).open("rb") as file:
            file.seek(place[0])
            entry = json.loads(file.read(place[1] - place[0]))
        where = f"{self._file(part)}, image {_image_id(entry, part)}"
        return [(e, f"{where}, entry {n}") for n, e in enumerate(entry[_PARTS[part][1]])]

    def _lists(self, split):
        """The files that say which images a split has."""
        own = self.annotations / f"{split}.txt"
        if split != "train" or own.is_file():
            return [existing(own)]
        held_out = [self.annotations / f"{other}.txt" for other in _HELD_OUT]
        return [path for path in held_out if path.is_file()]

    def _belongs(self, split, images):
        """Says of an image id whether its image is of the split."""
        ids = set()
        for path in self._lists(split):
            for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
                if line.strip():
                    image_id = int(line) if line.strip().isdecimal() else None
                    if image_id not in images:
                        raise DataError(f"{path}, line {number}: image {line!r} is not listed")
                    ids.add(image_id)
        named = (self.annotations / f"{split}.txt").is_file()
        return ids.__contains__ if named else lambda image_id: image_id not in ids


def _regions(listed, size, tally):
    for entry, where in listed:
        text = _line(field(entry, "phrase", where, str))
        if not text:
            tally["regions_without_text"] += 1
        elif region := _box(entry, ("x", "y", "width", "height"), size, where, tally):
            identifier = f"region/{field(entry, 'region_id', where)}"
            yield Annotation("phrase", text, identifier, region)


def _objects(listed, attributes, size, tally):
    """Objects under their names, with the attributes of one word before them."""
    things = {}  # object id: (entry, where, attributes)
    for entry, where in listed:
        things[field(entry, "object_id", where, ID)] = entry, where, []
    for entry, where in attributes:
        thing = things.setdefault(field(entry, "object_id", where, ID), (entry, where, []))
        if entry.get("attributes"):
            thing[2].extend(_texts(entry, "attributes", where))
    for identifier, (entry, where, words) in things.items():
        names = _texts(entry, "names", where)
        if not names:
            tally["objects_without_name"] += 1
        elif region := _box(entry, ("x", "y", "w", "h"), size, where, tally):
            known = {word.lower() for word in names[0].split()}
            adjectives = {}  # each once, in any case of letters
            for word in words:
                if len(word.split()) > 1:
                    tally["attributes_of_several_words"] += 1
                elif word.lower() not in known:
                    adjectives.setdefault(word.lower(), word)
            text = " ".join([*adjectives.values(), names[0]])
            yield Annotation("phrase", text, f"object/{identifier}", region)


def _questions(listed, tally):
    for entry, where in listed:
        question, answer = (_line(field(entry, k, where, str)) for k in ("question", "answer"))
        if question and answer:
            identifier = f"question/{field(entry, 'qa_id', where)}"
            yield Annotation("question", question, identifier, None, {"answer": answer})
        else:
            tally["questions_without_text"] += 1


def _line(text):
    return " ".join(text.split())


def _texts(entry, key, where):
    """The texts in a list of an entry, without empty ones."""
    texts = field(entry, key, where, list)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: `{key}` {texts} are not all texts")
    return [text for text in map(_line, texts) if text]


def _box(entry, keys, size, where, tally):
    """The Region of x, y, width, height in pixels; None if nothing of it lies in the image."""
    x, y, width, height = (field(entry, key, where, int | float) for key in keys)
    if width <= 0 or height <= 0:
        tally["boxes_without_area"] += 1
        return None
    return box_region((x, y, x + width, y + height), *size, where, tally)


def _image_id(entry, where):
    """The number by which an entry of any of the files names its image."""
    old = isinstance(entry, dict) and "image_id" not in entry and "id" in entry
    return field(entry, "id" if old else "image_id", where, int)
