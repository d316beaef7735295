"""Video Localized Narratives: what annotators said of each actor while pointing at key-frames.

ANNOTATIONS is the folder of the original files (OVIS_train.jsonl, UVO_sparse_val.jsonl,
oops_train.jsonl …, also *_train_sample.jsonl) or one such file. Splits: train, val, test.

IMAGES/DATASET_ID/VIDEO_ID/KEY_FRAME.jpg for OVIS, .png for the others, as the released code has
them: OVIS_train/5d24e4ea/img_0000003.jpg.

Options:
  dataset=OVIS (UVO_sparse, UVO_dense, oops, kinetics): only the files that begin so; default all.
  sentences=true: an actor's caption is cut at sentence ends; a sentence is told of every key-frame
    that was pointed at while it was said, by the points on that one. sentences=paper: as
    RegionVLM's preparation, the whole caption by 20 points drawn until its first "is" (or its
    subject) was said; without the last actor, the background, and without groups.
  extension=jpg (png): of all key-frames, if not as above.

A key-frame makes one record with a `narration` for each sentence told of it. Words lie in the
caption by the character offsets given; their times count from the start of the recording (with
sentences=paper from the first point, as RegionVLM does).
"""

import dataclasses
import pathlib
import re

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import field, read_json_lines
from input_pipeline.sources.named_files import check_option, named_files
from input_pipeline.sources.source import Item
from input_pipeline.sources.speech import (
    SENTENCES,
    drawn_during,
    paper_choice,
    read_trace,
    sentence_spans,
)
from regionjax.regions import Region, RegionError

_FILE = re.compile(r"(?P<dataset>\w+?)_(?P<split>train|val|test)(?:_\w+)?\.jsonl")
_POINT = ("x", "y", "time_ms_since_epoch", "kf_idx")


@dataclasses.dataclass(frozen=True)
class KeyframeItem(Item):
    """A key-frame of a video and what was said of it.

    Attributes:
      narrations: list of (id, text, points f64 [n, 2]).
      where: "file, line n", for errors.
    """

    narrations: list
    where: str


@dataclasses.dataclass(frozen=True)
class VideoLocalizedNarratives:
    """Video Localized Narratives (OVIS, UVO, Oops, Kinetics): actors' stories, on key-frames."""

    annotations: pathlib.Path
    images: pathlib.Path
    dataset: str = "all"
    sentences: str = "true"
    extension: str = "released"
    name = "video_localized_narratives"
    licence = "Video Localized Narratives: CC BY 4.0; videos as their data sets say"

    def __post_init__(self):
        check_option(self.sentences, SENTENCES, "sentences")
        check_option(self.extension, ("released", "jpg", "png"), "extension")

    def files(self, split):
        """Annotation files of a split, in the order of their names."""
        return named_files(self.annotations, _FILE, split, self.dataset)

    def items(self, split, tally):
        """Yields a KeyframeItem a key-frame of which something was said."""
        for path in self.files(split):
            for number, video in read_json_lines(path):
                yield from self._keyframes(video, f"{path}, line {number}", tally)

    def _keyframes(self, video, where, tally):
        names = field(video, "keyframe_names", where, list)
        told = {}  # key-frame: narrations
        for frame, *narration in told_of_keyframes(video, where, tally, self.sentences):
            if not 0 <= frame < len(names):
                raise DataError(f"{where}: a trace point on key-frame {frame} of {len(names)}")
            told.setdefault(frame, []).append(narration)
        tally["keyframes_without_narration"] += len(names) - len(told)
        dataset, video_id = (field(video, key, where, str) for key in ("dataset_id", "video_id"))
        extension = self.extension
        if extension == "released":
            extension = "jpg" if dataset.startswith("OVIS") else "png"
        for frame in sorted(told):
            image_id = f"{dataset}/{video_id}/{names[frame]}"
            yield KeyframeItem(image_id, f"{image_id}.{extension}", None, told[frame], where)

    def record(self, item, tally):
        """The Record of a key-frame."""
        del tally
        annotations = []
        for identifier, text, points in item.narrations:
            try:
                region = Region.from_points(points)
            except RegionError as error:
                raise DataError(f"{item.where}, narration {identifier}: {error}") from error
            annotations.append(Annotation("narration", text, identifier, region))
        data, width, height = read_image(self.images, item.file_name)
        return Record(
            source=self.name,
            file_name=item.file_name,
            image_id=item.image_id,
            width=width,
            height=height,
            image=data,
            annotations=annotations,
        )


