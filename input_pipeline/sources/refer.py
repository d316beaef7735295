"""REFER: referring expressions (RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and the built-in world's).

ANNOTATIONS/refs(SPLIT_BY).p and instances.json. Photographs named COCO_train2014_… are
IMAGES/train2014/COCO_train2014_….jpg; RefCLEF's are IMAGES and the `file_name` in instances.json
(IMAGES is the folder saiapr_tc-12); the built-in world's are IMAGES/{split}2017/*.jpg.

Splits are those in the pickle, by REFER's own rule: `testA` is every reference whose split is a
test with an A in it (testA, testAB), `test` is every test. Each sentence of a reference is an
`expression`; its region is the union of the object's outlines. `sentences` says how it is read:
`sent` in lower case without marks, as most report it; `raw` as it was typed, which RegionVLM's
authors score after a normaliser of their own (data.normalize_text). The pickle is read without
running code from it. Where a data set was published with other numbers of references and images
than the files have, the difference is counted.
"""

import dataclasses
import pathlib

from input_pipeline.errors import DataError
from input_pipeline.leakage import coco_id_of
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import ID, existing, field, read_pickle
from input_pipeline.sources.coco import add_image, instance_region, read_coco_image
from input_pipeline.sources.json_entries import Places, entries_of
from input_pipeline.sources.named_files import check_option
from input_pipeline.sources.source import PUBLISHED, Item


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
    """REFER of the built-in world, and of data of your own in its layout."""

    annotations: pathlib.Path
    images: pathlib.Path
    sentences: str = "sent"
    name = "refer"
    folder = "world"  # below `refer`, in the usual layout
    photographs = "."
    split_by = "unc"
    published = {}  # split: (references, images)
    licence = "REFER: see the owners' pages; COCO's photographs under their own Flickr licences"

    def __post_init__(self):
        check_option(self.sentences, ("sent", "raw"), "sentences")

    def files(self, split):
        """Annotation files; the same for every split."""
        del split
        names = f"refs({self.split_by}).p", "instances.json"
        return [existing(self.annotations / name) for name in names]

    def items(self, split, tally):
        """Yields a ReferItem an image, in the order of their first references."""
        refs_path, instances_path = self.files(split)
        chosen = self._references(refs_path, split, tally)
        images, objects = Places(instances_path), Places(instances_path)
        for key, entry, place in entries_of(instances_path, ["images", "annotations"]):
            if key == "images":
                add_image(images, entry, place, f"{instances_path}: image {len(images)}")
            else:
                objects.add(field(entry, "id", f"{instances_path}: annotation", ID), place)
        by_image = {}
        for where, reference in chosen:
            image_id, object_id = (
                field(reference, key, where, ID) for key in ("image_id", "ann_id")
            )
            if image_id not in images:
                self._unlisted(f"{where}: image {image_id} is not in {instances_path}", tally)
            elif object_id not in objects:
                raise DataError(f"{where}: annotation {object_id} is not in {instances_path}")
            else:
                by_image.setdefault(image_id, []).append(reference)
        for image_id, references in by_image.items():
            image = images.read(image_id)[0]
            file_name = self._image_file(image["file_name"], split)
            yield ReferItem(
                image_id=str(image_id),
                file_name=file_name,
                coco_id=coco_id_of(file_name),
                image=image,
                references=[(r, objects.read(r["ann_id"])[0]) for r in references],
            )

    def _references(self, path, split, tally):
        """[(what to call it, reference)] of a split."""
        references = read_pickle(path)
        if not isinstance(references, list):
            raise DataError(f"{path} holds a {type(references).__name__}, expected a list")
        chosen, splits = [], set()
        for number, reference in enumerate(references):
            where = f"{path}: reference {number}"
            splits.add(field(reference, "split", where, str))
            if _in_split(reference["split"], split):
                chosen.append((where, reference))
        if not chosen:
            raise DataError(f"{path} has no split {split}; it has {sorted(splits)}")
        if split in self.published:
            images = {field(reference, "image_id", where, ID) for where, reference in chosen}
            for what, found, expected in zip(
                ("references", "images"),
                (len(chosen), len(images)),
                self.published[split],
                strict=True,
            ):
                side = "fewer" if found < expected else "more"
                tally[f"{side}_{what}{PUBLISHED}{expected}"] += abs(found - expected)
        return chosen

    def _unlisted(self, message, tally):
        """What becomes of a reference to an image that instances.json lacks."""
        del tally
        raise DataError(message)

    def _image_file(self, name, split):
        """An image below IMAGES, by its `file_name`."""
        if name.startswith("COCO_train2014_"):
            return f"train2014/{name}"
        return f"{split.rstrip('ABC')}2017/{name}"

    def record(self, item, tally):
        """The Record of a ReferItem: an expression for each of its sentences."""
        data, width, height = read_coco_image(self.images, item.file_name, item.image)
        annotations, regions = [], {}
        for reference, entry in item.references:
            if entry["id"] not in regions:  # an object may be referred to more than once
                region = instance_region(entry, width, height, item.file_name, tally)
                regions[entry["id"]] = region
            region = regions[entry["id"]]
            where = f"{item.file_name}: reference {reference.get('ref_id')}"
            for sentence in field(reference, "sentences", where, list):
                text = " ".join(field(sentence, self.sentences, where, str).split())
                identifier = str(field(sentence, "sent_id", where))
                if region is None:
                    tally["expressions_without_region"] += 1
                elif text:
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


