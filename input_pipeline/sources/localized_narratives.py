"""Localized Narratives: what annotators said, word by word in time, while they moved the mouse.

ANNOTATIONS is the folder of the original files, such as ade20k_train_localized_narratives.jsonl or
coco_train_localized_narratives-00000-of-00004.jsonl (not the *_captions.jsonl), or one such file.
Splits: train, val (also where a file says `validation`), test. Of a file in several parts, all
parts must be there; one part alone is read when ANNOTATIONS names it.

IMAGES holds, by the narrative's `dataset_id`:
  mscoco_*       train2017/000000000009.jpg, or with coco_images=2014
                 train2014/COCO_train2014_000000000009.jpg (train2017's photographs lie in both
                 train2014 and val2014)
  Flick30k       flickr30k-images/1000092795.jpg
  ADE20k         ADEChallengeData2016/images/{training,validation}/ADE_val_00000175.jpg
  open_images_*  {train,validation,test}/0a1b….jpg, or with open_images=parts, train_0/0a1b….jpg to
                 train_f (the first digit of the id)

Options:
  dataset=coco (open_images, flickr30k, ade20k): only the files that begin so; default all.
  sentences=true: a narrative is cut at sentence ends. sentences=paper: cut and given points as
    RegionVLM's released preparation does (also at commas and " and "; 20 points each).
  coco_images=2017|2014, open_images=whole|parts: layouts, as above.

A narrative makes one record; each sentence with a trace is a `narration` with the points drawn
while its words were said. Points outside the image are kept, as clipping is up to their use, and
counted. Images are found by `dataset_id` alone, never by what happens to exist.
"""

import dataclasses
import pathlib
import re

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import field, parse_line, read_lines
from input_pipeline.sources.named_files import check_option, named_files
from input_pipeline.sources.source import Item
from input_pipeline.sources.speech import (
    SENTENCES,
    drawn_during,
    paper_sentences,
    read_trace,
    sentence_spans,
    spoken_spans,
)
from regionjax.config import nearest
from regionjax.regions import Region, RegionError

_FILE = re.compile(
    r"(?P<dataset>\w+?)_(?P<split>train|val|validation|test)(?:_v\d+)?_localized_narratives"
    r"(?:-(?P<part>\d+)-of-(?P<parts>\d+))?\.jsonl"
)
_BEGINNING = re.compile(
    rb'\{\s*"dataset_id":\s*"(?P<dataset_id>[\w-]*)",\s*"image_id":\s*"(?P<image_id>[\w-]*)",'
)
_OPEN_IMAGES_FOLDERS = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
# dataset_id, in any case of letters.
_COCO = re.compile(r"mscoco_(train|val|test)(2014|2017)", re.I)
_FLICKR30K = re.compile(r"flickr?30k\w*", re.I)
_ADE20K = re.compile(r"ade20k\w*", re.I)
_OPEN_IMAGES = re.compile(r"open_?images(?:\w*?_(train|validation|val|test))?\w*", re.I)
_KNOWN = ("mscoco_train2017", "mscoco_val2017", "Flick30k", "ADE20k", "open_images_train")


@dataclasses.dataclass(frozen=True)
class NarrativeItem(Item):
    """A line of a file.

    Attributes:
      line: as it is in the file; thousands of points of it are parsed where the record is made.
      where: "file, line n", for errors.
    """

    line: bytes
    where: str

    @property
    def narrative(self):
        """The line's object; DataError if it is none."""
        return parse_line(self.line, self.where)


