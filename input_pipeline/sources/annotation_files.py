"""Reading annotation files strictly: errors name the file and the place."""

import hashlib
import json
import pickle

from input_pipeline.errors import DataError
from regionjax.config import nearest


def existing(path):
    """The path itself.

    Raises:
      DataError: no such file; names the nearest one in its folder.
    """
    if path.is_file():
        return path
    if not path.parent.is_dir():
        raise DataError(f"no file {path} (nor its folder)")
    siblings = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    for packed in (f"{path.name}.gz", f"{path.name}.zip"):
        if packed in siblings:
            raise DataError(f"no file {path}, but {packed}: unpack it")
    raise DataError(f"no file {path}{nearest(path.name, siblings) if siblings else ''}")


def digest(path):
    """The beginning of the sha256 of a file; DataError if there is none."""
    with existing(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_json(path, keys):
    """A JSON file whose top level is an object with the lists `keys`.

    Raises:
      DataError: missing, not JSON (with line and column) or without one of the lists.
    """
    content = _parse(path, dict, "an object")
    for key in keys:
        if not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list `{key}`{nearest(key, content)}")
    return content


def read_json_list(path):
    """A JSON file whose top level is a list; errors as for `read_json`."""
    return _parse(path, list, "a list")


def _parse(path, kind, expected):
    content = parse_json(existing(path).read_bytes(), path)
    if not isinstance(content, kind):
        raise DataError(f"{path} holds a {type(content).__name__}, expected {expected}")
    return content


def parse_json(data, where):
    """The value of JSON bytes.

    Raises:
      DataError: not JSON; names the line and column, or the byte.
    """
    refuse_packed(data, where)
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno}, column {error.colno}"
        raise DataError(f"{place}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}, byte {error.start}: not JSON: {error.reason}") from error


def refuse_packed(data, where):
    """Raises DataError if bytes begin as gzip's do."""
    if data.startswith(b"\x1f\x8b"):
        raise DataError(f"{where} is compressed (gzip): unpack it")


def read_json_lines(path):
    """Yields (line number, object) of a JSON Lines file; empty lines are passed over.

    Raises:
      DataError: missing, or a line that is not a JSON object (with its number).
    """
    for number, line in read_lines(path):
        yield number, parse_line(line, f"{path}, line {number}")


def read_lines(path):
    """Yields (line number, bytes) of a JSON Lines file; empty lines are passed over.

    Raises:
      DataError: missing, or compressed.
    """
    with existing(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                refuse_packed(line, path)
            if line.strip():
                yield number, line


def parse_line(line, where):
    """The object of a line of a JSON Lines file.

    Raises:
      DataError: not a JSON object; `where` names file and line.
    """
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        place = f"{where}, column {error.colno}"
        whole = "" if len(line.strip()) > 1 else " (each line is an object of its own)"
        raise DataError(f"{place}: not JSON: {error.msg}{whole}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"{where}: a {type(content).__name__}, expected an object")
    return content


ID = str | int  # what identifies an entry


# What the unpickler raises on bytes that are no pickle, cut short or made to do harm.
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
)


class _PlainUnpickler(pickle.Unpickler):
    """Containers, text and numbers only: a pickle that names any class is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain containers are read")


def read_pickle(path):
    """The plain Python value in a pickle file, also one written by Python 2.

    Raises:
      DataError: missing, broken, or holding anything but plain containers, text and numbers.
    """
    try:
        with existing(path).open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except DataError:
        raise
    except _BROKEN_PICKLE as error:
        raise DataError(f"{path} cannot be unpickled: {error or type(error).__name__}") from error


def field(entry, key, where, kind=object):
    """entry[key].

    Raises:
      DataError: `entry` is not an object, has no such key, or its value is not a `kind`.
    """
    if not isinstance(entry, dict):
        raise DataError(f"{where} is a {type(entry).__name__}, expected an object")
    if key not in entry:
        raise DataError(f"{where} has no `{key}`{nearest(key, entry)}")
    if not isinstance(entry[key], kind):
        raise DataError(f"{where}: `{key}` is a {type(entry[key]).__name__}")
    return entry[key]


def only_keys(entry, keys, where):
    """Raises DataError if an object has a key that is not among `keys`; names the nearest."""
    for key in entry:
        if key not in keys:
            raise DataError(f"{where}: `{key}` is not a key of this format{nearest(key, keys)}")
