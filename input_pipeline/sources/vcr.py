"""VCR: questions about scenes of films, four answers and four rationales to choose from.

ANNOTATIONS/{split}.jsonl, a question a line; IMAGES/`img_fn` and, beside it, IMAGES/`metadata_fn`
with the boxes and outlines of the objects. (They are the folders vcr1annots and vcr1images.)
Splits: train, val, and test without labels. Lines about one image that follow each other make one
record of

  phrase  an object: its class, such as "person"; the id is its number, "0", "1", …; the region is
          its outlines, its box where there are none.
  choice  a question; `choices` and `rationales` are in `extra`, and `answer` and `rationale` (the
          numbers of the right ones) where the split says so. Its region is that of all objects
          that the question and its answers speak of, or the whole image if they name none.

In all texts an object is its number in brackets, `[2]`; two are `[0] [2]`. Words that tell of no
object ("everyone") stay words.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.runs import EmptyMask, RunRegion
from input_pipeline.sources.annotation_files import existing, field, read_json, read_json_lines
from input_pipeline.sources.pixel_regions import box_region
from input_pipeline.sources.source import Item
from regionjax.regions import box_to_pixels


@dataclasses.dataclass(frozen=True)
class VcrItem(Item):
    """The questions about one image.

    Attributes:
      questions: list of (what to call it in errors, object of the line).
    """

    questions: list


@dataclasses.dataclass(frozen=True)
class Vcr:
    """VCR: questions about scenes of films, with answers and rationales to choose from."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "vcr"
    licence = "VCR: research use by its own terms; scenes of films"

    def files(self, split):
        """The annotation file of a split."""
        return [existing(self.annotations / f"{split}.jsonl")]

    def items(self, split, tally):
        """Yields a VcrItem an image."""
        del tally
        (path,) = self.files(split)
        gathered = []
        for number, question in read_json_lines(path):
            where = f"{path}, line {number}"
            image = field(question, "img_fn", where, str)
            if gathered and gathered[-1][1]["img_fn"] != image:
                yield _item(gathered)
                gathered = []
            gathered.append((where, question))
        if gathered:
            yield _item(gathered)

    def record(self, item, tally):
        """The Record of a VcrItem."""
        data, width, height = read_image(self.images, item.file_name)
        where, first = item.questions[0]
        classes = field(first, "objects", where, list)
        regions = self._regions(item, classes, width, height, tally)
        annotations = [
            Annotation("phrase", name, str(number), regions[number])
            for number, name in enumerate(_names(classes, where))
            if regions[number] is not None
        ]

        @functools.cache
        def union(numbers):
            return _union([regions[number] for number in sorted(numbers)], width, height)

        for where, question in item.questions:
            if field(question, "objects", where) != classes:
                raise DataError(f"{where}: `objects` are not those of the line before")
            annotations.append(_choice(question, where, regions, union, tally))
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=width,
            height=height,
            image=data,
            annotations=annotations,
        )

    def _regions(self, item, classes, width, height, tally):
        """The region of each object, None where it has none, from the image's metadata."""
        where, first = item.questions[0]
        path = self.images / field(first, "metadata_fn", where, str)
        metadata = read_json(path, ["boxes", "segms"])
        for key, size in (("width", width), ("height", height)):
            if metadata.get(key, size) != size:
                raise DataError(
                    f"{path}: `{key}` is {metadata[key]}, {item.file_name} has "
                    f"{width}x{height} pixels"
                )
        for key in ("boxes", "segms"):
            if len(metadata[key]) != len(classes):
                raise DataError(
                    f"{path}: `{key}` of {len(metadata[key])} objects, {where} names {len(classes)}"
                )
        pairs = enumerate(zip(metadata["boxes"], metadata["segms"], strict=True))
        return [
            _object_region(box, outlines, width, height, f"{path}: object {number}", tally)
            for number, (box, outlines) in pairs
        ]


