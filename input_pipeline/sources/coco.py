"""COCO: instances and captions, of 2017 and of 2014.

ANNOTATIONS/instances_{split}.json and captions_{split}.json; either may be absent. Photographs are
IMAGES/{split}/ and the `file_name` of the files, such as train2017/000000000009.jpg or
train2014/COCO_train2014_000000000009.jpg. Splits: train2017, val2017, train2014, val2014 and what
else is named so; `train` and `val` are those of 2017. `test` has no public annotations.

A category name is the `phrase` of each of its instances; of an instance that has no twin in its
image it is also an `expression`. Instances that are crowds are left out. A caption is a `caption`.

`coco` reads both files, `coco_instances` and `coco_captions` one of them: so regions and whole
images can have weights of their own in a mixture.
"""

import collections
import contextlib
import dataclasses
import pathlib
import re

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.leakage import coco_id_of
from input_pipeline.records import Annotation, Record
from input_pipeline.runs import EmptyMask, RunRegion
from input_pipeline.sources.annotation_files import ID, existing, field
from input_pipeline.sources.json_entries import Places, entries_of
from input_pipeline.sources.source import Item
from regionjax.regions import Region, box_from_xywh, clip_box

_ENTRY = {"images": "image", "annotations": "annotation", "categories": "category"}


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
    """COCO: objects with their outlines, and captions; 2017 and 2014."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "coco"
    kinds = ("instances", "captions")
    licence = "COCO: annotations CC BY 4.0, each photograph under its own Flickr licence"

    def files(self, split):
        """Annotation files of a split."""
        places = [self._file(kind, split) for kind in self.kinds]
        found = [path for path in places if path.is_file()]
        if not found and split.startswith("test"):
            raise DataError(
                f"no file {' and no '.join(map(str, places))}: COCO publishes no annotations of "
                "its test images; `val` has them"
            )
        return found or [existing(places[0])]

    def _file(self, kind, split):
        return self.annotations / f"{kind}_{coco_folder(split)}.json"

    def items(self, split, tally):
        """Yields a CocoItem an image that has annotations."""
        paths = self.files(split)
        images = Places(paths[0])
        names, instances, captions = {}, Places(paths[0]), Places(paths[-1])
        for path in paths:
            of_path = instances if path.name.startswith("instances") else captions
            lists = {"images", "annotations"} if path == paths[0] else {"annotations"}
            lists |= {"categories"} if of_path is instances else set()
            numbers = collections.Counter()
            for key, entry, place in entries_of(path, sorted(lists)):
                where = f"{path}: {_ENTRY[key]} {numbers[key]}"
                numbers[key] += 1
                if key == "images":
                    add_image(images, entry, place, where)
                elif key == "annotations":
                    of_path.add(field(entry, "image_id", where, ID), place)
                else:
                    name = " ".join(field(entry, "name", where, str).split())
                    if not name:
                        raise DataError(f"{where} has an empty name")
                    names[field(entry, "id", where, ID)] = name
        for found in (instances, captions):
            if stray := [image_id for image_id in found if image_id not in images]:
                raise DataError(
                    f"{found.path}: annotations of image {stray[0]}, which is not listed"
                )
        for image_id in images:
            (image,) = images.read(image_id)
            things = self._things(instances.read(image_id), names, paths[0], tally)
            texts = captions.read(image_id)
            if not things and not texts:
                tally["images_without_annotations"] += 1
                continue
            yield CocoItem(
                image_id=str(image_id),
                file_name=f"{coco_folder(split)}/{image['file_name']}",
                coco_id=coco_id_of(image["file_name"]),
                image=image,
                instances=things,
                captions=texts,
            )

    def _things(self, entries, names, path, tally):
        """[(entry, category name, is it the only one of its category)] of an image's instances."""
        things = []
        twins = collections.Counter(
            field(entry, "category_id", f"{path}: annotation {entry.get('id')}", ID)
            for entry in entries
        )
        for entry in entries:
            category = entry["category_id"]
            if category not in names:
                raise DataError(
                    f"{path}: annotation {entry.get('id')} is of category {category!r}, "
                    "which is not listed"
                )
            if entry.get("iscrowd"):
                tally["crowd_regions"] += 1
            else:
                things.append((entry, names[category], twins[category] == 1))
        return things

    def record(self, item, tally):
        """The Record of a CocoItem; None if nothing is left of it."""
        data, width, height = read_coco_image(self.images, item.file_name, item.image)
        annotations = []
        for entry, name, only in item.instances:
            region = instance_region(entry, width, height, item.file_name, tally)
            if region is None:
                continue
            identifier = str(field(entry, "id", f"{item.file_name}: annotation"))
            annotations.append(Annotation("phrase", name, identifier, region))
            if only:
                annotations.append(Annotation("expression", name, identifier, region))
        for entry in item.captions:
            where = f"{item.file_name}: caption {entry.get('id')}"
            text = " ".join(field(entry, "caption", where, str).split())
            identifier = str(field(entry, "id", where))
            if text:
                annotations.append(Annotation("caption", text, identifier))
            else:
                tally["empty_captions"] += 1
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


