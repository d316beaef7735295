"""TFDS: any dataset that tensorflow_datasets prepared as ArrayRecord; TensorFlow is not needed.

ANNOTATIONS is the folder of a version, the one with dataset_info.json, such as
~/tensorflow_datasets/ref_coco/refcoco_unc/1.1.0. The dataset must have been prepared with
`file_format="array_record"`. IMAGES is not used (images lie in the records) and may be the same
folder. Splits are those of the dataset, such as train, validation, testA.

These features are found by themselves, so that ref_coco, coco_captions, coco and datasets of the
same form need no option:

  captions/text       captions
  objects/bbox        boxes
  objects/mask        masks
  objects/label       labels, if they have names (ref_coco's are numbers without)
  objects/refexp/raw  expressions

For any other dataset say where its features are, and nothing else is taken:

  --set captions=caption --set boxes=annotations/bbox --set labels=annotations/category

  captions     Text, one or several: each a "caption" of the image.
  boxes        BBoxFeature (TFDS writes ymin, xmin, ymax, xmax from 0 to 1), one or several.
  masks        Image, one for each box: the region, in place of the box, is what is not black.
  labels       ClassLabel with names, or Text, one for each box: a "phrase".
  expressions  Text, one or several for each box: an "expression".
  questions    Text, one or several: a "question" about the image, and
  answers      Text, one for each question.
  image        Image; `image` if not given.
  image_id     a number or Text; `image/id` if not given and there, else the place in the split.

Beside a text in a sequence, `id` or a name that ends in `_id` is the annotation's identifier;
beside boxes, `is_crowd` marks those that are left out and counted. The photographs of ref_coco,
coco, coco_captions and lvis are known as COCO's by their image/id.
"""

import dataclasses
import functools
import io
import pathlib

import numpy as np
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.images import check_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import existing
from input_pipeline.sources.pixel_regions import inside_image, mask_region
from input_pipeline.sources.source import Item
from regionjax.config import nearest
from regionjax.regions import Region, box_from_yxyx

_COCO = ("ref_coco", "coco", "coco_captions", "lvis")
_DESCRIPTION = ("dataset_info.json", "features.json")
_ROLES = ("captions", "boxes", "masks", "labels", "expressions", "questions", "answers")


@dataclasses.dataclass(frozen=True)
class TfdsItem(Item):
    """An example.

    Attributes:
      split: the split it is in.
      index: its place there.
    """

    split: str
    index: int


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """Any TFDS dataset prepared as ArrayRecord, such as ref_coco and coco_captions."""

    annotations: pathlib.Path
    images: pathlib.Path
    captions: str = ""
    boxes: str = ""
    masks: str = ""
    labels: str = ""
    expressions: str = ""
    questions: str = ""
    answers: str = ""
    image: str = ""
    image_id: str = ""
    name = "tfds"
    licence = "TFDS: as the page of the dataset says"

    def files(self, split):
        """The dataset's description; it counts the examples and bytes of every shard."""
        found = [existing(self.annotations / name) for name in _DESCRIPTION]
        self._open(split)
        return found

    def items(self, split, tally):
        """Yields a TfdsItem an example."""
        del tally
        self.files(split)
        name, roles, examples = self._open(split)
        for index in range(len(examples)):
            image_id, coco_id = index, None
            if "image_id" in roles:
                image_id = roles["image_id"].value(self._example(split, index))
                if name in _COCO and roles["image_id"].path == "image/id":
                    coco_id = int(image_id)
            yield TfdsItem(_text(image_id), f"{name}/{split}/{index}", coco_id, split, index)

    def record(self, item, tally):
        """The Record of an example; None if nothing is said of it."""
        where = self._where(item.split, item.index)
        _, roles, _ = self._open(item.split)
        example = self._example(item.split, item.index)
        data = roles["image"].value(example)
        width, height = check_image(data, where)
        annotations = [
            Annotation("caption", text, identifier)
            for text, identifier in _texts(example, roles, "captions")
        ]
        if "boxes" in roles:
            annotations += _objects(example, roles, width, height, where, tally)
        questions, answers = (_texts(example, roles, role) for role in ("questions", "answers"))
        if len(questions) != len(answers):
            raise DataError(f"{where}: {len(questions)} questions, {len(answers)} answers")
        for (text, identifier), (answer, _) in zip(questions, answers, strict=True):
            annotations.append(Annotation("question", text, identifier, None, {"answer": answer}))
        told = [annotation for annotation in annotations if annotation.text]
        tally["empty_texts"] += len(annotations) - len(told)
        if not told:
            tally["images_without_annotations"] += 1
            return None
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=width,
            height=height,
            image=data,
            annotations=told,
            coco_id=item.coco_id,
        )

    def _where(self, split, index):
        return f"{self.annotations}, {split} example {index}"

    def _open(self, split):
        """(name of the dataset, {role: Leaf}, its examples in a split)."""
        given = {role: getattr(self, role) for role in (*_ROLES, "image", "image_id")}
        given = {role: path for role, path in given.items() if path}
        return _opened(str(self.annotations), split, tuple(given.items()))

    def _example(self, split, index):
        _, _, examples = self._open(split)
        try:
            return examples[index]
        except Exception as error:  # of array_record, protobuf or TFDS: none has a class for it
            raise DataError(f"{self._where(split, index)} cannot be read: {error!r}") from error


