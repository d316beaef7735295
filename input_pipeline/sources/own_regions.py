"""Your own regions: a JSON Lines file that is written by hand or by a few lines of code.

ANNOTATIONS/{split}.jsonl, such as train.jsonl and val.jsonl, holds one image a line; the images lie
in IMAGES. A line, spread out here:

  {"image": "beach/17.jpg",
   "regions": [
     {"text": "kite", "box": [12, 30, 96, 140]},
     {"text": ["the dog on the left", "the wet dog"], "kind": "expression",
      "mask": [[210, 180, 262, 184, 240, 251]]},
     {"text": "dog", "mask": "masks/17-2.png"},
     {"text": "and here the waves roll in", "kind": "narration",
      "points": [[5, 200], [40, 204.5], [90, 210]]}],
   "caption": "A kite over a beach with two dogs.",
   "questions": [
     {"question": "How many dogs are there?", "answer": "2"},
     {"question": "What colour is it?", "answer": "red", "box": [12, 30, 96, 140]}]}

  python -m input_pipeline.prepare own_regions --annotations DIR --images DIR --out OUT \\
      --split train --split val

All coordinates are pixels of the image as it is stored (an EXIF rotation is not applied), counted
from the corner of its first pixel: x to the right, y down; whole numbers or not.

A line has
  image      the file, below IMAGES. Needed, and at least one of the next three.
  regions    a list of regions, below.
  caption    a text, or a list of texts, about the whole image.
  questions  a list of questions, below.
  size       [width, height] that the coordinates refer to. An image of another size is an error.
  coco_id    the number of a photograph of COCO's; `prepare` then knows in which evaluations it is.

A region has
  text       a text, or a list of texts, each of which says the same thing in other words.
  box        [x0, y0, x1, y1]: left, top, right, bottom. Of box, mask and points exactly one.
  mask       a list of polygons [x0, y0, x1, y1, x2, y2, …]; or COCO's run lengths
             {"size": [height, width], "counts": …}; or the name of a PNG below ANNOTATIONS, grey or
             black and white, as large as the image, black where the region is not.
  points     a list of [x, y] in the order in which they were drawn: a click, a scribble, a trace.
  kind       what the text is. It decides what is learnt from it:
             "phrase" (if not given): names what is there; learnt is region → text.
             "expression": fits this region and no other in the image; learnt is region → text and
               text → box.
             "narration": what was said while the points were drawn; learnt is trace → sentence.
  provenance any object; it is kept.

A question has
  question   a text.
  answer     a text; without it the question is not trained on.
  answers    a list of texts: of all who were asked, for scores that count agreement.
  box, mask or points: what it is about, at most one of them; without, the whole image.
  provenance any object; it is kept.

Boxes are cut to the image; points outside it are kept and counted. A box of which nothing is left,
a mask without a pixel, and points of which none is inside are counted and left out with their
texts. Anything else that is wrong stops with the file, the line and, where a key is misspelt, the
nearest right one.
"""

import dataclasses
import pathlib
import re

import numpy as np
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import (
    existing,
    field,
    only_keys,
    parse_line,
    read_json_lines,
    read_lines,
)
from input_pipeline.sources.pixel_regions import box_region, mask_region
from input_pipeline.sources.source import Item
from regionjax.config import nearest
from regionjax.regions import Region, RegionError, points_from_pixels

_CONTENT = ("regions", "caption", "questions")
_LINE = ("image", *_CONTENT, "size", "coco_id")
_SHAPES = ("box", "mask", "points")
_REGION = ("text", *_SHAPES, "kind", "provenance")
_QUESTION = ("question", "answer", "answers", *_SHAPES, "provenance")
_KINDS = ("phrase", "expression", "narration")
_MASK_FILE = re.compile(rb'"mask"\s*:\s*"')
_MASK_MODES = ("1", "L", "I;16")  # Pillow's names for black and white, grey, 16-bit grey


@dataclasses.dataclass(frozen=True)
class OwnItem(Item):
    """A line of a file.

    Attributes:
      line: its object.
      where: "file, line n", for errors.
    """

    line: dict
    where: str


