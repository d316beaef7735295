"""From a record to one row of a batch; training and evaluation take the same path."""

import dataclasses

import numpy as np
from grain.transforms import MapWithIndex

from input_pipeline import tasks
from input_pipeline.augmentation import View, draw_view, jittered, mirrored_annotation
from input_pipeline.data_config import WAYS, DataConfig
from input_pipeline.errors import DataError
from input_pipeline.images import BadImage, decode_image
from input_pipeline.records import BadRecord, Record
from input_pipeline.runs import RunRegion
from input_pipeline.slots import encode_regions
from input_pipeline.tokens import Tokenizer
from input_pipeline.trajectory_text import picked
from regionjax.batch import BatchSpec
from regionjax.regions import WHOLE_IMAGE, Region

LEAST_PART = 0.2  # of a mask's pixels, on either side of a cut


def encode_row(image, segments, spec, tokenizer, *, rng, name, example=0, truncate=False):
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
      truncate: cut texts that do not fit, and count them in `long_texts`.

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
        if overflow(len(prompt), len(target), spec) and truncate:
            prompt, target = truncated(prompt, target, spec, segment.target_box is not None)
            row["long_texts"] += 1
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


def truncated(prompt, target, spec, whole=False):
    """Prompt and target (lists of token ids) cut at their ends to what fits into the batch.

    Where both together are too long, the target makes room down to one token. A target that is cut
    loses its eos: the sentence does not end there. `whole` keeps the target, and cuts the prompt to
    make room: half a box is not a box.
    """
    least = len(target) if whole else min(len(target), 1)
    prompt = prompt[: max(0, min(spec.prompt_length, spec.text_length - least))]
    if not whole:
        target = target[: min(spec.target_length, spec.text_length - len(prompt))]
    return prompt, target


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
class Drawn:
    """What an example shows of a record.

    Attributes:
      segments: list of Segment, as they are in the view.
      view: View, or None for the image as it is.
      left_out: how many texts were too long and left out on request.
    """

    segments: list
    view: View | None
    left_out: int


