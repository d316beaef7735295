"""Records: one image with everything that a source says about it, in ArrayRecord files.

A record is `u32 header length | JSON header | arrays | image bytes` (little-endian). The arrays
hold 4-byte items one after the other: run lengths of masks (u32), boxes and trace points (f32); the
header says which. Reading a record makes no region until one is asked for.
"""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import json

import numpy as np
from array_record.python import array_record_module
from grain.sources import ArrayRecordDataSource

from input_pipeline.errors import DataError
from input_pipeline.runs import RunRegion
from regionjax.regions import WHOLE_IMAGE, Region

KINDS = ("phrase", "expression", "caption", "narration", "question", "choice")
COORDINATES = "xy normalised to [0, 1], origin top-left; boxes xyxy; masks column-major run lengths"
_WRITER_OPTIONS = "group_size:1,uncompressed"  # random access; images do not compress


@dataclasses.dataclass(frozen=True)
class Annotation:
    """A text and what it speaks of.

    Attributes:
      kind: "phrase" (names the region), "expression" (picks it out among the others), "caption"
        (whole image), "narration" (a sentence said while the mouse drew `geometry`), "question"
        (about the region or the image) or "choice" (a question with answers to choose from).
      text: as the source wrote it.
      id: the source's own identifier, as text.
      geometry: Region | RunRegion | None for the whole image. Annotations of one object share it.
      extra: what else a kind has, plain JSON. question: `answer`, and `answers` of all annotators.
        choice: `choices`, `answer` (index), `rationales`, `rationale` (index); the indices are
        absent where a split has no labels. Any kind: `provenance`, of made-up annotations.
    """

    kind: str
    text: str
    id: str
    geometry: object = None
    extra: dict = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def region(self):
        """The Region (or RunRegion) that the text speaks of."""
        if self.geometry is None:
            return WHOLE_IMAGE
        return self.geometry.region if isinstance(self.geometry, _Packed) else self.geometry