@functools.lru_cache(maxsize=8)
def _opened(directory, split, given):
    """As TfdsRecords._open; once in a process."""
    import tensorflow_datasets as tfds  # a third of a second, for those who use it

    from input_pipeline.sources import tfds_features

    directory = pathlib.Path(directory)
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # json, protobuf and TFDS each raise their own
        raise DataError(f"{directory} is no TFDS dataset: {error!r}") from error
    if split not in builder.info.splits:
        known = sorted(builder.info.splits)
        raise DataError(f"{directory} has no split {split}{nearest(split, known)}; it has {known}")
    roles = tfds_features.roles(builder.info.features, dict(given), directory)
    try:
        decoders = tfds_features.as_stored(builder.info.features)
        examples = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:  # TFDS's, of files without random access
        stored = builder.info.file_format.value
        raise DataError(
            f"{directory} was prepared as {stored}; prepare it with file_format='array_record'"
        ) from error
    return builder.name, roles, examples


def _objects(example, roles, width, height, where, tally):
    """Annotations of what has a box."""
    boxes = _each_box(example, roles, "boxes")
    none = [None] * len(boxes)
    masks, crowds = (
        _each_box(example, roles, role) if role in roles else none for role in ("masks", "crowds")
    )
    regions = []
    for number, (box, mask, crowd) in enumerate(zip(boxes, masks, crowds, strict=True)):
        if crowd:
            tally["crowd_regions"] += 1
            regions.append(None)
            continue
        region = None
        if mask is not None:
            region = _mask_region(mask, width, height, f"{where}, mask {number}", tally)
        regions.append(region or _box_region(box, f"{where}, box {number}", tally))
    found = []
    for role, kind in (("labels", "phrase"), ("expressions", "expression")):
        if role not in roles:
            continue
        texts = _each_box(example, roles, role)
        several = roles[role].depth > roles["boxes"].depth
        identifiers = none
        if f"{role}_id" in roles:
            identifiers = _each_box(example, roles, f"{role}_id")
        for number, (region, told, ids) in enumerate(zip(regions, texts, identifiers, strict=True)):
            told = told if several else [told]
            ids = [number] * len(told) if ids is None else ids if several else [ids]
            if region is None:
                tally["texts_without_region"] += len(told)
                continue
            for text, identifier in zip(told, ids, strict=True):
                text = _text(text, roles[role].feature)
                found.append(Annotation(kind, text, _text(identifier), region))
    return found


def _each_box(example, roles, role):
    """The values of a role that has one for each box, as a list also where there is one box."""
    value = roles[role].value(example)
    return [value] if roles["boxes"].depth == 0 else list(value)


def _texts(example, roles, role):
    """[(text, identifier)] of a role with one or several texts an image."""
    if role not in roles:
        return []
    value = roles[role].value(example)
    texts = [value] if roles[role].depth == 0 else list(value)
    identifiers = range(len(texts))
    if f"{role}_id" in roles:
        value = roles[f"{role}_id"].value(example)
        identifiers = [value] if roles[role].depth == 0 else list(value)
    return [
        (_text(text), _text(identifier))
        for text, identifier in zip(texts, identifiers, strict=True)
    ]


def _text(value, feature=None):
    """A stored value as text with single spaces; of a ClassLabel its name, of an unknown one ""."""
    if isinstance(value, bytes):
        return " ".join(value.decode().split())
    if getattr(feature, "names", None) is None:
        return str(value)
    return feature.int2str(int(value)) if value >= 0 else ""


def _box_region(box, where, tally):
    """The Region of a box as TFDS stores it; None if it has no area."""
    box = box_from_yxyx(box)
    if not np.isfinite(box).all() or (np.abs(box - 0.5) > 1).any() or (box[2:] < box[:2]).any():
        raise DataError(f"{where}: {box.tolist()} is not x0, y0, x1, y1 from 0 to 1")
    inside = inside_image(box, tally)
    return None if inside is None else Region.from_box(inside)


def _mask_region(mask, width, height, where, tally):
    """The RunRegion of the bytes of an image; None if it is black."""
    check_image(mask, where)
    with Image.open(io.BytesIO(mask)) as image:
        grey = image.mode in ("1", "L", "I;16")
        pixels = np.asarray(image if grey else image.convert("RGB")) != 0
    pixels = pixels.reshape(*pixels.shape[:2], -1).any(axis=2)
    if pixels.shape != (height, width):
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise DataError(f"{where}: {size} pixels, its image {width}x{height}")
    return mask_region(pixels, width, height, where, tally)