@dataclasses.dataclass(frozen=True)
class EncodeExample(MapWithIndex):
    """Record bytes and their place in the training stream to a row of the batch.

    The tasks that a record's annotations allow are drawn by their weights; those that fit fill the
    slots.
    """

    spec: BatchSpec
    data: DataConfig
    tokenizer: Tokenizer
    seed: int

    def map_with_index(self, index, element):
        """See encode_row; raises BadImage or DataError unless `data` says otherwise.

        `element` is a record's bytes, or the BadRecord that there is in place of one.
        """
        if isinstance(element, BadRecord):
            return self._bad(index, element)
        record, data, spec = Record.decode(element), self.data, self.spec
        rng = example_rng(self.seed, index)
        drawn = self.draw(record, rng)
        part, mirror = (drawn.view.edges, drawn.view.flip) if drawn.view else (None, False)
        try:
            image = decode_image(record.image, spec.image_size, record.name, part)
        except BadImage as error:
            return self._bad(index, error)
        if mirror:
            image = image[:, ::-1]
        if data.brightness or data.contrast or data.saturation:
            image = jittered(image, data, rng)
        row = encode_row(
            image,
            drawn.segments,
            spec,
            self.tokenizer,
            rng=rng,
            name=record.name,
            example=index,
            truncate=data.on_long == "truncate",
        )
        row["long_texts"] += drawn.left_out
        return row

    def _bad(self, index, error):
        """The empty row of an example that cannot be made, or the error itself."""
        if self.data.on_bad == "stop":
            raise error
        row = encode_row(0, [], self.spec, self.tokenizer, rng=None, name="", example=index)
        row["bad"][...] = 1  # counted by the trainer
        return row

    def draw(self, record, rng):
        """What an example shows of a record: a Drawn, by `rng`."""
        chosen, segments, left_out = self._choose(record, rng)
        if not (self.data.crop or self.data.flip):
            return Drawn(segments, None, left_out)
        regions = [
            region for _, annotation, shown, _ in chosen for region in (annotation.region, shown)
        ]
        view = draw_view(self.data, record.width, record.height, regions, rng)
        if view.flip:
            mirrored = self._mirrored(chosen, segments)
            if mirrored is None:
                view = dataclasses.replace(view, flip=False)
            else:
                chosen = mirrored
        return Drawn([self._segment(*one, view) for one in chosen], view, left_out)

    def _choose(self, record, rng):
        """At most R tasks of a record.

        Returns:
          (list of (task, annotation, region shown, what it is of the annotation's), their Segments,
          how many texts were left out because they are too long)
        """
        weights = self.data.task_weights
        candidates = [
            (annotation, task)
            for annotation in record.annotations
            for task in tasks.tasks_of(annotation)
            if weights.get(task, 1)
        ]
        # Whoever arrives first at rates of these weights: drawn without replacement.
        arrival = rng.exponential(size=len(candidates))
        arrival /= [weights.get(task, 1) for _, task in candidates]
        chosen, segments, left_out = [], [], 0
        for place in np.argsort(arrival).tolist():
            if len(chosen) == self.spec.regions:
                break
            annotation, task = candidates[place]
            region, prefix = annotation.region, ""
            if task != "locate":
                region, prefix = self.shown(annotation, record, rng)
            segment = self._segment(task, annotation, region, prefix)
            if prefix and self._too_long(segment):  # with its prefix; so it is shown as it is
                region, prefix = annotation.region, ""
                segment = self._segment(task, annotation, region, prefix)
            if self.data.on_long == "skip" and self._too_long(segment):
                left_out += 1
                continue
            chosen.append((task, annotation, region, prefix))
            segments.append(segment)
        return chosen, segments, left_out

    def _segment(self, task, annotation, region, prefix, view=None):
        """The Segment of a task, in a view where one is given."""
        if view:
            region = view.region(region)
            if task == "locate":
                annotation = dataclasses.replace(annotation, geometry=region)
        bins, data = self.tokenizer.location_bins, self.data
        return tasks.segment(
            task, annotation, bins, region, prefix, data.prompts, data.normalize_text
        )

    def _mirrored(self, chosen, segments):
        """`chosen` with texts about the mirrored image, or None where that cannot be said.

        Nor where a text no longer fits, as clockwise has a longer opposite.
        """
        found = []
        for (task, annotation, region, prefix), before in zip(chosen, segments, strict=True):
            other = mirrored_annotation(annotation)
            if other is None:
                return None
            found.append((task, other, region, prefix))
            if other.text != annotation.text or other.extra != annotation.extra:
                segment = self._segment(*found[-1])
                if self._too_long(segment) and not self._too_long(before):
                    return None
        return found

    def _too_long(self, segment):
        return bool(overflow(*map(len, _texts(segment, self.tokenizer)), self.spec))

    def shown(self, annotation, record, rng):
        """An annotation's region as a user might point at it, and what to call that.

        Its mask, its box, points in it, one of them, one side of a cut ("part of"), its mask with
        another's ("more than"), or nothing. `data.show_regions` may hide it, or lose the order of
        its points.
        """
        region = annotation.region
        if region is WHOLE_IMAGE or self.data.show_regions == "hidden":
            return WHOLE_IMAGE, ""
        shuffled = self.data.show_regions == "shuffled"
        if region.kind == "points":
            if self.data.trace_points == "random":
                region = Region(points=picked(region.points, self.spec.points, rng))
            return Region(points=rng.permutation(region.points)) if shuffled else region, ""
        draw = rng.random()
        for way in WAYS:
            draw -= getattr(self.data, f"as_{way}")
            if draw < 0:
                break
        if way == "nothing":
            return WHOLE_IMAGE, ""
        if way == "points":
            drawn = scribble(region, self.spec.points, rng)
            return Region(points=rng.permutation(drawn.points)) if shuffled else drawn, ""
        if way == "click":
            return Region(points=region.sample_points(1, rng)), ""
        if way == "box" and region.kind != "box":
            return Region(box=region.bounding_box()), ""
        named = region.kind == "mask" and annotation.kind in ("phrase", "expression")
        side = cut(region, rng) if way == "part" and named else None
        both = joined(region, record, rng) if way == "more" and named else None
        for other, prefix in ((side, tasks.PART), (both, tasks.MORE)):
            if other is not None:
                return other, prefix
        return region, ""


def cut(region, rng):
    """One side of a straight cut through a mask, or None when it leaves too little on a side."""
    (x, y), angle = region.sample_points(1, rng)[0], rng.random() * 2 * np.pi
    rows, columns = np.indices(region.mask.shape, sparse=True)
    across = (columns + 0.5 - x * region.mask.shape[1]) * np.cos(angle)
    side = region.mask & (across + (rows + 0.5 - y * region.mask.shape[0]) * np.sin(angle) > 0)
    share = side.sum() / region.mask.sum()
    return RunRegion.from_mask(side) if LEAST_PART <= share <= 1 - LEAST_PART else None


def joined(region, record, rng):
    """A mask together with that of another thing of the record, or None when there is none."""
    others = [a.region for a in record.annotations if a.region.kind == "mask"]
    others = [other for other in others if other is not region]
    if not others:
        return None
    both = region.mask | others[int(rng.integers(len(others)))].mask
    return RunRegion.from_mask(both) if both.sum() > region.mask.sum() else None


def scribble(region, most, rng):
    """A few points in a region, as a click or a stroke through it.

    One point up to `most`, in the order in which a random direction meets them.
    """
    points = region.sample_points(int(rng.integers(1, most + 1)), rng)
    angle = rng.random() * 2 * np.pi
    order = np.argsort(points @ (np.cos(angle), np.sin(angle)))
    return Region(points=points[order])
