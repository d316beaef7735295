"""A plan: what one part is to be made of, and everything that decides what it will hold."""

import dataclasses
import hashlib
import pathlib

from input_pipeline.leakage import Exclusion
from input_pipeline.parts import FORMAT, part_key
from input_pipeline.sources.annotation_files import digest

_FEW = 20  # files of a folder that dataset.json names one by one


@dataclasses.dataclass(frozen=True)
class Plan:
    """A part that is to be prepared.

    Attributes:
      name, split: what the part is called, and what its source calls the split.
      source: the source, with its options.
      proposals: where segmentation proposals are (sources/proposals.py), or None.
      excluded: the photographs that are left out, or None.
      on_bad: what becomes of images that cannot be read: "stop" or "skip" (and count).
    """

    name: str
    split: str
    source: object
    proposals: object = None
    excluded: Exclusion | None = None
    on_bad: str = "stop"

    @property
    def key(self):
        """NAME-SPLIT."""
        return part_key(self.name, self.split)

    def files(self):
        """The annotation files as {name below ANNOTATIONS: [path]}.

        More than a few files of one folder are one entry: {"FOLDER/ (n files)": paths}.
        """
        annotations, folders = self.source.annotations, {}
        for path in self.source.files(self.split):
            inside = path != annotations and path.is_relative_to(annotations)
            name = path.relative_to(annotations) if inside else pathlib.Path(path.name)
            folders.setdefault(name.parent, []).append((str(name), path))
        files = {}
        for folder, found in folders.items():
            if len(found) > _FEW:
                files[f"{folder}/ ({len(found)} files)"] = [path for _, path in found]
            else:
                files |= {name: [path] for name, path in found}
        return files

    def inputs(self):
        """Everything that decides what the part holds, files by their content."""
        files = {name: _digest(paths) for name, paths in self.files().items()}
        if self.proposals:
            files |= self.proposals.facts()
        excluded = self.excluded.facts if self.excluded else {}
        return {
            "format": FORMAT,
            "source": self.source.name,
            "options": options_of(self.source),
            "files": files,
            **excluded,
        }

    def items(self, tally):
        """Yields (item, its entries among the proposals); counts what is left out."""
        proposals = self.proposals.open() if self.proposals else lambda item: []
        for item in self.source.items(self.split, tally):
            if self.excluded and self.excluded.covers(item):
                tally["excluded_images"] += 1
            else:
                yield item, proposals(item)


def _digest(paths):
    """The digest of a file, or of the names and contents of several."""
    if len(paths) == 1:
        return digest(paths[0])
    together = hashlib.sha256()
    for path in sorted(paths):
        together.update(f"{path.name} {digest(path)}\n".encode())
    return together.hexdigest()[:16]


def options_of(source):
    """{option: value} of a source: its fields besides the places and its name."""
    return {field.name: getattr(source, field.name) for field in _options(source)}


def with_defaults(inputs, source):
    """Inputs that were noted before the source had all its options: those had their defaults."""
    defaults = {field.name: field.default for field in _options(source)}
    return inputs | {"options": defaults | inputs["options"]}


def _options(source):
    fields = dataclasses.fields(source)
    return [field for field in fields if field.name not in ("annotations", "images", "name")]


def make_record(plan, item, proposals, tally):
    """The Record of one of plan.items, with its proposals; None if nothing is left of it.

    Raises:
      BadImage: an image that cannot be read.
      DataError: annotations that cannot be.
    """
    record = plan.source.record(item, tally)
    if record is None or plan.proposals is None:
        return record
    regions = plan.proposals.regions(proposals, record, tally) if proposals else []
    if not regions:
        tally["images_without_proposals"] += 1
    return dataclasses.replace(record, proposals=regions)