class CocoInstances(Coco):
    """COCO without its captions: objects with their outlines, and their names."""

    name = "coco_instances"
    kinds = ("instances",)


class CocoCaptions(Coco):
    """COCO without its objects: captions of whole images."""

    name = "coco_captions"
    kinds = ("captions",)


# ---- shared with the sources that use COCO's photographs or the form of its files ---------------


def coco_folder(split):
    """The folder of a split's photographs: `train` → train2017, `val2014` → val2014."""
    return split if re.search(r"20\d\d$", split) else f"{split}2017"


def add_image(images, entry, place, where):
    """Adds an entry of `images` to Places by its id.

    Raises:
      DataError: no id, file_name, width or height, one that is none, or an id that was there.
    """
    for key, kind in (("id", ID), ("file_name", str), ("width", int), ("height", int)):
        field(entry, key, where, kind)
    if entry["id"] in images:
        raise DataError(f"{where}: image {entry['id']} is listed twice")
    images.add(entry["id"], place)


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

    Polygons, or run lengths, or a list of those (RefCLEF): their union. One so thin that no
    pixel's centre lies in it becomes the pixels its bounds touch. None if it is thin and its bounds
    lie outside the image: that is counted.

    Raises:
      DataError: a segmentation or box that cannot be.
    """
    where = f"{file_name}: annotation {entry.get('id')}"
    segmentation = field(entry, "segmentation", where, list | dict)
    try:
        if isinstance(segmentation, dict):
            return RunRegion.from_rle(segmentation, height, width)
        if any(isinstance(part, dict) for part in segmentation):
            return _union(segmentation, height, width)
        outlines = [outline for outline in segmentation if len(outline) >= 6]
        tally["outlines_of_two_points"] += len(segmentation) - len(outlines)
        if outlines:
            return RunRegion.from_polygons(outlines, height, width)
        box = clip_box(box_from_xywh(field(entry, "bbox", where, list), width, height))
        if ((box[2:] - box[:2]) * (width, height) >= 1).all():
            region = Region.from_box(box)
        else:
            region = _touched(entry, where, width, height, tally)
        tally["regions_by_box"] += region is not None
        return region
    except EmptyMask:
        return _touched(entry, where, width, height, tally)
    except DataError:
        raise
    except (ValueError, TypeError, KeyError) as error:  # RegionError is a ValueError
        raise DataError(f"{where}: {error}") from error


def _union(parts, height, width):
    """The RunRegion of everything in some run lengths; EmptyMask if nothing is."""
    regions = []
    for part in parts:
        with contextlib.suppress(EmptyMask):
            regions.append(RunRegion.from_rle(part, height, width))
    if len(regions) == 1:
        return regions[0]
    mask = np.zeros((height, width), bool)
    for region in regions:
        mask |= region.mask
    return RunRegion.from_mask(mask)


def _touched(entry, where, width, height, tally):
    """The pixels that an instance's bounding box touches, at least one; None if it lies outside."""
    box = np.array(field(entry, "bbox", where, list), float)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise DataError(f"{where}: bbox {box.tolist()} is not x, y, width, height")
    if (box[:2] >= (width, height)).any() or (box[:2] + box[2:] < 0).any():
        tally["regions_outside_image"] += 1
        return None
    tally["regions_thinner_than_a_pixel"] += 1
    start = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    stop = np.clip(np.ceil(box[:2] + box[2:]), start + 1, (width, height)).astype(int)
    mask = np.zeros((height, width), bool)
    mask[start[1] : stop[1], start[0] : stop[0]] = True
    return RunRegion.from_mask(mask)
