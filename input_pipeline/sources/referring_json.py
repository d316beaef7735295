"""Referring expressions as many projects pass them on: a JSON list of {image, sentence, box}.

ANNOTATIONS is the file, or a folder with {split}.json or one file *_{split}.json. Each entry has
`image` (a file below IMAGES), an expression (a text, or a list of texts for one box) and its box;
`width` and `height`, where they are there, must be the image's. Which keys are meant, and how
boxes are written, are options:

  text  auto: the first of normal_caption, sentence, sentences, expression, caption, text, problem
        that an entry has. Of a `problem`, which is an instruction, what follows its first colon.
  box   auto: the first of bbox, box, boxes, solution that an entry has. A list of boxes is one
        region, their union.
  form  xyxy: corners in pixels; xywh: corner and size in pixels; unit: corners in 0…1; thousand:
        corners in 0…1000.

An entry without a box (null or an empty list) is an expression that nothing in the image meets; it
is left out and counted. All entries of an image make one record of `expression` annotations, whose
ids are the numbers of their entries.
"""

import dataclasses
import pathlib

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.leakage import coco_id_of
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import existing, field
from input_pipeline.sources.json_entries import Places, list_entries
from input_pipeline.sources.named_files import check_option
from input_pipeline.sources.pixel_regions import boxes_region
from input_pipeline.sources.source import Item
from regionjax.config import nearest
from regionjax.regions import TOLERANCE

_TEXTS = (
    "normal_caption",
    "sentence",
    "sentences",
    "expression",
    "caption",
    "text",
    "problem",
)
_BOXES = ("bbox", "box", "boxes", "solution")
_FORMS = ("xyxy", "xywh", "unit", "thousand")


@dataclasses.dataclass(frozen=True)
class ReferringItem(Item):
    """The expressions about one image.

    Attributes:
      entries: list of (number in the file, entry).
      path: of the file, for errors.
    """

    entries: list
    path: str


@dataclasses.dataclass(frozen=True)
class ReferringJson:
    """Referring expressions in a plain JSON list of {image, sentence, box}."""

    annotations: pathlib.Path
    images: pathlib.Path
    text: str = "auto"
    box: str = "auto"
    form: str = "xyxy"
    name = "referring_json"
    licence = "as the file's authors say"

    def __post_init__(self):
        check_option(self.form, _FORMS, "form")

    def files(self, split):
        """The annotation file of a split."""
        if self.annotations.is_file():
            return [self.annotations]
        plain = self.annotations / f"{split}.json"
        found = [plain] if plain.is_file() else sorted(self.annotations.glob(f"*_{split}.json"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{self.annotations} has {names}; give one of them as ANNOTATIONS")
        return found or [existing(plain)]

    def items(self, split, tally):
        """Yields a ReferringItem an image, in the order of their first entries."""
        del tally
        (path,) = self.files(split)
        places, numbers = Places(path), {}
        for number, (entry, place) in enumerate(list_entries(path)):
            image = field(entry, "image", f"{path}: entry {number}", str)
            places.add(image, place)
            numbers.setdefault(image, []).append(number)
        for image in places:
            entries = list(zip(numbers[image], places.read(image), strict=True))
            yield ReferringItem(image, image, coco_id_of(image), entries, str(path))

    def record(self, item, tally):
        """The Record of a ReferringItem; None if nothing in it has a target."""
        data, width, height = read_image(self.images, item.file_name)
        annotations = []
        for number, entry in item.entries:
            where = f"{item.path}: entry {number}"
            for key, size in (("width", width), ("height", height)):
                if entry.get(key, size) != size:
                    raise DataError(
                        f"{where}: `{key}` is {entry[key]}, {item.file_name} has "
                        f"{width}x{height} pixels"
                    )
            texts, boxes = self._texts(entry, where), self._boxes(entry, where, width, height)
            if not boxes:
                tally["expressions_without_target"] += len(texts)
                continue
            region = boxes_region(boxes, width, height, where, tally)
            if region is None:
                tally["expressions_without_region"] += len(texts)
                continue
            tally["empty_expressions"] += texts.count("")
            for place, text in enumerate(texts):
                name = f"{number}" if len(texts) == 1 else f"{number}/{place}"
                if text:
                    annotations.append(Annotation("expression", text, name, region))
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

    def _texts(self, entry, where):
        """The expressions of an entry, on one line each."""
        key = _chosen(entry, self.text, _TEXTS, "text", where)
        texts = field(entry, key, where, str | list)
        texts = [texts] if isinstance(texts, str) else texts
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: `{key}` holds something that is not text")
        if key == "problem":
            texts = [text.partition(":")[2].strip().removesuffix(".") or text for text in texts]
        return [" ".join(text.split()) for text in texts]

    def _boxes(self, entry, where, width, height):
        """The boxes of an entry as lists x0, y0, x1, y1 in pixels."""
        key = _chosen(entry, self.box, _BOXES, "box", where)
        if entry[key] is None:
            return []
        boxes = field(entry, key, where, list)
        if boxes and not isinstance(boxes[0], list):
            boxes = [boxes]
        try:
            corners = np.array(boxes, np.float64).reshape(len(boxes), 4)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: `{key}` {boxes!r} is not four numbers: {error}") from error
        if self.form == "xywh":
            corners[:, 2:] += corners[:, :2]
        elif self.form in ("unit", "thousand"):
            limit = 1 if self.form == "unit" else 1000
            if corners.max(initial=0) > limit * (1 + TOLERANCE):
                raise DataError(f"{where}: `{key}` {boxes!r} goes beyond {limit}; see form")
            corners *= np.array([width, height, width, height]) / limit
        return corners.tolist()


def _chosen(entry, option, known, name, where):
    """The key that an option means in an entry."""
    if option != "auto":
        return option if option in entry else field(entry, option, where)
    for key in known:
        if key in entry:
            return key
    raise DataError(
        f"{where} has none of {', '.join(known)}; say which key with {name}=KEY"
        f"{nearest(known[0], entry)}"
    )
