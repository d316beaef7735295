"""Segmentation proposals of any source's images; `prepare --proposals` says where they come from.

FILE.json        COCO's results form: a list of {image_id, segmentation: {size, counts}}, all images
FOLDER           with FOLDER/proposals_{split}2017.json, such a file for each split;
                 or with what Segment Anything's `amg.py` writes for every image, by its file name
                 without ending: FOLDER/NAME/*.png, a mask each (0 and 255; `metadata.csv` and
                 whatever else lies there is not read), or FOLDER/NAME.json, a list of
                 {segmentation: {size, counts}} or an object with such a list as `annotations`
auto             segments of the pixels, see input_pipeline/segments.py
auto:DIR         masks of a checkpoint of SAM or SAM 2 in Hugging Face's form

An image may have none: that is counted. Masks in PNG files are read in the order of their numbers,
0.png, 1.png, … 10.png; masks without a pixel are left out and counted.
"""

import dataclasses
import hashlib
import io
import pathlib

import numpy as np
from PIL import Image

from input_pipeline import segments
from input_pipeline.errors import DataError
from input_pipeline.runs import EmptyMask, RunRegion
from input_pipeline.sources.annotation_files import (
    digest,
    existing,
    field,
    parse_json,
    read_json_list,
)
from regionjax.regions import RegionError

_AUTO = "auto"
_PLAIN = ("1", "L", "P", "RGB")  # modes of PNG files that say one thing a pixel


def proposals_file(folder, split):
    """Where the proposals of a split are in the usual layout, if there are any."""
    return folder / f"proposals_{split}2017.json"


def find_proposals(place, split):
    """What `--proposals` names: a ResultsFile, MaskFolder or Segmenter.

    Args:
      place: a path or "auto" or "auto:DIR", as text.
      split: such as "val".

    Raises:
      DataError: there is nothing of the kind.
    """
    name, _, model = str(place).partition(":")
    if name == _AUTO:
        return Segmenter(model)
    path = pathlib.Path(place)
    if path.is_file():
        return ResultsFile(path)
    if not path.is_dir():
        raise DataError(f"--proposals {path}: no such file or folder (nor `auto`)")
    if any(path.glob("proposals_*2017.json")):
        return ResultsFile(existing(proposals_file(path, split)))
    if not any(path.glob("*/*.png")) and not any(path.glob("*.json")):
        raise DataError(
            f"--proposals {path} has neither {proposals_file(path, split).name} nor masks of "
            "images: NAME/*.png or NAME.json, NAME being an image's without its ending"
        )
    return MaskFolder(path)


@dataclasses.dataclass(frozen=True)
class ResultsFile:
    """Proposals of all images in one file."""

    path: pathlib.Path

    def __str__(self):
        return f"{self.path} ({self.path.stat().st_size:,} bytes)"

    def facts(self):
        """{what: digest}, for the inputs of a part."""
        return {f"proposals {self.path.name}": digest(self.path)}

    def open(self):
        """item → its entries, as `regions` takes them."""
        found = read_proposals(self.path)
        return lambda item: found.get(item.image_id, [])

    def regions(self, entries, record, tally):
        """list of RunRegion, in the order of the file."""
        return proposal_regions(entries, record.width, record.height, record.file_name, tally)