@dataclasses.dataclass(frozen=True)
class OwnRegions:
    """Your own boxes, masks and points: JSON Lines that you write yourself."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "own_regions"
    licence = "own_regions: yours"

    def files(self, split):
        """The file of a split, and the masks that it names and that are there."""
        path, masks = self._listing(split), {}
        for number, line in read_lines(path):
            if _MASK_FILE.search(line):  # else there is nothing to parse it for
                content = parse_line(line, f"{path}, line {number}")
                masks |= dict.fromkeys(_mask_files(content))
        return [path, *filter(pathlib.Path.is_file, (self.annotations / name for name in masks))]

    def _listing(self, split):
        return existing(self.annotations / f"{split}.jsonl")

    def items(self, split, tally):
        """Yields an OwnItem a line."""
        del tally
        path = self._listing(split)
        for number, line in read_json_lines(path):
            where = f"{path}, line {number}"
            only_keys(line, _LINE, where)
            image = field(line, "image", where, str)
            if not any(key in line for key in _CONTENT):
                raise DataError(f"{where} has none of {', '.join(_CONTENT)}")
            coco_id = field(line, "coco_id", where, int) if "coco_id" in line else None
            yield OwnItem(image, image, coco_id, line, where)

    def record(self, item, tally):
        """The Record of a line; None if nothing of it is left."""
        line, where = item.line, item.where
        data, width, height = read_image(self.images, item.file_name)
        if "size" in line and line["size"] != [width, height]:
            raise DataError(
                f"{where}: {item.file_name} has {width}x{height} pixels, its `size` says "
                f"{line['size']}"
            )
        annotations = []
        for number, entry in enumerate(_list(line, "regions", where)):
            place = f"{where}, region {number}"
            annotations += self._region(entry, f"region {number}", place, width, height, tally)
        captions = _texts(line, "caption", where) if "caption" in line else []
        for number, text in enumerate(captions):
            annotations.append(Annotation("caption", text, f"caption {number}"))
        for number, entry in enumerate(_list(line, "questions", where)):
            place = f"{where}, question {number}"
            annotations += self._question(entry, f"question {number}", place, width, height, tally)
        if not annotations:
            tally["images_without_annotations"] += 1
            return None
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=width,
            height=height,
            image=data,
            annotations=annotations,
            coco_id=item.coco_id,
        )

    def _region(self, entry, identifier, where, width, height, tally):
        """The annotations of an entry of `regions`: one for each of its texts."""
        texts = _texts(entry, "text", where)
        only_keys(entry, _REGION, where)
        kind = field(entry, "kind", where, str) if "kind" in entry else "phrase"
        if kind not in _KINDS:
            raise DataError(f"{where}: kind {kind!r} is none of {_KINDS}{nearest(kind, _KINDS)}")
        if not any(shape in entry for shape in _SHAPES):
            raise DataError(f"{where} has none of {', '.join(_SHAPES)}")
        geometry = self._geometry(entry, where, width, height, tally)
        if geometry is None:
            tally["texts_without_region"] += len(texts)
            return []
        return [
            Annotation(kind, text, identifier, geometry, _extra(entry, where)) for text in texts
        ]

    def _question(self, entry, identifier, where, width, height, tally):
        """The annotation of an entry of `questions`, in a list."""
        text = _text(field(entry, "question", where), f"{where}: `question`")
        only_keys(entry, _QUESTION, where)
        geometry = None
        if any(shape in entry for shape in _SHAPES):
            geometry = self._geometry(entry, where, width, height, tally)
            if geometry is None:
                tally["texts_without_region"] += 1
                return []
        extra = _extra(entry, where)
        if "answer" in entry:
            extra["answer"] = _text(entry["answer"], f"{where}: `answer`")
        if "answers" in entry:
            extra["answers"] = [
                _text(answer, f"{where}: `answers`") for answer in _list(entry, "answers", where)
            ]
        return [Annotation("question", text, identifier, geometry, extra)]

    def _geometry(self, entry, where, width, height, tally):
        """The Region or RunRegion of a box, mask or points; None (counted) if nothing is left."""
        shape, *others = [shape for shape in _SHAPES if shape in entry]
        if others:
            raise DataError(f"{where} has both `{shape}` and `{others[0]}`")
        value = entry[shape]
        if shape == "box":
            return box_region(value, width, height, where, tally)
        if shape == "points":
            return _points_region(value, width, height, where, tally)
        if isinstance(value, str):
            value = read_mask(self.annotations / value, where)
            if value.shape != (height, width):
                raise DataError(
                    f"{where}: mask {entry['mask']} has {value.shape[1]}x{value.shape[0]} pixels, "
                    f"its image {width}x{height}"
                )
        return mask_region(value, width, height, where, tally)


def _mask_files(line):
    """Names of the PNG masks in a line, whatever else is wrong with it."""
    for key in ("regions", "questions"):
        entries = line.get(key)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("mask"), str):
                yield entry["mask"]


def read_mask(path, where):
    """The pixels of a PNG that are not black, bool [height, width].

    Raises:
      DataError: missing, not a PNG, cut short, or coloured; names the file and `where`.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{where}: mask {path}: {getattr(error, 'strerror', 0) or error}"
        ) from error
    if mode not in _MASK_MODES:
        raise DataError(f"{where}: mask {path} is coloured (mode {mode}); save it as grey")
    return pixels > 0


def _points_region(points, width, height, where, tally):
    """The Region of points in pixels; None (counted) if none of them lies in the image."""
    try:
        pixels = np.array(points, np.float64)
        if pixels.ndim != 2 or pixels.shape[1] != 2 or not pixels.size:
            raise RegionError(f"points {points} are not a list of [x, y]")
        if 0 < pixels.max() <= 1 and (pixels % 1).any():
            raise RegionError(f"points {points}: points are in pixels, not 0…1")
        region = Region.from_points(points_from_pixels(pixels, width, height))
        outside = ((region.points < 0) | (region.points > 1)).any(axis=1)
        if outside.all():
            tally["points_all_outside"] += 1
            return None
        tally["points_outside_image"] += int(outside.sum())
        return region
    except (TypeError, ValueError) as error:  # RegionError is a ValueError
        raise DataError(f"{where}: {error}") from error


def _list(entry, key, where):
    """entry[key], a list; empty if there is none."""
    return field(entry, key, where, list) if key in entry else []


def _texts(entry, key, where):
    """entry[key], a text or a list of texts, as a list."""
    value = field(entry, key, where)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise DataError(f"{where}: `{key}` is empty")
    return [_text(value, f"{where}: `{key}`") for value in values]


def _text(value, where):
    """A text with single spaces; DataError if it is none or empty."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} is {value!r}, expected a text")
    return " ".join(value.split())


def _extra(entry, where):
    if "provenance" not in entry:
        return {}
    return {"provenance": field(entry, "provenance", where, dict)}
