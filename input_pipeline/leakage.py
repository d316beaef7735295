"""Leakage: which photographs are in which part, leaving some out, and warning of those in two.

A photograph is called `coco:ID` where it is one of COCO's (its source says so, or its file name is
one of COCO's, as in COCO_val2014_000000000139.jpg) and by its file name without folders otherwise.
COCO's photographs are in RefCOCO, VQAv2, OK-VQA, Visual Genome, GQA and Localized Narratives, and
what trains on one data set is evaluated on another: hence the list beside each part's records.
"""

import collections
import dataclasses
import hashlib
import pathlib
import re

from input_pipeline.errors import DataError
from input_pipeline.parts import Part, read_facts
from regionjax.config import nearest

_COCO_FILE = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})\.jpg")
_COCO = "coco:"


def photograph(file_name, coco_id):
    """What a photograph is called, such as `coco:139`.

    Args:
      file_name: with or without folders.
      coco_id: int, or None where the source knows of none.
    """
    if coco_id is None:
        coco_id = coco_id_of(file_name)
    return file_name.rsplit("/", 1)[-1] if coco_id is None else f"{_COCO}{coco_id}"


def coco_id_of(file_name):
    """COCO's id by a file name of 2014 or 2017, in any folder; None if it is neither."""
    match = _COCO_FILE.fullmatch(file_name.rsplit("/", 1)[-1])
    return int(match[1]) if match else None


def count_photographs(records):
    """How many photographs some records show: COCO's by their numbers, others by their bytes.

    The same one may come from several sources, under other names.
    """
    names = set()
    for record in records:
        name = photograph(record.file_name, record.coco_id)
        of_coco = name.startswith(_COCO)
        names.add(name if of_coco else hashlib.sha256(record.image).digest())
    return len(names)


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """Photographs that are to be left out.

    Attributes:
      names: what they are called, in any of the ways that `covers` knows.
    """

    names: frozenset

    @property
    def facts(self):
        """Their number and a digest, for dataset.json."""
        digest = hashlib.sha256("\n".join(sorted(self.names)).encode()).hexdigest()[:16]
        return {"excluded_images": len(self.names), "excluded_images_digest": digest}

    def covers(self, item):
        """Whether an Item's photograph is among them.

        By the source's image id, its file name with or without folders, its COCO id as a bare
        number, or what `photograph` calls it.
        """
        called = photograph(item.file_name, item.coco_id)
        names = {item.image_id, item.file_name, item.file_name.rsplit("/", 1)[-1], called}
        if called.startswith(_COCO):
            names.add(called[len(_COCO) :])
        return not self.names.isdisjoint(names)


def read_exclusion(lists):
    """The Exclusion of some lists, or None if there are none.

    Args:
      lists: each the path of a text file with one photograph a line (an image id of the source, a
        file name, a COCO id, or `coco:ID` for a COCO id and nothing else), or DIR:NAME-SPLIT for
        all photographs of a part of a prepared folder.

    Raises:
      DataError: a list that is not there, or is empty.
    """
    if not lists:
        return None
    names = set()
    for given in lists:
        found = set(_listed(str(given)))
        if not found:
            raise DataError(f"{given} lists no photograph")
        called = (photograph(name, None) for name in found)  # COCO's names are known as such
        names |= found | {name for name in called if name.startswith(_COCO)}
    return Exclusion(frozenset(names))


def _listed(given):
    path, (folder, colon, key) = pathlib.Path(given), given.rpartition(":")
    if path.is_file() or not colon:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}, a list of photographs: {error}") from error
        return (line.strip() for line in lines if line.strip())
    parts = read_facts(folder)["parts"]
    if key not in parts:
        raise DataError(f"{folder} holds no records {key}{nearest(key, parts)}")
    return Part(pathlib.Path(folder), parts[key]).photographs()


def overlaps(train, evaluated):
    """What train parts share with parts that are evaluated, in words.

    A part with itself; different parts by COCO's photographs only, as others' names say too little.

    Args:
      train, evaluated: lists of Part.

    Returns:
      List of str, one for each pair of parts that share photographs.
    """
    both = {part.key: part for part in evaluated if part.key in {other.key for other in train}}
    found = [
        f"{key} is trained on and evaluated, all of its {len(set(part.photographs()))} "
        "photographs: its scores say nothing about new ones"
        for key, part in both.items()
    ]
    seen_by = collections.defaultdict(set)  # photograph → keys of the evaluated parts it is in
    for part in evaluated:
        for name in _of_coco(part):
            seen_by[name].add(part.key)
    where = {part.key: part.folder for part in evaluated}
    for part in train:
        shared = collections.Counter()
        for name in set(filter(seen_by.__contains__, _of_coco(part))):
            shared.update(seen_by[name])
        for key, count in sorted(shared.items()):
            if key != part.key:
                found.append(
                    f"{part.key} is trained on and has {count} photographs of COCO that {key} "
                    f"evaluates; prepare --exclude_images {where[key]}:{key} leaves them out"
                )
    return found


def _of_coco(part):
    if part.facts["photographs"]["coco"]:
        yield from (name for name in part.photographs() if name.startswith(_COCO))
