"""From a record to one row of a batch; training and evaluation take the same path."""

import dataclasses

import numpy as np
from grain.transforms import MapWithIndex

from input_pipeline import tasks
from input_pipeline.data_config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage, decode_image
from input_pipeline.records import Record
from input_pipeline.runs import RunRegion
from input_pipeline.slots import encode_regions
from input_pipeline.tokens import Tokenizer
from regionjax.batch import BatchSpec
from regionjax.regions import WHOLE_IMAGE, Region

LEAST_PART = 0.2  # of a mask's pixels, on either side of a cut


def encode_row(image, segments, spec, tokenizer, *, rng, name, example=0):
    """One row of a batch: BatchSpec's fields without B.

    A segment without target takes a slot whose target is empty and weighs 0 (a question to be
    answered); slots that no segment takes are all zero.

    Args:
      image: uint8 [S, S, 3].
      segments: at most R Segments.
      spec: BatchSpec.
      tokenizer: Tokenizer.
      rng: np.random.Generator; draws the points in boxes and masks.
      name: of the record, for errors.
      example: number in the training stream.

    Raises:
      DataError: too many segments, or a text that does not fit.
    """
    if len(segments) > spec.regions:
        raise DataError(f"{name}: {len(segments)} segments for {spec.regions} slots")
    row = {field: np.zeros(shape, dtype) for field, (shape, dtype) in spec.fields().items()}
    row["image"][...] = image
    row["example"][...] = example & 0x7FFFFFFF  # a label; wraps around after 2³¹ examples
    for slot, segment in enumerate(segments):
        prompt, target = _texts(segment, tokenizer)
        if problem := overflow(len(prompt), len(target), spec):
            raise DataError(f"{name}: {problem}: {segment.prompt!r} → {segment.target!r}")
        row["prompt"][slot, : len(prompt)] = prompt
        row["target"][slot, : len(target)] = target
        if segment.target_box is not None:
            row["target_box"][slot] = segment.target_box
    row["target_weight"][...] = row["target"] != tokenizer.pad_id
    used = slice(len(segments))
    row["region_points"][used], row["region_box"][used], row["region_mask"][used] = encode_regions(
        [segment.region for segment in segments], spec.mask_size, spec.points, rng
    )
    return row


def _texts(segment, tokenizer):
    """Prompt and target as lists of token ids; a target ends with eos."""
    target = tokenizer.encode(segment.target)
    return tokenizer.encode(segment.prompt), target + [tokenizer.eos_id] if target else target


def overflow(prompt, target, spec):
    """What of so many tokens does not fit into the batch, in words; "" if all does."""
    if prompt > spec.prompt_length:
        return f"a prompt of {prompt} tokens, prompt_length is {spec.prompt_length}"
    if target > spec.target_length:
        return f"a target of {target} tokens, target_length is {spec.target_length}"
    if prompt + target > spec.text_length:
        return f"a text of {prompt} + {target} tokens, text_length is {spec.text_length}"
    return ""


def example_rng(seed, example):
    """The generator of one training example: a function of (seed, example) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, example]))


@dataclasses.dataclass(frozen=True)
class EncodeExample(MapWithIndex):
    """Record bytes and their place in the training stream to a row of the batch.

    The tasks that a record's annotations allow are shuffled; those that fit fill the slots.
    """

    spec: BatchSpec
    data: DataConfig
    tokenizer: Tokenizer
    seed: int

    def map_with_index(self, index, element):
        """See encode_row; raises BadImage or DataError unless `data` says "skip"."""
        record = Record.decode(element)
        rng = example_rng(self.seed, index)
        try:
            image = decode_image(record.image, self.spec.image_size, record.name)
        except BadImage:
            if self.data.on_bad == "stop":
                raise
            row = encode_row(0, [], self.spec, self.tokenizer, rng=rng, name="", example=index)
            row["bad"][...] = 1  # counted by the trainer
            return row
        segments = self.segments(record, rng)
        return encode_row(
            image, segments, self.spec, self.tokenizer, rng=rng, name=record.name, example=index
        )

    def segments(self, record, rng):
        """At most R Segments of a record, drawn by `rng`."""
        candidates = [
            (annotation, task)
            for annotation in record.annotations
            for task in tasks.tasks_of(annotation)
        ]
        chosen = []
        skip_long = self.data.on_long == "skip"
        for place in rng.permutation(len(candidates)).tolist():
            if len(chosen) == self.spec.regions:
                break
            annotation, task = candidates[place]
            region, part = (None, False) if task == "locate" else self.shown(annotation.region, rng)
            bins = self.tokenizer.location_bins
            segment = tasks.segment(task, annotation, bins, region, part)
            if part and self._too_long(segment):  # with "part of"; so it is shown whole
                segment = tasks.segment(task, annotation, bins)
            if not (skip_long and self._too_long(segment)):
                chosen.append(segment)
        return chosen

    def _too_long(self, segment):
        return bool(overflow(*map(len, _texts(segment, self.tokenizer)), self.spec))

    def shown(self, region, rng):
        """A region as a user might point at it, and whether that is a part of it only.

        Its mask, its box, points in it, one side of a cut, or nothing.
        """
        if region.kind == "points" or region is WHOLE_IMAGE:
            return region, False
        ways = ("nothing", "part", "points", "box", "mask")
        draw = rng.random()
        for way in ways:
            draw -= getattr(self.data, f"as_{way}")
            if draw < 0:
                break
        if way == "nothing":
            return WHOLE_IMAGE, False
        if way == "points":
            return scribble(region, self.spec.points, rng), False
        if way == "box" and region.kind != "box":
            return Region(box=region.bounding_box()), False
        side = cut(region, rng) if way == "part" and region.kind == "mask" else None
        return (region, False) if side is None else (side, True)


def cut(region, rng):
    """One side of a straight cut through a mask, or None when it leaves too little on a side."""
    (x, y), angle = region.sample_points(1, rng)[0], rng.random() * 2 * np.pi
    rows, columns = np.indices(region.mask.shape, sparse=True)
    across = (columns + 0.5 - x * region.mask.shape[1]) * np.cos(angle)
    side = region.mask & (across + (rows + 0.5 - y * region.mask.shape[0]) * np.sin(angle) > 0)
    share = side.sum() / region.mask.sum()
    return RunRegion.from_mask(side) if LEAST_PART <= share <= 1 - LEAST_PART else None


def scribble(region, most, rng):
    """A few points in a region, as a click or a stroke through it.

    One point up to `most`, in the order in which a random direction meets them.
    """
    points = region.sample_points(int(rng.integers(1, most + 1)), rng)
    angle = rng.random() * 2 * np.pi
    order = np.argsort(points @ (np.cos(angle), np.sin(angle)))
    return Region(points=points[order])
