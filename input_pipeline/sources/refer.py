"""REFER: referring expressions (RefCOCO, RefCOCO+, RefCOCOg and the built-in world's).

ANNOTATIONS/refs(SPLIT_BY).p and instances.json. Photographs named COCO_train2014_… lie in
IMAGES/train2014, others in IMAGES/{split}2017. The pickle is read without running code from it.
"""

import dataclasses
import functools
import pathlib

from input_pipeline.errors import DataError
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import existing, field, read_json, read_pickle
from input_pipeline.sources.coco import (
    images_by_id,
    instance_region,
    read_coco_image,
)
from input_pipeline.sources.source import Item

REFER_SETS = {  # source name: (folder, who split it)
    "refer": ("world", "unc"),
    "refcoco_unc": ("refcoco", "unc"),
    "refcoco_google": ("refcoco", "google"),
    "refcoco+_unc": ("refcoco+", "unc"),
    "refcocog_umd": ("refcocog", "umd"),
    "refcocog_google": ("refcocog", "google"),
}


@dataclasses.dataclass(frozen=True)
class ReferItem(Item):
    """The references to objects of one image.

    Attributes:
      image: its entry in instances.json.
      references: list of (entry of the pickle, annotation entry it points to).
    """

    image: dict
    references: list


@dataclasses.dataclass(frozen=True)
class Refer:
    """A REFER source; `name` is a key of REFER_SETS."""

    annotations: pathlib.Path
    images: pathlib.Path
    name: str
    licence = "REFER: see the owners' pages; COCO's photographs under their own Flickr licences"

    def files(self, split):
        """Annotation files; the same for every split."""
        del split
        _, split_by = REFER_SETS[self.name]
        names = f"refs({split_by}).p", "instances.json"
        return [existing(self.annotations / name) for name in names]

    def items(self, split, tally):
        """Yields a ReferItem an image, in the order of their first references."""
        refs_path, instances_path = self.files(split)
        references = read_pickle(refs_path)
        if not isinstance(references, list):
            raise DataError(f"{refs_path} holds a {type(references).__name__}, expected a list")
        content = read_json(instances_path, ["images", "annotations"])
        images = images_by_id(content["images"], instances_path)
        objects = {
            field(entry, "id", f"{instances_path}: annotation {number}"): entry
            for number, entry in enumerate(content["annotations"])
        }
        by_image, splits = {}, set()
        for number, reference in enumerate(references):
            where = f"{refs_path}: reference {number}"
            splits.add(field(reference, "split", where))
            if not _in_split(reference["split"], split):
                continue
            image_id, object_id = (field(reference, key, where) for key in ("image_id", "ann_id"))
            if image_id not in images:
                raise DataError(f"{where}: image {image_id} is not in {instances_path}")
            if object_id not in objects:
                raise DataError(f"{where}: annotation {object_id} is not in {instances_path}")
            by_image.setdefault(image_id, []).append((reference, objects[object_id]))
        if not by_image:
            raise DataError(f"{refs_path} has no split {split}; it has {sorted(splits)}")
        for image_id, found in by_image.items():
            yield ReferItem(
                image_id=str(image_id),
                file_name=_image_file(images[image_id]["file_name"], split),
                coco_id=image_id,
                image=images[image_id],
                references=found,
            )

    def record(self, item, tally):
        """The Record of a ReferItem: an expression for each of its sentences."""
        data, width, height = read_coco_image(self.images, item.file_name, item.image)
        annotations = []
        for reference, entry in item.references:
            region = instance_region(entry, width, height, item.file_name, tally)
            where = f"{item.file_name}: reference {reference.get('ref_id')}"
            for sentence in field(reference, "sentences", where):
                text = " ".join(field(sentence, "sent", where).split())
                identifier = str(field(sentence, "sent_id", where))
                if text:
                    annotations.append(Annotation("expression", text, identifier, region))
                else:
                    tally["empty_expressions"] += 1
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


def refer_set(name):
    """What makes the source of that name from `annotations` and `images`."""
    return functools.partial(Refer, name=name)


def _in_split(given, wanted):
    """REFER's rule: `test` is every test set, testA, testB, testC go by the letter."""
    if wanted == "test":
        return "test" in given
    if wanted in ("testA", "testB", "testC"):
        return given == wanted or (given.startswith("test") and wanted[-1] in given[4:])
    return given == wanted


def _image_file(name, split):
    if name.startswith("COCO_train2014_"):
        return f"train2014/{name}"
    return f"{split.rstrip('ABC')}2017/{name}"