@dataclasses.dataclass(frozen=True)
class LocalizedNarratives:
    """Localized Narratives (COCO, Open Images, Flickr30k, ADE20k): sentences with mouse traces."""

    annotations: pathlib.Path
    images: pathlib.Path
    dataset: str = "all"
    sentences: str = "true"
    coco_images: str = "2017"
    open_images: str = "whole"
    name = "localized_narratives"
    licence = "Localized Narratives: CC BY 4.0; photographs as their data sets say"

    def __post_init__(self):
        check_option(self.sentences, SENTENCES, "sentences")
        check_option(self.coco_images, ("2017", "2014"), "coco_images")
        check_option(self.open_images, ("whole", "parts"), "open_images")

    def files(self, split):
        """Annotation files of a split, in the order of their names."""
        return named_files(self.annotations, _FILE, split, self.dataset)

    def items(self, split, tally):
        """Yields a NarrativeItem a line."""
        del tally
        for path in self.files(split):
            for number, line in read_lines(path):
                where = f"{path}, line {number}"
                about = _about(line, where)
                file_name = self.image_file(about, split, where)
                image_id = str(about["image_id"])
                coco_id = int(image_id) if _COCO.fullmatch(about["dataset_id"]) else None
                yield NarrativeItem(image_id, file_name, coco_id, line, where)

    def record(self, item, tally):
        """The Record of a narrative; None if no sentence of it has a trace."""
        annotations = narrations(item.narrative, item.where, tally, self.sentences)
        if not annotations:
            tally["narratives_without_trace"] += 1
            return None
        data, width, height = read_image(self.images, item.file_name)
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

    def image_file(self, narrative, split, where):
        """A narrative's image below IMAGES; `split` counts where its dataset_id names none.

        Raises:
          DataError: an unknown dataset_id, or an image_id that it cannot have.
        """
        dataset = field(narrative, "dataset_id", where, str)
        image_id = str(field(narrative, "image_id", where, str | int))
        if match := _COCO.fullmatch(dataset):
            if not image_id.isdecimal():
                raise DataError(f"{where}: image_id {image_id!r} of {dataset} is not a number")
            return self._coco_file(match[1].lower(), match[2], int(image_id))
        if _FLICKR30K.fullmatch(dataset):
            return f"flickr30k-images/{image_id}.jpg"
        if _ADE20K.fullmatch(dataset):
            match = re.match(r"ADE_(train|val)_", image_id)
            if not match:
                raise DataError(
                    f"{where}: image_id {image_id!r} of {dataset} is not ADE_train_… or ADE_val_…"
                )
            folder = {"train": "training", "val": "validation"}[match[1]]
            return f"ADEChallengeData2016/images/{folder}/{image_id}.jpg"
        if match := _OPEN_IMAGES.fullmatch(dataset):
            folder = _OPEN_IMAGES_FOLDERS.get((match[1] or split).lower())
            if not folder:
                raise DataError(f"{where}: neither {dataset} nor {split} is a split of Open Images")
            if folder == "train" and self.open_images == "parts":
                folder = f"train_{image_id[0]}"
            return f"{folder}/{image_id}.jpg"
        raise DataError(f"{where}: dataset_id {dataset!r} is not known{nearest(dataset, _KNOWN)}")

    def _coco_file(self, split, year, number):
        if year == self.coco_images == "2017":
            return f"{split}2017/{number:012d}.jpg"
        folders = [f"{split}2014"]
        if year == "2017" and split == "train":  # 2014's val, but for 5000, went to 2017's train
            folders = ["val2014", "train2014"]
        files = [f"{folder}/COCO_{folder}_{number:012d}.jpg" for folder in folders]
        return files[0] if (self.images / files[0]).is_file() else files[-1]


def _about(line, where):
    """An object with a line's dataset_id and image_id.

    From its beginning, if it is as published and the line is not cut short; else the whole line's.
    """
    match = _BEGINNING.match(line)
    if not match or not line.rstrip().endswith(b"}"):
        return parse_line(line, where)
    return {key: value.decode() for key, value in match.groupdict().items()}


def narrations(narrative, where, tally, sentences="true"):
    """The sentences of a narrative that have a trace, as annotations.

    Args:
      narrative: an object of the JSON Lines file.
      where: what to call it in errors.
      tally: counts `sentences_without_trace`, `sentences_drawn_outside` (no point of theirs lies
        in the image), `points_outside_image` (kept), `utterances_without_time` and
        `utterances_not_in_caption`; with "paper" also `sentences_without_words` (punctuation) and
        `sentences_said_again` (the first place of a text that comes twice).
      sentences: "true" or "paper", see the top of the file.

    Returns:
      list of Annotation; points in time order, with "paper" in the order of what was said.
    """
    caption = field(narrative, "caption", where, str)
    timed = _timed(narrative, where)
    trace = read_trace(field(narrative, "traces", where, list), ("x", "y", "t"), where)
    outside = ((trace[:, :2] < 0) | (trace[:, :2] > 1)).any(axis=1)
    tally["points_outside_image"] += int(outside.sum())
    if sentences == "paper":
        found = _paper(caption, timed, trace, tally)
    else:
        found = _true(caption, timed, trace, tally)
    annotator = narrative.get("annotator_id", "")
    annotations = []
    for number, text, points in found:
        try:
            region = Region.from_points(points)
        except RegionError as error:
            raise DataError(f"{where}, sentence {number}: {error}") from error
        annotations.append(Annotation("narration", text, f"{annotator}/{number}", region))
    return annotations


def _true(caption, timed, trace, tally):
    """Yields (number, text, f64 [n, 2]) of the sentences between true ends."""
    caption = " ".join(caption.split())
    trace = trace[np.argsort(trace[:, 2], kind="stable")]
    times = trace[:, 2].tolist()
    spoken = spoken_spans(caption, timed, tally)
    for number, span in enumerate(sentence_spans(caption)):
        points = trace[drawn_during(span, spoken, times), :2]
        if not len(points):
            tally["sentences_without_trace"] += 1
        elif ((points < 0) | (points > 1)).any(axis=1).all():
            tally["sentences_drawn_outside"] += 1
        else:
            yield number, caption[span[0] : span[1]], points


def _paper(caption, timed, trace, tally):
    """Yields (number, text, f64 [20, 2]) of RegionVLM's sentences; numbers count what it keeps."""
    sentences = paper_sentences(caption, timed, trace[:, :2], trace[:, 2], tally)
    for number, (text, points) in enumerate(sentences.items()):
        text = " ".join(text.split())
        if any(character.isalnum() for character in text):
            yield number, text, points
        else:
            tally["sentences_without_words"] += 1


def _timed(narrative, where):
    """[(utterance, start, end)]"""
    place = f"{where}: utterance"
    return [
        (
            field(entry, "utterance", place, str),
            field(entry, "start_time", place, int | float),
            field(entry, "end_time", place, int | float),
        )
        for entry in field(narrative, "timed_caption", where, list)
    ]
