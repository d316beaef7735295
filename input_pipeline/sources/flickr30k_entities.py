"""Flickr30k Entities: captions whose phrases are linked to boxes.

ANNOTATIONS/Sentences/ID.txt (a caption a line, phrases as [/EN#CHAIN/TYPE words]),
ANNOTATIONS/Annotations/ID.xml (boxes of chains) and the lists ANNOTATIONS/{train,val,test}.txt.
Captions that the file ANNOTATIONS/UNRELATED_CAPTIONS names, where it is, are left out.
IMAGES/flickr30k-images/ID.jpg, as Localized Narratives reads them.

An image makes one record: every caption is a `caption`; every phrase of a chain that has boxes is
an `expression`, its region the box or the union of the boxes. Coordinates are less 1 than in the
files, which count from 1. Texts are as the files have them, with spaces around punctuation.
"""

import dataclasses
import pathlib
import re
import xml.etree.ElementTree as ElementTree

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import existing
from input_pipeline.sources.pixel_regions import boxes_region
from input_pipeline.sources.source import Item

_PHRASE = re.compile(r"\[/EN#(\d+)(?:/[^\s\]]+)+\s+([^\]]*)\]")
_NOT_VISUAL = "0"  # the chain of phrases that show nothing
_UNRELATED = "UNRELATED_CAPTIONS"


@dataclasses.dataclass(frozen=True)
class EntitiesItem(Item):
    """An image of a list.

    Attributes:
      unrelated: numbers of captions, from 1, that do not speak of the image.
    """

    unrelated: tuple


@dataclasses.dataclass(frozen=True)
class Flickr30kEntities:
    """Flickr30k Entities: captions, and their phrases with boxes."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "flickr30k_entities"
    licence = "Flickr30k Entities: research use; photographs under Flickr's terms of use"

    def files(self, split):
        """Annotation files of a split: its list and two files an image."""
        unrelated = self.annotations / _UNRELATED
        found = [existing(self.annotations / f"{split}.txt")]
        found += [unrelated] if unrelated.is_file() else []
        for image_id in self._listed(split):
            found += [self._sentences(image_id), self._boxes(image_id)]
        return found

    def items(self, split, tally):
        """Yields an EntitiesItem an image of the split's list."""
        del tally
        unrelated = self._unrelated()
        for image_id in self._listed(split):
            file_name = f"flickr30k-images/{image_id}.jpg"
            yield EntitiesItem(image_id, file_name, None, unrelated.get(image_id, ()))

    def record(self, item, tally):
        """The Record of an image; None if no caption of it is left."""
        path = existing(self._boxes(item.image_id))
        (width, height), chains = read_chains(path)
        regions = {}
        for chain, boxes in chains.boxes.items():
            where = f"{path}, chain {chain}"
            if region := boxes_region(boxes, width, height, where, tally):
                regions[chain] = region
        annotations = []
        for number, (caption, phrases) in enumerate(self._captions(item.image_id), start=1):
            if number in item.unrelated:
                tally["captions_unrelated"] += 1
                continue
            annotations.append(Annotation("caption", caption, str(number)))
            for place, (chain, text) in enumerate(phrases):
                if chain in regions:
                    identifier = f"{number}/{place}"
                    annotations.append(Annotation("expression", text, identifier, regions[chain]))
                else:
                    tally[chains.reason(chain)] += 1
        if not annotations:
            tally["images_without_annotations"] += 1
            return None
        data, *size = read_image(self.images, item.file_name)
        if size != [width, height]:
            raise DataError(
                f"{item.file_name} has {size[0]}x{size[1]} pixels, "
                f"{path} speaks of {width}x{height}"
            )
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=width,
            height=height,
            image=data,
            annotations=annotations,
        )

    def _sentences(self, image_id):
        return self.annotations / "Sentences" / f"{image_id}.txt"

    def _boxes(self, image_id):
        return self.annotations / "Annotations" / f"{image_id}.xml"

    def _listed(self, split):
        """Ids of a split's images."""
        path = self.annotations / f"{split}.txt"
        ids = []
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                if not line.strip().isdecimal():
                    raise DataError(f"{path}, line {number}: {line!r} is not an image's number")
                ids.append(line.strip())
        return ids

    def _unrelated(self):
        """{image id: tuple of caption numbers}"""
        path, found = self.annotations / _UNRELATED, {}
        for number, line in enumerate(_lines(path) if path.is_file() else (), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"(\d+)\s+(\d+)", line.strip())
            if not match:
                raise DataError(f"{path}, line {number}: {line!r} is not `image caption`")
            found[match[1]] = (*found.get(match[1], ()), int(match[2]))
        return found

    def _captions(self, image_id):
        """[(caption, [(chain, phrase)])]"""
        path = self._sentences(image_id)
        found = []
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                found.append(read_caption(line, f"{path}, line {number}"))
        return found


def read_caption(line, where):
    """A line of Sentences: (caption, [(chain, phrase)]), texts with single spaces.

    Raises:
      DataError: mark-up that is not of the published form.
    """
    phrases = [(chain, " ".join(words.split())) for chain, words in _PHRASE.findall(line)]
    plain = _PHRASE.sub(r"\2", line)
    if "/EN#" in plain or not all(text for _, text in phrases):
        raise DataError(f"{where}: mark-up in {line!r} is not [/EN#CHAIN/TYPE words]")
    return " ".join(plain.split()), phrases


class Chains:
    """What an annotation file says of chains.

    Attributes:
      boxes: {chain: list of x0, y0, x1, y1 in pixels}.
      scene: chains that mean the whole scene; no_box: chains that cannot be boxed.
    """

    def __init__(self):
        self.boxes, self.scene, self.no_box = {}, set(), set()

    def reason(self, chain):
        """Why a chain has no region: the name it is counted under."""
        if chain == _NOT_VISUAL:
            return "phrases_not_visual"
        if chain in self.boxes:
            return "phrases_of_boxes_outside"
        if chain in self.scene:
            return "phrases_of_the_scene"
        return "phrases_without_box" if chain in self.no_box else "phrases_not_annotated"


def read_chains(path):
    """An annotation file: ((width, height), Chains).

    Raises:
      DataError: missing, not XML, or without what it must have.
    """
    try:
        root = ElementTree.parse(existing(path)).getroot()
    except (ElementTree.ParseError, ValueError) as error:  # ValueError: an unknown encoding
        raise DataError(f"{path}: not XML: {error}") from error
    size = tuple(_number(root, f"size/{side}", path) for side in ("width", "height"))
    chains = Chains()
    for number, thing in enumerate(root.findall("object")):
        where = f"{path}, object {number}"
        names = [(name.text or "").strip() for name in thing.findall("name")]
        if not all(names) or not names:
            raise DataError(f"{where} has no name")
        if thing.find("bndbox") is not None:
            sides = ("xmin", "ymin", "xmax", "ymax")
            box = [_number(thing, f"bndbox/{side}", where) - 1 for side in sides]
            for name in names:
                chains.boxes.setdefault(name, []).append(box)
        else:
            chains.scene.update(names if _number(thing, "scene", where) else ())
            chains.no_box.update(names if _number(thing, "nobndbox", where) else ())
    return size, chains


def _number(element, place, where):
    text = element.findtext(place)
    if text is None:
        raise DataError(f"{where} has no {place}")
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{where}: {place} is {text!r}, not a whole number") from error


def _lines(path):
    try:
        return existing(path).read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start}: not UTF-8: {error.reason}") from error