def _item(gathered):
    where, first = gathered[0]
    image_id = str(first.get("img_id", first["img_fn"]))
    return VcrItem(image_id, first["img_fn"], None, gathered)


def _object_region(box, outlines, width, height, where, tally):
    """Outlines [[[x, y], …], …] as a RunRegion, else the box x0, y0, x1, y1, score; or None."""
    try:
        flat = [np.array(outline, np.float64).reshape(-1, 2).ravel() for outline in outlines]
        corners = [outline for outline in flat if outline.size >= 6]
        tally["outlines_of_two_points"] += len(flat) - len(corners)
        if corners:
            return RunRegion.from_polygons(corners, height, width)
    except EmptyMask:
        tally["masks_without_pixel"] += 1
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
    if not isinstance(box, list) or len(box) not in (4, 5):
        raise DataError(f"{where}: box {box!r} is not x0, y0, x1, y1, score")
    region = box_region(box[:4], width, height, where, tally)
    tally["regions_by_box"] += region is not None
    return region


# ---- questions ----------------------------------------------------------------------------------


def _choice(question, where, regions, union, tally):
    """The "choice" annotation of a line.

    Args:
      question: its object.
      where: what to call it in errors.
      regions: of the objects.
      union: function of a frozenset of their numbers, the region of them all.
      tally: counts `references_to_no_object` and `references_without_region`.
    """
    asked = field(question, "question", where, list)
    answers, rationales = (
        field(question, f"{key}_choices", where, list) for key in ("answer", "rationale")
    )
    named = []
    for tokens in (asked, *answers):
        named += _objects(tokens, where)
    tally["references_to_no_object"] += sum(not 0 <= n < len(regions) for n in named)
    named = {number for number in named if 0 <= number < len(regions)}
    seen = frozenset(number for number in named if regions[number] is not None)
    tally["references_without_region"] += len(named - seen)
    extra = {
        "choices": [_text(tokens, where) for tokens in answers],
        "rationales": [_text(tokens, where) for tokens in rationales],
    }
    for key, choices in (("answer", answers), ("rationale", rationales)):
        label = question.get(f"{key}_label")
        if label is None:
            continue
        if not isinstance(label, int) or not 0 <= label < len(choices):
            raise DataError(f"{where}: `{key}_label` is {label!r} of {len(choices)} choices")
        extra[key] = label
    name = str(question.get("annot_id", where.rpartition(" ")[2]))
    return Annotation("choice", _text(asked, where), name, union(seen), extra)


def _names(classes, where):
    """The classes of the objects; DataError if one is no word."""
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: object {name!r} is no word")
    return [" ".join(name.split()) for name in classes]


def _objects(tokens, where):
    """Numbers of the objects in a text."""
    if not isinstance(tokens, list):
        raise DataError(f"{where}: a text is a {type(tokens).__name__}, expected a list of tokens")
    numbers = [number for token in tokens if isinstance(token, list) for number in token]
    if not all(isinstance(number, int) for number in numbers):
        raise DataError(f"{where}: objects {numbers} are not numbers")
    return numbers


def _text(tokens, where):
    """Tokens as one text: `Does [2] feel comfortable ?`."""
    _objects(tokens, where)
    words = []
    for token in tokens:
        words += [f"[{number}]" for number in token] if isinstance(token, list) else [str(token)]
    text = " ".join(" ".join(words).split())
    if not text:
        raise DataError(f"{where}: a question or a choice is empty")
    return text


def _union(regions, width, height):
    """One region of several objects; None of none."""
    if len(regions) < 2:
        return regions[0] if regions else None
    mask = np.zeros((height, width), bool)
    for region in regions:
        if isinstance(region, RunRegion):
            mask |= region.mask
        else:  # every pixel that the box touches
            box = box_to_pixels(region.box, width, height)
            x0, y0 = np.floor(box[:2] + 1e-3).astype(int)
            x1, y1 = np.ceil(box[2:] - 1e-3).astype(int)
            mask[y0:y1, x0:x1] = True
    return RunRegion.from_mask(mask)