@dataclasses.dataclass(frozen=True)
class Record:
    """One image of one source.

    Attributes:
      source: such as "coco".
      file_name: of the image, below the source's folder of images.
      image_id: the source's identifier, as text; several records may share it.
      width, height: pixels.
      image: the bytes of the image file.
      annotations: list of Annotation.
      proposals: list of RunRegion, candidate segments for referring segmentation.
      coco_id: of the photograph, where it is one of COCO's; tells which sources share it.
    """

    source: str
    file_name: str
    image_id: str
    width: int
    height: int
    image: bytes
    annotations: list
    proposals: list = dataclasses.field(default_factory=list)
    coco_id: int | None = None

    @property
    def name(self):
        """For messages: source and file."""
        return f"{self.source}:{self.file_name}"

    def encode(self):
        """The record as bytes."""
        arrays, places, geometries = [], {}, []
        for annotation in self.annotations:
            geometry = annotation.geometry
            if geometry is not None and id(geometry) not in places:
                places[id(geometry)] = len(geometries)
                geometries.append(_pack(geometry, arrays))
        header = {
            "source": self.source,
            "file_name": self.file_name,
            "image_id": self.image_id,
            "size": [self.width, self.height],
            "geometries": geometries,
            "annotations": [
                [
                    a.kind,
                    a.text,
                    a.id,
                    places.get(id(a.geometry), -1),
                    *([a.extra] if a.extra else []),
                ]
                for a in self.annotations
            ],
            "coco_id": self.coco_id,
            "proposals": [_pack(proposal, arrays) for proposal in self.proposals],
        }
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 4)  # arrays start at a multiple of their item size
        return b"".join([np.uint32(len(text)).tobytes(), text, *arrays, self.image])

    @classmethod
    def decode(cls, data):
        """The record that `encode` made `data` from.

        Raises:
          DataError: bytes that are not a record.
        """
        try:
            end = 4 + int.from_bytes(data[:4], "little")
            header = json.loads(data[4:end])
            width, height = header["size"]
            geometries = []
            for kind, items, *bounds in header["geometries"]:
                geometries.append(_Packed(kind, data, end, items, height, width, bounds))
                end += 4 * items
            geometries.append(None)  # place -1: the whole image
            proposals = []
            for kind, items, *bounds in header["proposals"]:
                place = _Packed(kind, data, end, items, height, width, bounds)
                proposals.append(place.region)
                end += 4 * items
            return cls(
                source=header["source"],
                file_name=header["file_name"],
                image_id=header["image_id"],
                width=width,
                height=height,
                image=data[end:],
                annotations=[
                    Annotation(kind, text, id, geometries[place], *extra)
                    for kind, text, id, place, *extra in header["annotations"]
                ],
                proposals=proposals,
                coco_id=header["coco_id"],
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{len(data)} bytes that are not a record: {error!r}") from error


class _Packed:
    """A geometry that still lies in the bytes of its record."""

    def __init__(self, kind, data, start, items, height, width, bounds):
        self._place = kind, data, start, items, height, width, bounds

    @functools.cached_property
    def region(self):
        kind, data, start, items, height, width, bounds = self._place
        if kind == "mask":
            return RunRegion(np.frombuffer(data, "<u4", items, start), height, width, bounds)
        numbers = np.frombuffer(data, "<f4", items, start)
        return Region(box=numbers) if kind == "box" else Region(points=numbers.reshape(-1, 2))


def _pack(region, arrays):
    """Appends a region's bytes; returns [kind, number of 4-byte items, a mask's bounds]."""
    if isinstance(region, RunRegion):
        arrays.append(region.counts.astype("<u4").tobytes())
        return ["mask", len(region.counts), *region.bounds]
    array = region.points if region.kind == "points" else region.box
    arrays.append(array.astype("<f4").tobytes())
    return [region.kind, array.size]


# ---- files --------------------------------------------------------------------------------------


def write_shard(path, records):
    """Writes encoded records (bytes) to an ArrayRecord file that appears only when complete.

    Returns:
      Their number.

    Raises:
      DataError: it cannot be written, as on a full disk.
    """
    part, count = path.with_name(path.name + ".part"), 0
    with _writer(part) as writer:
        for record in records:
            with _written(part):
                writer.write(record)
            count += 1
    part.replace(path)
    return count


@contextlib.contextmanager
def _writer(path):
    with _written(path):
        writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        yield writer
    except BaseException:
        with contextlib.suppress(RuntimeError):  # what brought us here matters more
            writer.close()
        raise
    with _written(path):
        writer.close()


@contextlib.contextmanager
def _written(path):
    """ArrayRecord's errors are RuntimeErrors without a class of their own."""
    try:
        yield
    except RuntimeError as error:
        raise DataError(f"{path} cannot be written: {error}") from error


class BadRecord(DataError):
    """A record that cannot be read, as its file was damaged; the message names both."""


class Payloads:
    """The bytes of records in files; no file is opened before one of its records is asked for."""

    def __init__(self, files):
        """Takes {file: number of its records}, all above 0."""
        self._files = list(files)
        self._ends = list(itertools.accumulate(files.values()))
        self._source = ArrayRecordDataSource(
            [f"{file}[0:{count}]" for file, count in files.items()]
        )

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, index):
        try:
            return self._source[index]
        except RuntimeError as error:  # array_record has no class of its own
            number = bisect.bisect_right(self._ends, index)
            file, place = self._files[number], index - (0, *self._ends)[number]
            if not file.is_file():
                raise DataError(f"{file}, which dataset.json names, is not there") from error
            raise BadRecord(f"{file}, record {place}: {error}") from error


class Records:
    """Records in files: a sequence with random access, cheap in memory and to open."""

    def __init__(self, files):
        """Takes {file: number of its records}, all above 0."""
        self.payloads = Payloads(files)

    def __len__(self):
        return len(self.payloads)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return Record.decode(self.payloads[index])
