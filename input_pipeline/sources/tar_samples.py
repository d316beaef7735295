"""WebDataset tars, read in place: samples one by one, an image by where it lies in the tar."""

import tarfile

from input_pipeline.errors import DataError
from input_pipeline.sources.annotation_files import existing

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def read_samples(path):
    """Yields (key, bytes of its .json or None, (first byte, size) of its image or None) of a tar.

    WebDataset's rule: files whose path is the same up to the first dot of the name are a sample,
    and follow one another. Other files of a sample are passed over.

    Raises:
      DataError: compressed, cut short, not a tar, or two images in a sample.
    """
    key, texts, place = None, None, None
    for name, start, size, read in _members(path):
        folder, _, base = name.rpartition("/")
        stem, dot, ending = base.partition(".")
        found = f"{folder}/{stem}" if folder else stem
        if found != key:
            if texts is not None or place is not None:
                yield key, texts, place
            key, texts, place = found, None, None
        if dot + ending.lower() == ".json":
            texts = read()
        elif dot + ending.lower() in IMAGES:
            if place is not None:
                raise DataError(f"{path}: {key} has two images, the second is {name}")
            place = start, size
    if texts is not None or place is not None:
        yield key, texts, place


def read_place(path, place):
    """The bytes at (first byte, size) of a file."""
    start, size = place
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _members(path):
    """Yields (name, first byte, size, function that reads it) of each file in a tar."""
    try:
        with tarfile.open(existing(path), "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep every header: memory stays flat
                if member.isfile():
                    read = lambda member=member: tar.extractfile(member).read()  # noqa: E731
                    yield member.name, member.offset_data, member.size, read
    except tarfile.TarError as error:
        raise DataError(f"{path} cannot be read as an uncompressed tar: {error}") from error