class RefcocoUnc(Refer):
    """RefCOCO as UNC split it: train, val, testA (people), testB (other things)."""

    name, folder, split_by = "refcoco_unc", "refcoco", "unc"
    published = {
        "train": (42404, 16994),
        "val": (3811, 1500),
        "testA": (1975, 750),
        "testB": (1810, 750),
    }


class RefcocoGoogle(Refer):
    """RefCOCO as Google split it: train, val, test by objects, so that images are in several."""

    name, folder, split_by = "refcoco_google", "refcoco", "google"
    published = {"train": (40000, 19213), "val": (5000, 4559), "test": (5000, 4527)}


class RefcocoPlusUnc(Refer):
    """RefCOCO+ (no words of place): train, val, testA (people), testB (other things)."""

    name, folder, split_by = "refcoco+_unc", "refcoco+", "unc"
    published = {
        "train": (42278, 16992),
        "val": (3805, 1500),
        "testA": (1975, 750),
        "testB": (1798, 750),
    }


class RefcocogUmd(Refer):
    """RefCOCOg (longer expressions) as UMD split it: train, val, test by images."""

    name, folder, split_by = "refcocog_umd", "refcocog", "umd"
    published = {"train": (42226, 21899), "val": (2573, 1300), "test": (5023, 2600)}


class RefcocogGoogle(Refer):
    """RefCOCOg as Google split it: train and val by objects, so that images are in both."""

    name, folder, split_by = "refcocog_google", "refcocog", "google"
    published = {"train": (44822, 24698), "val": (5000, 4650)}


class RefclefUnc(Refer):
    """RefCLEF (ReferItGame) as UNC split it: train, val, testA, testB, testC."""

    name, folder, split_by = "refclef_unc", "refclef", "unc"
    photographs = "saiapr_tc-12"
    licence = "REFER: see the owners' pages; photographs of IAPR TC-12 (SAIAPR), research use"

    def _unlisted(self, message, tally):
        """Three images of the Berkeley split were lost before REFER was published."""
        del message
        tally["references_to_images_not_listed"] += 1

    def _image_file(self, name, split):
        del split
        return name


class RefclefBerkeley(RefclefUnc):
    """RefCLEF (ReferItGame) as Berkeley split it: train, val, test."""

    name, split_by = "refclef_berkeley", "berkeley"


REFER_SETS = (
    Refer,
    RefcocoUnc,
    RefcocoGoogle,
    RefcocoPlusUnc,
    RefcocogUmd,
    RefcocogGoogle,
    RefclefUnc,
    RefclefBerkeley,
)


def _in_split(given, wanted):
    """REFER's rule: `test` is every test set, testA, testB, testC go by the letter."""
    if wanted == "test":
        return "test" in given
    if wanted in ("testA", "testB", "testC"):
        return given == wanted or (given.startswith("test") and wanted[-1] in given[4:])
    return given == wanted