def told_of_keyframes(video, where, tally, sentences="true"):
    """Yields (key-frame, id, text, points f64 [n, 2]) of all that was said in a video.

    Args:
      video: an object of the JSON Lines file.
      where: what to call it in errors.
      tally: counts `sentences_without_trace`, `points_outside_image` (kept), and with "true"
        `sentences_drawn_outside` (no point of theirs on a key-frame lies in it),
        `utterances_not_in_caption` and `utterances_without_time`; with "paper"
        `background_actors`, `group_actors` and `actors_without_subject`, all left out.
      sentences: "true" or "paper", see the top of the file.
    """
    actors = field(video, "actor_narratives", where, list)
    for number, actor in enumerate(actors):
        place = f"{where}, actor {number}"
        if sentences == "paper" and number == len(actors) - 1:
            tally["background_actors"] += 1
            continue
        trace = read_trace(field(actor, "traces", place, list), _POINT, place)
        outside = ((trace[:, :2] < 0) | (trace[:, :2] > 1)).any(axis=1)
        tally["points_outside_image"] += int(outside.sum())
        tell = _paper if sentences == "paper" else _true
        for frame, sentence, text, points in tell(actor, trace, place, tally):
            identifier = f"{video.get('vidln_id', '')}/{number}/{sentence}"
            yield frame, identifier, " ".join(text.split()), points


def _true(actor, trace, where, tally):
    """Yields (key-frame, number, text, f64 [n, 2]) of an actor's sentences between true ends."""
    caption = field(actor, "caption", where, str)
    trace = trace[np.argsort(trace[:, 2], kind="stable")]
    frames = trace[:, 3].astype(int)
    start = field(actor, "recording_start_time_ms_since_epoch", where, int)
    times = (trace[:, 2] - start).tolist()
    spoken = []
    for word, begin, finish, first, last in _words(actor, where):
        if not word or caption[first:last] != word:
            tally["utterances_not_in_caption"] += 1
        elif finish <= begin:
            tally["utterances_without_time"] += 1
        else:
            spoken.append((first, last, begin, finish))
    for number, span in enumerate(sentence_spans(caption)):
        chosen = drawn_during(span, spoken, times)
        tally["sentences_without_trace"] += not chosen.any()
        for frame in np.unique(frames[chosen]).tolist():
            points = trace[chosen & (frames == frame), :2]
            if ((points < 0) | (points > 1)).any(axis=1).all():
                tally["sentences_drawn_outside"] += 1
            else:
                yield frame, number, caption[span[0] : span[1]], points


def _paper(actor, trace, where, tally):
    """Yields (key-frame, 0, caption, f64 [20, 2]) of an actor, as RegionVLM's preparation."""
    caption = field(actor, "caption", where, str)
    segments = field(actor, "noun_segments", where, list)
    if not segments:
        tally["actors_without_subject"] += 1
        return
    subject = caption[slice(*segments[0])]
    if subject in ("group", "Group"):
        tally["group_actors"] += 1
        return
    last_word = "is" if " is " in caption else subject.split(" ")[-1]
    chosen = [np.zeros(0, int)]
    for word, begin, finish, *_ in _words(actor, where):
        since_first = trace[:, 2] - trace[:1, 2]
        said = np.flatnonzero((since_first >= begin) & (since_first <= finish))
        chosen.append(said)
        if word == last_word:
            chosen.append(said)  # the released code takes the last word twice
            break
    chosen = np.concatenate(chosen)
    frames = trace[chosen, 3].astype(int)
    tally["sentences_without_trace"] += not len(chosen)
    for frame in np.unique(frames).tolist():
        yield frame, 0, caption, trace[paper_choice(chosen[frames == frame]), :2]


def _words(actor, where):
    """[(word, start, end, first character, character after it)], times in ms."""
    place = f"{where}: word"
    keys = ("start_ms", "end_ms", "referenced_word_start_idx", "referenced_word_end_idx")
    return [
        (
            field(entry, "referenced_word", place, str),
            *(field(entry, key, place, int) for key in keys),
        )
        for entry in field(actor, "time_alignment", where, list)
    ]
