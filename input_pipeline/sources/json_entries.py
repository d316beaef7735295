"""JSON files larger than memory: their entries one by one, and again by where they lie.

Public annotations are one JSON value of up to gigabytes whose entries are in no useful order. A
first pass yields every entry with its place in the file; `Places` keeps the places of the entries
of each image, 16 bytes an entry, and reads them again when that image's turn comes.
"""

import array
import codecs
import json
import re

from input_pipeline.errors import DataError
from input_pipeline.sources.annotation_files import existing, refuse_packed
from regionjax.config import nearest

_CHUNK = 1 << 20  # bytes; an entry may be longer
_WORD = 32  # characters at the end of what is in memory that may be half a word or number
_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


def list_entries(path):
    """Yields (entry, place) of a file that holds a list; a place is (first byte, byte after).

    Raises:
      DataError: missing, not JSON (with line and column) or not a list.
    """
    with _Text(path) as text:
        yield from text.whole(text.items, "[", "a list")


def member_entries(path):
    """Yields (name, entry, place) of a file that holds an object; errors as list_entries."""
    with _Text(path) as text:
        for name in text.whole(text.names, "{", "an object"):
            yield name, *text.value()


def entries_of(path, keys):
    """Yields (key, entry, place) of the lists `keys` in a file that holds an object.

    Raises:
      DataError: as list_entries; at the end, if one of the lists is not there.
    """
    seen, lists = [], set()
    with _Text(path) as text:
        for name in text.whole(text.names, "{", "an object"):
            seen.append(name)
            if text.peek() != "[":
                text.value()
                continue
            lists.add(name)
            for entry, place in text.items():
                if name in keys:
                    yield name, entry, place
    for key in keys:
        if key not in lists:
            raise DataError(f"{path} has no list `{key}`{nearest(key, seen) if seen else ''}")


class Places:
    """Where in a file the entries of each group lie: `add` them, then read a group again."""

    def __init__(self, path):
        self.path, self._places = path, {}

    def add(self, group, place):
        """Notes one more entry of a group."""
        self._places.setdefault(group, array.array("Q")).extend(place)

    def __contains__(self, group):
        return group in self._places

    def __iter__(self):
        """The groups, in the order of their first entries."""
        return iter(self._places)

    def __len__(self):
        return len(self._places)

    def read(self, group):
        """The entries of a group, in file order; none of a group that was never added."""
        places = self._places.get(group, ())
        found = []
        with self.path.open("rb") as file:
            for start, stop in zip(places[::2], places[1::2], strict=True):
                file.seek(start)
                found.append(json.loads(file.read(stop - start)))
        return found


class _Text:
    """The text of a file from where the reader stands, read on as needed."""

    def __init__(self, path):
        self.path = path
        self._file = existing(path).open("rb")
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at = "", 0  # what is in memory; where the reader stands in it
        start = self._file.read(3)
        refuse_packed(start, path)
        self._byte = 3 if start == codecs.BOM_UTF8 else 0  # … and in the file
        self._file.seek(0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def whole(self, parts, opening, expected):
        """The parts of the only value of the file, which must begin with `opening`."""
        if (found := self.peek()) != opening:
            if found:
                self.value()  # may be no JSON at all, which is the better message
            raise DataError(f"{self.path} does not hold {expected}")
        yield from parts()
        if self.peek():
            raise self._error("Extra data", self._at)

    def items(self):
        """Yields (value, place) of the list that begins here."""
        return (self.value() for _ in self._between("]"))

    def names(self):
        """Yields the names in the object that begins here; the caller reads each value."""
        for _ in self._between("}"):
            if self.peek() != '"':
                raise self._error("Expecting property name enclosed in double quotes", self._at)
            name, _ = self.value()
            if self.peek() != ":":
                raise self._error("Expecting ':' delimiter", self._at)
            self._advance(self._at + 1)
            yield name

    def _between(self, closing):
        """Yields before each part of what is open here; passes the commas and the end."""
        self._advance(self._at + 1)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._advance(self._at + 1)
                yield
        if self.peek() != closing:
            raise self._error("Expecting ',' delimiter", self._at)
        self._advance(self._at + 1)

    def peek(self):
        """The next character that is no space; "" at the end of the file."""
        while True:
            self._advance(_SPACE.match(self._text, self._at).end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def value(self):
        """(value, place) of the value that begins here."""
        self.peek()
        while True:
            try:
                value, stop = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                wrong = error.pos - self._at
                late = error.pos > len(self._text) - _WORD
                if (late or error.msg.startswith("Unterminated string")) and self._more():
                    continue  # it was only cut off
                raise self._error(error.msg, self._at + wrong) from error
            length = stop - self._at
            if stop < len(self._text) or not self._more():  # a number may go on
                start = self._byte
                self._advance(self._at + length)
                return value, (start, self._byte)

    def _advance(self, to):
        passed = self._text[self._at : to]
        self._byte += len(passed) if passed.isascii() else len(passed.encode())
        self._at = to

    def _more(self):
        """Reads on, at least as much as is in memory; False at the end of the file."""
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        try:
            self._text = rest + self._utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            place = self._file.tell() - len(data) + error.start
            message = f"{self.path}, near byte {place}: not JSON: {error.reason}"
            raise DataError(message) from error
        self._at = 0
        return bool(data)

    def _error(self, message, at):
        """The DataError of what is wrong at a place in memory."""
        before = self._byte + len(self._text[self._at : at].encode())
        with self.path.open("rb") as file:
            read = file.read(before)
        line, column = read.count(b"\n") + 1, before - (read.rfind(b"\n") + 1) + 1
        return DataError(f"{self.path}, line {line}, column {column}: not JSON: {message}")
