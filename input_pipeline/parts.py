"""Parts: what one source gave for one split, kept in a prepared folder.

A prepared folder holds, of every part NAME-SPLIT,

  records/NAME-SPLIT-00000.array_record, …    its records, and beside each file a .json of the same
                                              name with the counts and all texts of that file
  records/NAME-SPLIT.photographs.txt          which photographs these are (see leakage.py)

and `dataset.json`, which names the parts that are complete and says what is in them.

A run reads the parts of its mixture from the folders in `data.prepared`, and those that no such
folder has from its own folder, where prepare.ensure puts what it makes of `data.root`.
"""

import collections
import dataclasses
import json
import pathlib

from input_pipeline.errors import DataError
from input_pipeline.records import COORDINATES, Records
from regionjax.config import nearest

FORMAT = 5  # of records and dataset.json; another number makes old folders an error


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a prepared folder.

    Attributes:
      folder: the prepared folder.
      facts: its entry in dataset.json: `name`, `split`, `source`, `records` (their number),
        `annotations` ({kind: number}), `candidates` ({what a record has to say, see mixture.told:
        number of such records}), `left_out` ({why: number}), `noticed` (likewise, of what is odd
        but kept), `skipped_images`, `photographs`, `files` ({file: records}), `inputs`, `licence`,
        `versions`.
    """

    folder: pathlib.Path
    facts: dict

    @property
    def key(self):
        """NAME-SPLIT, as dataset.json lists it."""
        return part_key(self.facts["name"], self.facts["split"])

    def records(self):
        """Its Records; no file is opened before one of its records is asked for."""
        files = self.facts["files"].items()
        return Records({self.folder / "records" / name: count for name, count in files})

    def photographs(self):
        """Yields what its photographs are called: `coco:ID`, or a file name without folders."""
        with photographs_file(self.folder, self.key).open(encoding="utf-8") as lines:
            for line in lines:
                yield line.rstrip("\n")

    def texts(self):
        """Yields {task: [[prompt, answer, how often], …]} of each of its files."""
        for name in self.facts["files"]:
            path = (self.folder / "records" / name).with_suffix(".json")
            yield json.loads(path.read_text(encoding="utf-8"))["texts"]


def part_key(name, split):
    """What a part is called in files and in dataset.json."""
    return f"{name}-{split}"


def photographs_file(folder, key):
    """Where the photographs of a part are listed."""
    return pathlib.Path(folder) / "records" / f"{key}.photographs.txt"


# ---- dataset.json -------------------------------------------------------------------------------


def read_facts(directory):
    """dataset.json of a prepared folder: {"format", "coordinates", "parts": {key: facts}}.

    Raises:
      DataError: `directory` holds no prepared data, or in another format than today's.
    """
    file = pathlib.Path(directory) / "dataset.json"
    if not file.is_file():
        raise DataError(f"{directory} holds no prepared data (no dataset.json)")
    facts = json.loads(file.read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT:
        raise DataError(
            f"{directory} was prepared in another format ({facts.get('format')}, now {FORMAT}); "
            "delete it or prepare into another folder"
        )
    return facts


def add_part(directory, part_facts):
    """Adds a complete part to dataset.json of its folder (to be locked by the caller)."""
    file = pathlib.Path(directory) / "dataset.json"
    parts = read_facts(directory)["parts"] if file.is_file() else {}
    parts[part_key(part_facts["name"], part_facts["split"])] = part_facts
    write_json(file, {"format": FORMAT, "coordinates": COORDINATES, "parts": parts})


def write_json(path, content):
    """Writes a JSON file that appears only when complete."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def differences(before, now):
    """In words, how two results of Plan.inputs, or of settings, differ; "" if they do not."""
    before, now = _flat(before), _flat(now)
    return "; ".join(
        f"{key}: {before.get(key)!r} → {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )


def _flat(tree):
    leaves = {}
    for key, value in tree.items():
        leaves |= _flat(value) if isinstance(value, dict) else {key: value}
    return leaves


# ---- finding ------------------------------------------------------------------------------------


def open_records(directory, name, split):
    """The Records of one part of a prepared folder.

    Raises:
      DataError: nothing of that name was prepared.
    """
    parts, key = read_facts(directory)["parts"], part_key(name, split)
    if key not in parts:
        raise DataError(f"{directory} holds no records {key}{nearest(key, parts)}")
    return Part(pathlib.Path(directory), parts[key]).records()


def find_parts(folders):
    """All parts of some prepared folders, as {name: {split: Part}}.

    Raises:
      DataError: one name is in two folders, or a folder is not a prepared one.
    """
    found = collections.defaultdict(dict)
    for folder in map(pathlib.Path, folders):
        for facts in read_facts(folder)["parts"].values():
            others = {part.folder for part in found[facts["name"]].values()} - {folder}
            if others:
                raise DataError(
                    f"{facts['name']} is in {others.pop()} and in {folder}; prepare one of them "
                    "with another --name"
                )
            found[facts["name"]][facts["split"]] = Part(folder, facts)
    return dict(found)


def train_parts(data, directory):
    """{name: Part} of the train split, of all names of the mixture whose weight is not 0.

    Args:
      data: DataConfig.
      directory: the run's own prepared folder, see prepare.ensure.

    Raises:
      DataError: there is no such part.
    """
    found = _of_mixture(data, directory)
    parts = {}
    for name, weight in data.mixture.items():
        if weight:
            if data.train_split not in found[name]:
                raise DataError(
                    f"{name} was prepared without its split {data.train_split}"
                    f"{nearest(data.train_split, found[name])}; a name of weight 0 is evaluated "
                    "and not trained on"
                )
            parts[name] = found[name][data.train_split]
    return parts


def eval_parts(data, directory):
    """{name: Part} of the eval split, of all names of the mixture that have one; see train_parts.

    Raises:
      DataError: none has, or none of weight 0, which are there for nothing else.
    """
    found = _of_mixture(data, directory)
    split = data.eval_split
    parts = {name: found[name][split] for name in data.mixture if split in found[name]}
    meant = [name for name, weight in data.mixture.items() if not weight] or list(data.mixture)
    if not parts.keys() & set(meant):
        raise DataError(
            f"{meant[0]} was prepared without the split {split} to evaluate on"
            f"{nearest(split, found[meant[0]])}"
        )
    return parts


def _of_mixture(data, directory):
    folders = list(data.prepared)
    if (pathlib.Path(directory) / "dataset.json").is_file():
        folders.append(directory)
    found = find_parts(folders)
    for name in data.mixture:
        if name not in found:
            where = " and ".join(map(str, folders)) or directory
            raise DataError(f"mixture: nothing is called {name} in {where}{nearest(name, found)}")
    return found