@dataclasses.dataclass(frozen=True)
class MaskFolder:
    """Proposals of each image in a folder or a file of its own."""

    path: pathlib.Path

    def __str__(self):
        return f"{self.path}/NAME/*.png or {self.path}/NAME.json"

    def facts(self):
        """{what: digest} of all masks, by name and content."""
        together = hashlib.sha256()
        for path in sorted([*self.path.glob("*/*.png"), *self.path.glob("*.json")]):
            together.update(f"{path.relative_to(self.path)} {digest(path)}\n".encode())
        return {f"proposals {self.path.name}": together.hexdigest()[:16]}

    def open(self):
        """item → paths of its masks, or of its JSON file."""
        return self._files

    def _files(self, item):
        name = pathlib.PurePath(item.file_name).stem
        masks = sorted(
            (self.path / name).glob("*.png"), key=lambda path: (len(path.stem), path.stem)
        )
        listed = self.path / f"{name}.json"
        if masks and listed.is_file():
            raise DataError(f"{self.path} has both {name}/*.png and {name}.json")
        return masks or ([listed] if listed.is_file() else [])

    def regions(self, entries, record, tally):
        """list of RunRegion, PNG files in the order of their numbers."""
        if entries[0].suffix == ".json":
            listed = _annotations(entries[0])
            return proposal_regions(listed, record.width, record.height, entries[0], tally)
        found = []
        for path in entries:
            mask = read_mask(path)
            if mask.shape != (record.height, record.width):
                size = "x".join(map(str, mask.shape[::-1]))
                raise DataError(
                    f"{path} is {size}, {record.file_name} is {record.width}x{record.height}"
                )
            if mask.any():
                found.append(RunRegion.from_mask(mask))
            else:
                tally["empty_proposals"] += 1
        return found


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """Proposals made of the image itself: by the checkpoint in `model`, or else by its pixels."""

    model: str = ""

    def __str__(self):
        return f"masks of the model in {self.model}" if self.model else "segments of the pixels"

    def facts(self):
        """{what: version or digest}."""
        if not self.model:
            return {"proposals auto": segments.VERSION}
        return {"proposals auto": segments.check_model(self.model)}

    def open(self):
        """item → something that is not empty: every image has some."""
        return lambda item: [_AUTO]

    def regions(self, entries, record, tally):
        """list of RunRegion, the largest first."""
        del entries, tally
        make = segments.of_model if self.model else segments.of_pixels
        arguments = (self.model,) if self.model else ()
        return [RunRegion.from_mask(mask) for mask in make(record.image, record.name, *arguments)]


# ---- files --------------------------------------------------------------------------------------


def read_proposals(path):
    """{image id as text: its entries, in file order}.

    Raises:
      DataError: missing, not JSON, or an entry without image_id.
    """
    found = {}
    for number, entry in enumerate(read_json_list(path)):
        image_id = str(field(entry, "image_id", f"{path}: proposal {number}"))
        found.setdefault(image_id, []).append(entry)
    return found


def proposal_regions(entries, width, height, name, tally):
    """The proposals' regions, in file order; those without a pixel are counted.

    Args:
      entries: list of {segmentation: {size, counts}}.
      width, height: pixels of the image.
      name: of the image, for errors.

    Raises:
      DataError: an entry without segmentation, or one that is malformed or of another size.
    """
    regions = []
    for number, entry in enumerate(entries):
        where = f"{name}: proposal {number}"
        try:
            rle = field(entry, "segmentation", where, dict)
            regions.append(RunRegion.from_rle(rle, height, width))
        except EmptyMask:
            tally["empty_proposals"] += 1
        except (RegionError, KeyError) as error:
            raise DataError(f"{where}: {error}") from error
    return regions


def _annotations(path):
    """The list of entries in an image's own file."""
    content = parse_json(path.read_bytes(), path)
    if isinstance(content, list):
        return content
    return field(content, "annotations", path, list)


def read_mask(path):
    """A PNG mask, bool [H, W].

    Raises:
      DataError: no image, one that is broken or too large, or one of more than two values.
    """
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=("PNG",)) as image:
            mode, values = image.mode, np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if mode not in _PLAIN:
        raise DataError(f"{path} has pixels of mode {mode}; a mask is 0 and 255")
    known = np.unique(values)
    if not set(known.tolist()) <= {0, 255} and not set(known.tolist()) <= {0, 1}:
        shown = ", ".join(map(str, known[:4].tolist()))
        raise DataError(f"{path} holds {len(known)} values ({shown} …); a mask is 0 and 255")
    return values > 0
