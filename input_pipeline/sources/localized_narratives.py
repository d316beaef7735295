"""Localized Narratives: what annotators said, word by word in time, while they moved the mouse.

ANNOTATIONS/*_{split}_localized_narratives*.jsonl, one narrative a line; a narrative makes one
record. A sentence becomes a `narration` with the trace points drawn while its words were
said. Time is given to characters: an utterance of several words that runs over the end of a
sentence shares its time out by length. Points outside the image are kept as they are.
"""

import bisect
import dataclasses
import pathlib
import re

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.images import read_image
from input_pipeline.records import Annotation, Record
from input_pipeline.sources.annotation_files import existing, field, read_json_lines
from input_pipeline.sources.source import Item
from regionjax.config import nearest
from regionjax.regions import Region, RegionError

# dataset_id: where its images lie below IMAGES, from the image's id.
_IMAGES = {
    r"mscoco_(train|val|test)2017": lambda match, id: f"{match[1]}2017/{int(id):012d}.jpg",
    r"Flic?kr?30k": lambda match, id: f"flickr30k-images/{id}.jpg",
    r"ADE20k": lambda match, id: (
        f"ADEChallengeData2016/images/{'validation' if '_val_' in id else 'training'}/{id}.jpg"
    ),
    r"(?i:open_?images)\w*?_(train|validation|test)\w*": lambda match, id: f"{match[1]}/{id}.jpg",
}

# A sentence ends at . ! or ? before a space or the end, unless an abbreviation stands there.
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|vs|approx|e\.g|i\.e)\.$", re.I)


@dataclasses.dataclass(frozen=True)
class NarrativeItem(Item):
    """A line of a file.

    Attributes:
      narrative: its object.
      where: "file, line n", for errors.
    """

    narrative: dict
    where: str


@dataclasses.dataclass(frozen=True)
class LocalizedNarratives:
    """The `localized_narratives` source."""

    annotations: pathlib.Path
    images: pathlib.Path
    name = "localized_narratives"
    licence = "Localized Narratives: CC BY 4.0; photographs as their data sets say"

    def files(self, split):
        """Annotation files of a split, of every data set in the folder."""
        found = sorted(self.annotations.glob(f"*_{split}_*localized_narratives*.jsonl"))
        return found or [existing(self.annotations / f"coco_{split}_localized_narratives.jsonl")]

    def items(self, split, tally):
        """Yields a NarrativeItem a line."""
        del tally
        for path in self.files(split):
            for number, narrative in read_json_lines(path):
                where = f"{path}, line {number}"
                file_name = image_file(narrative, where)
                image_id = str(narrative["image_id"])
                coco = str(narrative["dataset_id"]).startswith("mscoco")
                coco_id = int(image_id) if coco else None
                yield NarrativeItem(image_id, file_name, coco_id, narrative, where)

    def record(self, item, tally):
        """The Record of a narrative; None if no sentence of it has a trace."""
        annotations = narrations(item.narrative, item.where, tally)
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


def image_file(narrative, where):
    """A narrative's image below IMAGES, by its `dataset_id` alone."""
    dataset, image_id = (str(field(narrative, key, where)) for key in ("dataset_id", "image_id"))
    for pattern, path in _IMAGES.items():
        if match := re.fullmatch(pattern, dataset):
            try:
                return path(match, image_id)
            except ValueError as error:
                raise DataError(f"{where}: image_id {image_id!r} of {dataset}: {error}") from error
    raise DataError(f"{where}: dataset_id {dataset!r} is not known{nearest(dataset, _IMAGES)}")


def narrations(narrative, where, tally):
    """The sentences of a narrative that have a trace, as annotations with points in time order.

    Args:
      narrative: an object of the JSON Lines file.
      where: what to call it in errors.
      tally: counts `sentences_without_trace`, `utterances_without_time` (zero-length intervals)
        and `utterances_not_in_caption`.
    """
    caption = field(narrative, "caption", where, str)
    points, times = _trace(narrative, where)
    spoken = _spoken_spans(narrative, caption, where, tally)
    annotator = narrative.get("annotator_id", "")
    found = []
    for number, (start, end, stop) in enumerate(sentence_spans(caption)):
        chosen = np.zeros(len(times), bool)
        for first, last, begin, finish in spoken:
            low, high = max(first, start), min(last, stop)
            if low < high:  # the share of the utterance that lies in this sentence
                pace = (finish - begin) / (last - first)
                since = bisect.bisect_left(times, begin + (low - first) * pace)
                until = bisect.bisect_right(times, begin + (high - first) * pace)
                chosen[since:until] = True
        if not chosen.any():
            tally["sentences_without_trace"] += 1
            continue
        try:
            region = Region.from_points(points[chosen])
        except RegionError as error:
            raise DataError(f"{where}, sentence {number}: {error}") from error
        text = " ".join(caption[start:end].split())
        found.append(Annotation("narration", text, f"{annotator}/{number}", region))
    return found


def sentence_spans(text):
    """[(start, end, stop)] of the sentences of a text: characters start…end-1 without the closing
    marks, start…stop-1 with them."""
    spans, start = [], 0
    closings = [m.span() for m in _SENTENCE_END.finditer(text) if not _abbreviates(text, m.end())]
    for end, after in [*closings, (len(text), len(text))]:
        sentence = text[start:end]
        if any(character.isalnum() for character in sentence):
            lead = len(sentence) - len(sentence.lstrip())
            spans.append((start + lead, start + len(sentence.rstrip()), after))
        start = after
    return spans


def _abbreviates(text, end):
    return _ABBREVIATION.search(text, max(0, end - 10), end)


def _trace(narrative, where):
    """All points f32 [n, 2] and their times (list), in time order over all segments."""
    points = [p for segment in field(narrative, "traces", where, list) for p in segment]
    try:
        trace = np.array([(p["x"], p["y"], p["t"]) for p in points], np.float64).reshape(-1, 3)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: a trace point without numbers x, y, t: {error!r}") from error
    if not np.isfinite(trace).all():
        raise DataError(f"{where}: a trace point is not finite")
    trace = trace[np.argsort(trace[:, 2], kind="stable")]
    return trace[:, :2].astype(np.float32), trace[:, 2].tolist()


def _spoken_spans(narrative, caption, where, tally):
    """[(first, last, begin, finish)]: characters first…last-1 were said from begin to finish."""
    spans, cursor, missed = [], 0, 0
    for entry in field(narrative, "timed_caption", where, list):
        place = f"{where}: utterance"
        utterance = field(entry, "utterance", place, str).strip()
        begin, finish = (field(entry, k, place, int | float) for k in ("start_time", "end_time"))
        first = caption.find(utterance, cursor)
        # Between two utterances lies no word, except what stands for utterances not found.
        between = sum(character.isalnum() for character in caption[cursor:first])
        if not utterance or first < 0 or between > missed:
            tally["utterances_not_in_caption"] += 1
            missed += len(utterance) + 4
            continue
        cursor, missed = first + len(utterance), 0
        if finish <= begin:
            tally["utterances_without_time"] += 1
        else:
            spans.append((first, cursor, begin, finish))
    return spans
