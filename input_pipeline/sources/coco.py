"""COCO: instances and captions.

ANNOTATIONS/{instances,captions}_{split}2017.json, IMAGES/{split}2017/*.jpg. Captions may be
absent, instances not. A category name is the phrase of each of its instances; of an instance that
has no twin in its image it is also an expression.
"""

import collections
import dataclasses
import pathlib

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.runs import EmptyMask, RunRegion
from input_pipeline.sources.annotation_files import existing, field, read_json
from input_pipeline.sources.source import Item
from regionjax.masks import polygon_mask
from regionjax.regions import Region, box_from_xywh, clip_box


@dataclasses.dataclass(frozen=True)
class CocoItem(Item):
    """What the annotation files say of one image.

    Attributes:
      image: the entry in `images`.
      instances: list of (annotation entry, category name, is it the only one of its category).
      captions: list of caption entries.
    """

    image: dict
    instances: list
    captions: list


@dataclasses.dataclass(frozen=True)
class Coco:
    """The `coco` source."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "coco"
    licence = "COCO: annotations CC BY 4.0, each photograph under its own Flickr licence"

    def files(self, split):
        """Annotation files of a split."""
        captions = self._file("captions", split)
        found = [captions] if captions.is_file() else []
        return [existing(self._file("instances", split)), *found]

    def _file(self, kind, split):
        return self.annotations / f"{kind}_{split}2017.json"

    def items(self, split, tally):
        """Yields a CocoItem an image that has annotations."""
        path = self._file("instances", split)
        content = read_json(path, ["images", "annotations", "categories"])
        names = {
            field(category, "id", f"{path}: category {number}"): field(
                category, "name", f"{path}: category {number}"
            )
            for number, category in enumerate(content["categories"])
        }
        instances = by_image(content["annotations"], f"{path}: annotation")
        captions_path = self._file("captions", split)
        captions = {}
        if captions_path.is_file():
            entries = read_json(captions_path, ["annotations"])["annotations"]
            captions = by_image(entries, f"{captions_path}: annotation")
        images = images_by_id(content["images"], path)
        for place, entries in ((path, instances), (captions_path, captions)):
            if stray := entries.keys() - images.keys():
                raise DataError(
                    f"{place}: annotations of image {min(stray, key=str)}, which is not listed"
                )
        for image_id, image in images.items():
            things = []
            twins = collections.Counter(
                field(entry, "category_id", f"{path}: annotation") for entry in instances[image_id]
            )
            for entry in instances[image_id]:
                where = f"{path}: annotation {entry.get('id')}"
                category = entry["category_id"]
                if category not in names:
                    raise DataError(f"{where} is of category {category!r}, which is not listed")
                if entry.get("iscrowd"):
                    tally["crowd_regions"] += 1
                else:
                    things.append((entry, names[category], twins[category] == 1))
            if not things and not captions.get(image_id):
                tally["images_without_annotations"] += 1
                continue
            yield CocoItem(
                image_id=str(image_id),
                file_name=f"{split}2017/{image['file_name']}",
                coco_id=image_id,
                image=image,
                instances=things,
                captions=captions.get(image_id, []),
            )

    def record(self, item, tally):
        """The Record of a CocoItem."""
        data, width, height = read_coco_image(self.images, item.file_name, item.image)
        annotations = []
        for entry, name, only in item.instances:
            region = instance_region(entry, width, height, item.file_name, tally)
            identifier = str(field(entry, "id", f"{item.file_name}: annotation"))
            annotations.append(Annotation("phrase", name, identifier, region))
            if only:
                annotations.append(Annotation("expression", name, identifier, region))
        for entry in item.captions:
            where = f"{item.file_name}: caption {entry.get('id')}"
            text = " ".join(field(entry, "caption", where).split())
            annotations.append(Annotation("caption", text, str(field(entry, "id", where))))
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


# ---- shared with REFER, whose instances.json has the same form ----------------------------------


def images_by_id(images, path):
    """{image id: entry} in file order; every entry has id, file_name, width and height."""
    found = {}
    for number, image in enumerate(images):
        for key in ("id", "file_name", "width", "height"):
            field(image, key, f"{path}: image {number}")
        if image["id"] in found:
            raise DataError(f"{path}: image {image['id']} is listed twice")
        found[image["id"]] = image
    return found


def by_image(entries, where):
    """{image id: its entries}; an image without entries has an empty list."""
    found = collections.defaultdict(list)
    for number, entry in enumerate(entries):
        found[field(entry, "image_id", f"{where} {number}")].append(entry)
    return found


def read_coco_image(images, file_name, entry):
    """(bytes, width, height) of an image that must be as large as its entry says."""
    data, width, height = read_image(images, file_name)
    if (width, height) != (entry["width"], entry["height"]):
        raise DataError(
            f"{file_name} has {width}x{height} pixels, "
            f"its annotations speak of {entry['width']}x{entry['height']}"
        )
    return data, width, height


def instance_region(entry, width, height, file_name, tally):
    """The region of an instance: its segmentation, or its box where it has none.

    A segmentation so thin that no pixel's centre lies in it becomes the pixels its bounds touch.

    Raises:
      DataError: a segmentation or box that cannot be.
    """
    where = f"{file_name}: annotation {entry.get('id')}"
    segmentation = field(entry, "segmentation", where, list | dict)
    try:
        if isinstance(segmentation, dict):
            return RunRegion.from_rle(segmentation, height, width)
        outlines = [outline for outline in segmentation if len(outline) >= 6]
        tally["outlines_of_two_points"] += len(segmentation) - len(outlines)
        if outlines:
            return RunRegion.from_mask(polygon_mask(outlines, height, width))
        tally["regions_by_box"] += 1
        box = clip_box(box_from_xywh(field(entry, "bbox", where, list), width, height))
        if ((box[2:] - box[:2]) * (width, height) >= 1).all():
            return Region.from_box(box)
        return _touched(entry, where, width, height, tally)
    except EmptyMask:
        return _touched(entry, where, width, height, tally)
    except DataError:
        raise
    except (ValueError, TypeError, KeyError) as error:  # RegionError is a ValueError
        raise DataError(f"{where}: {error}") from error


def _touched(entry, where, width, height, tally):
    """The pixels that an instance's bounding box touches, at least one."""
    tally["regions_thinner_than_a_pixel"] += 1
    box = np.array(field(entry, "bbox", where, list), float)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise DataError(f"{where}: bbox {box.tolist()} is not x, y, width, height")
    start = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    stop = np.clip(np.ceil(box[:2] + box[2:]), start + 1, (width, height)).astype(int)
    mask = np.zeros((height, width), bool)
    mask[start[1] : stop[1], start[0] : stop[0]] = True
    return RunRegion.from_mask(mask)
