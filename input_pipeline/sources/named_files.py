"""Which files a split is read from, where public data sets say it in the names of their files."""

from input_pipeline.errors import DataError
from regionjax.config import nearest

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def check_option(value, known, name):
    """Raises DataError, naming the nearest, if an option of a source has no such value."""
    if value not in known:
        raise DataError(f"{name}={value} is not known{nearest(value, known)}")


def named_files(annotations, pattern, split, dataset="all"):
    """Annotation files of a split, in the order of their names.

    Args:
      annotations: a folder, or one file to be read alone.
      pattern: compiled; matches whole names, with groups `dataset` and `split` and, of files in
        several parts, `part` and `parts` (their number).
      split: "val" and "validation" are one.
      dataset: read only these files; "all" for every one.

    Raises:
      DataError: nothing of that data set and split (names the nearest); a part is missing; the one
        file is another split's.
    """
    if annotations.is_file():
        match = pattern.fullmatch(annotations.name)
        if match and SPLITS[match["split"]] != SPLITS.get(split):
            raise DataError(f"{annotations} is of the split {match['split']}, not {split}")
        return [annotations]
    matches = [pattern.fullmatch(path.name) for path in sorted(annotations.iterdir())]
    matches = [match for match in matches if match]
    found = [
        match
        for match in matches
        if dataset in ("all", match["dataset"]) and SPLITS[match["split"]] == SPLITS.get(split)
    ]
    if not found:
        known = sorted({f"{match['dataset']} {SPLITS[match['split']]}" for match in matches})
        wanted = f"{dataset} {split}"
        hint = nearest(wanted, known) if known else ": no file of the published names is there"
        raise DataError(f"{annotations} has nothing for {wanted}{hint}")
    _check_parts(annotations, found)
    return [annotations / match[0] for match in found]


def _check_parts(folder, found):
    counts = {}
    for match in found:
        if match.groupdict().get("parts"):
            counts.setdefault((match["dataset"], int(match["parts"])), []).append(match[0])
    for (_, parts), names in counts.items():
        if len(names) != parts:
            raise DataError(
                f"{folder} has {len(names)} of the {parts} parts of {names[0]}; "
                "to read one part alone, give that file as ANNOTATIONS"
            )
