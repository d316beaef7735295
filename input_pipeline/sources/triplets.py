"""Made-up triplets: images with a text for each box, and how each was made (SynGround's data).

Each split is JSON Lines beside a folder of images, or WebDataset tars, or both:

  ANNOTATIONS/{split}.jsonl, {split}-*.jsonl or {split}/*.jsonl: one triplet a line, such as
    {"image": "000/17.jpg", "text": "a red kite", "box": [12, 30, 96, 140],
     "caption": "a kite over a beach", "provenance": {"detector": "GLIP", "score": 0.83}}
    with its image in IMAGES. Lines about one image that follow one another make one record.
  ANNOTATIONS/{split}.tar, {split}-*.tar or {split}/*.tar: for each sample KEY.json, one triplet or
    a list of them, without `image`; beside it KEY.jpg (or .jpeg, .png, .webp). A tar is neither
    unpacked nor read into memory: images are read from where they lie in it. It may not be
    compressed. IMAGES is not used and may be ANNOTATIONS again.

Keys: `text` and `box` (x0, y0, x1, y1 in pixels) or `boxes` (a list of them: everything that the
text speaks of) are needed; `caption` (of the whole image) and `provenance` (an object with
anything in it) are not. A text becomes an "expression", its region the box or, of several boxes,
their union as a mask; a caption becomes a "caption", once an image. Both keep the provenance.
Boxes are cut to the image; those of which nothing is left are counted, with their texts.
"""

import dataclasses
import itertools
import pathlib

from input_pipeline.errors import DataError
from input_pipeline.images import BadImage, check_image, read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import (
    existing,
    field,
    only_keys,
    parse_json,
    read_json_lines,
)
from input_pipeline.sources.pixel_regions import boxes_region
from input_pipeline.sources.source import Item
from input_pipeline.sources.tar_samples import IMAGES, read_place, read_samples

_KEYS = ("text", "box", "boxes", "caption", "provenance")  # in a tar; lines have `image` too


@dataclasses.dataclass(frozen=True)
class TripletItem(Item):
    """The triplets of one image.

    Attributes:
      triplets: list of (id: its line or its place in the sample; where it stands, for errors;
        its object).
      tar: the file that the image lies in, below ANNOTATIONS; "" if it is a file of its own.
      place: (first byte, bytes) in the tar; None if the sample has no image.
    """

    triplets: list
    tar: str = ""
    place: tuple | None = None


@dataclasses.dataclass(frozen=True)
class Triplets:
    """Synthetic image-text-box triplets: JSON Lines and images, or WebDataset tars."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "triplets"
    licence = "triplets: as the models and data allow that made them; see their provenance"

    def files(self, split):
        """JSON Lines files and tars of a split."""
        forms = [f"{split}{rest}" for rest in (".jsonl", "-*.jsonl", "/*.jsonl")]
        forms += [f"{split}{rest}" for rest in (".tar", "-*.tar", "/*.tar")]
        found = [path for form in forms for path in sorted(self.annotations.glob(form))]
        return found or [existing(self.annotations / f"{split}.jsonl")]

    def items(self, split, tally):
        """Yields a TripletItem an image (of neighbouring lines), or a sample of a tar."""
        for path in self.files(split):
            if path.suffix == ".tar":
                yield from self._samples(path, tally)
            else:
                yield from _lines(path)

    def _samples(self, path, tally):
        for key, texts, place in read_samples(path):
            if texts is None:
                tally["samples_without_json"] += 1
                continue
            where = f"{path}: {key}.json"
            found = parse_json(texts, where)
            found = found if isinstance(found, list) else [found]
            yield TripletItem(
                image_id=key,
                file_name=f"{path.relative_to(self.annotations)}/{key}",
                coco_id=None,
                triplets=[(str(n), f"{where}, triplet {n}", one) for n, one in enumerate(found)],
                tar=str(path.relative_to(self.annotations)),
                place=place,
            )

    def record(self, item, tally):
        """The Record of an image; None if none of its boxes lies in it and it has no caption."""
        data, width, height = self._image(item)
        annotations, captions = [], set()
        for identifier, where, triplet in item.triplets:
            text, boxes, caption, extra = _checked(triplet, where, with_image=not item.tar)
            region = boxes_region(boxes, width, height, where, tally)
            if region is None:
                tally["texts_without_region"] += 1
            else:
                annotations.append(Annotation("expression", text, identifier, region, extra))
            if caption and caption not in captions:
                captions.add(caption)
                annotations.append(Annotation("caption", caption, identifier, None, extra))
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
        )

    def _image(self, item):
        """(bytes, width, height)."""
        if not item.tar:
            return read_image(self.images, item.file_name)
        if item.place is None:
            raise BadImage(f"{item.file_name}: beside its JSON lies no image ({', '.join(IMAGES)})")
        data = read_place(self.annotations / item.tar, item.place)
        return data, *check_image(data, self.annotations / item.file_name)


def _checked(triplet, where, with_image):
    """(text, list of boxes, caption or "", extra) of one triplet; DataError if it is none."""
    text = _words(triplet, "text", where)
    only_keys(triplet, ("image", *_KEYS) if with_image else _KEYS, where)
    if "boxes" in triplet and "box" in triplet:
        raise DataError(f"{where} has both `box` and `boxes`")
    if "boxes" in triplet:
        boxes = field(triplet, "boxes", where, list)
    else:
        boxes = [field(triplet, "box", where, list)]
    if not text or not boxes:
        raise DataError(f"{where}: `{'boxes' if text else 'text'}` is empty")
    caption = _words(triplet, "caption", where) if "caption" in triplet else ""
    if "provenance" not in triplet:
        return text, boxes, caption, {}
    return text, boxes, caption, {"provenance": field(triplet, "provenance", where, dict)}


def _words(triplet, key, where):
    return " ".join(field(triplet, key, where, str).split())


def _lines(path):
    """Yields a TripletItem for neighbouring lines of one image."""
    lines = (
        (field(triplet, "image", f"{path}, line {number}", str), number, triplet)
        for number, triplet in read_json_lines(path)
    )
    for image, group in itertools.groupby(lines, key=lambda line: line[0]):
        yield TripletItem(
            image_id=image,
            file_name=image,
            coco_id=None,
            triplets=[(str(n), f"{path}, line {n}", triplet) for _, n, triplet in group],
        )
