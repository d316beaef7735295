"""Karpathy's split of COCO 2014: 113,287 images to train on, 5,000 for val and for test.

ANNOTATIONS/coco_karpathy_{split}.json, as LAVIS publishes it: a list of {image, caption}, where
`image` is a file below IMAGES such as val2014/COCO_val2014_000000522418.jpg and `caption` is a text
(train: five entries an image) or a list of texts (val, test). Or, where that is not there,
ANNOTATIONS/dataset_coco.json, as Karpathy published it: `images` with filepath, filename, cocoid,
split and `sentences` with `raw`. Splits: train, val, test; the images that Karpathy calls
`restval` belong to train. Each caption is a `caption`; an image makes one record.
"""

import dataclasses
import pathlib

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.leakage import coco_id_of
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import existing, field
from input_pipeline.sources.json_entries import Places, entries_of, list_entries
from input_pipeline.sources.source import Item


@dataclasses.dataclass(frozen=True)
class CaptionsItem(Item):
    """The captions of one image.

    Attributes:
      captions: list of (id, text).
    """

    captions: list


@dataclasses.dataclass(frozen=True)
class CocoKarpathy:
    """COCO's captions in Karpathy's split (LAVIS's files or his own)."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "coco_karpathy"
    licence = "COCO: annotations CC BY 4.0, each photograph under its own Flickr licence"

    def files(self, split):
        """The annotation file of a split: LAVIS's, or Karpathy's of all splits."""
        path, whole = self.annotations / f"coco_karpathy_{split}.json", self._whole
        return [existing(whole if whole.is_file() and not path.is_file() else path)]

    @property
    def _whole(self):
        return self.annotations / "dataset_coco.json"

    def items(self, split, tally):
        """Yields a CaptionsItem an image."""
        (path,) = self.files(split)
        found = self._of_karpathy(path, split) if path == self._whole else self._of_lavis(path)
        for file_name, captions in found:
            kept = [(name, text) for name, text in captions if text]
            tally["empty_captions"] += len(captions) - len(kept)
            if not kept:
                tally["images_without_annotations"] += 1
                continue
            number = coco_id_of(file_name)
            if number is None:
                raise DataError(f"{path}: image {file_name} is not named as COCO's photographs are")
            yield CaptionsItem(str(number), file_name, number, kept)

    def _of_lavis(self, path):
        """Yields (file name, [(id, text)]); the id is COCO's of the image and a number."""
        places = Places(path)
        for number, (entry, place) in enumerate(list_entries(path)):
            where = f"{path}: entry {number}"
            field(entry, "caption", where, str | list)
            places.add(field(entry, "image", where, str), place)
        for file_name in places:
            texts = []
            for entry in places.read(file_name):
                caption = entry["caption"]
                texts += caption if isinstance(caption, list) else [caption]
            name = coco_id_of(file_name)
            yield (
                file_name,
                [
                    (f"{name}/{number}", _one_line(text, f"{path}: {file_name}"))
                    for number, text in enumerate(texts)
                ],
            )

    def _of_karpathy(self, path, split):
        """Yields (file name, [(id, text)]) of a split; the id is the sentence's own."""
        splits = set()
        for number, (_, entry, _) in enumerate(entries_of(path, ["images"])):
            where = f"{path}: image {number}"
            given = field(entry, "split", where, str)
            given = "train" if given == "restval" else given
            splits.add(given)
            if given != split:
                continue
            folder, name = (field(entry, key, where, str) for key in ("filepath", "filename"))
            yield (
                f"{folder}/{name}",
                [
                    (
                        str(field(sentence, "sentid", where)),
                        _one_line(field(sentence, "raw", where), where),
                    )
                    for sentence in field(entry, "sentences", where, list)
                ],
            )
        if split not in splits:
            raise DataError(f"{path} has no split {split}; it has {sorted(splits)}")

    def record(self, item, tally):
        """The Record of a CaptionsItem."""
        del tally
        data, width, height = read_image(self.images, item.file_name)
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=width,
            height=height,
            image=data,
            annotations=[Annotation("caption", text, name) for name, text in item.captions],
            coco_id=item.coco_id,
        )


def _one_line(text, where):
    if not isinstance(text, str):
        raise DataError(f"{where}: a caption is a {type(text).__name__}, expected text")
    return " ".join(text.split())
