"""A conversation in a terminal: what a line means, and what is printed for it.

Questions come line by line from a person or from a pipe; then each line is printed behind its
prompt, so that the output reads alike. Whatever is wrong with a line is said, and the conversation
goes on as it was.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re
import sys

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.sources.proposals import read_mask
from regionjax.config import nearest
from regionjax.dialogue import Photograph, Session
from regionjax.regions import (
    WHOLE_IMAGE,
    Region,
    RegionError,
    box_from_pixels,
    points_from_pixels,
)

HELP = """\
  @12,30 15,33 what is this?       points or a scribble: x,y in pixels, from the top left corner
  @box 10,20,110,220 what is it?   a box: left, top, right, bottom
  @mask FILE.png what is it?       a mask as large as the photograph, 0 and 255
  @all what is this?               the whole image
  what colour is it?               about what was pointed at last; the prompt says what that is
  @12,30                           a region without a question is described
  /alone …                         any of these, without what was said before
  /clear                           forget what was said and what was pointed at
  /image FILE                      another photograph
  /help, /quit                     the end of the input quits as well
"""
COMMANDS = ("alone", "clear", "help", "image", "quit")
_NUMBER = r"-?\d+(?:\.\d+)?"
_POINT = re.compile(rf"{_NUMBER},{_NUMBER}")
_BOX = re.compile(rf"{_NUMBER}(?:,{_NUMBER}){{3}}")
_LIKE_NUMBERS = re.compile(r"[\d.,;:-]*\d[.,;:-]+[\d.,;:-]*")  # a point or box that went wrong
_WHOLE = "whole image"


class LineError(ValueError):
    """A line that means nothing; the message says what it could have been."""


@dataclasses.dataclass(frozen=True)
class Line:
    """What a line asks for.

    Attributes:
      command: one of COMMANDS, or "" for a question.
      text: the question, or what stands behind the command.
      region: Region that is pointed at; None: the one before.
      shown: what to call it.
    """

    command: str
    text: str
    region: Region | None = None
    shown: str = ""


def parse(line, photograph):
    """What a line means.

    Args:
      line: text.
      photograph: Photograph, whose pixels regions are counted in; None where there is none yet.

    Returns:
      Line.

    Raises:
      LineError: an unknown command or kind of region, or one without what it needs.
      DataError: a mask that cannot be read, or of another size.
      RegionError: a region that leaves the photograph or has no area.
    """
    line = line.strip()
    if line.startswith("/"):
        command, _, rest = line[1:].partition(" ")
        if command not in COMMANDS:
            known = [f"/{name}" for name in COMMANDS]
            raise LineError(f"there is no /{command}{nearest(f'/{command}', known)}")
        rest = rest.strip()
        if command == "alone":
            return dataclasses.replace(parse_question(rest, photograph), command=command)
        if command == "image":
            word, behind = _word(rest)
            name = rest if behind else word  # spaces need no quotes: nothing comes behind a name
            if not name:
                raise LineError("which one? /image FILE")
            return Line(command, name)
        if rest:
            raise LineError(f"/{command} stands alone; what is {rest!r} for?")
        return Line(command, "")
    return parse_question(line, photograph)


def parse_question(line, photograph):
    """Like `parse`, of a line that is no command."""
    if photograph is None:
        raise LineError("there is no photograph yet: /image FILE")
    if not line.startswith("@"):
        return Line("", line)
    first, rest = _word(line[1:].strip())
    if first == "all":
        return Line("", rest, WHOLE_IMAGE, _WHOLE)
    if first == "box":
        corners, rest = _word(rest)
        return Line("", rest, _box(corners, photograph), f"box {corners}")
    if first == "mask":
        file, rest = _word(rest)
        return Line("", rest, _mask(file, photograph), f"mask {file}")
    found, rest = [], line[1:].strip()
    while _POINT.fullmatch(_word(rest)[0]):
        point, rest = _word(rest)
        found.append(point)
    wrong = _word(rest)[0]
    if _LIKE_NUMBERS.fullmatch(wrong):
        raise LineError(f"{wrong!r} is no point; points are x,y in pixels, such as @12,30 15,33")
    if not found:
        near = nearest(f"@{first}", ("@box", "@mask", "@all"))
        raise LineError(f"@{first} is nothing to point with{near}; points look like @12,30 15,33")
    count = f"{len(found)} points" if len(found) > 1 else f"point {found[0]}"
    return Line("", rest, _points(found, photograph), count)


def _word(text):
    """(first word, the rest); a word with spaces in it stands in quotes."""
    for quote in "'\"":
        if text.startswith(quote) and quote in text[1:]:
            word, _, rest = text[1:].partition(quote)
            return word, rest.strip()
    word, _, rest = text.partition(" ")
    return word, rest.strip()


def _points(words, photograph):
    points = np.array([word.split(",") for word in words], np.float64)
    inside = np.clip(points, 0, (photograph.width, photograph.height))
    for word, right, point in zip(words, inside, points, strict=True):
        if (right != point).any():
            raise RegionError(
                f"point {word} lies outside the photograph, which is {_size(photograph)} pixels; "
                f"the nearest one inside is {_numbers(right)}"
            )
    return Region(points=points_from_pixels(points, photograph.width, photograph.height))


def _box(word, photograph):
    if not _BOX.fullmatch(word):
        raise LineError(f"{word!r} is no box; boxes look like @box 10,20,110,220")
    box = np.array(word.split(","), np.float64)
    x0, y0, x1, y1 = box
    if x0 >= x1 or y0 >= y1:
        raise RegionError(
            f"box {word} has no area; a box is left, top, right, bottom, with left < right and "
            "top < bottom"
        )
    sides = photograph.width, photograph.height
    inside = np.clip(box, 0, (*sides, *sides))
    if (inside != box).any():
        left = (inside[2:] > inside[:2]).all()
        raise RegionError(
            f"box {word} leaves the photograph, which is {_size(photograph)} pixels; "
            + (f"the part inside is {_numbers(inside)}" if left else "no part of it is inside")
        )
    return Region(box=box_from_pixels(box, *sides))


def _mask(word, photograph):
    if not word:
        raise LineError("which mask? @mask FILE.png")
    mask = read_mask(pathlib.Path(os.path.expanduser(word)))
    if mask.shape != (photograph.height, photograph.width):
        raise DataError(
            f"{word} is {mask.shape[1]} x {mask.shape[0]} pixels, the photograph "
            f"{_size(photograph)}"
        )
    return Region(mask=mask)


def _size(photograph):
    return f"{photograph.width} x {photograph.height}"


def _numbers(values):
    return ",".join(f"{value:g}" for value in values)


def from_input():
    """A function that reads the next line behind a prompt; None at the end of the input."""
    if sys.stdin.isatty() and importlib.util.find_spec("readline"):
        importlib.import_module("readline")  # arrow keys and a history, for `input`

    def read(prompt):
        try:
            line = input(prompt)
        except EOFError:
            print()
            return None
        if not sys.stdin.isatty():
            print(line)
        return line

    return read


class Terminal:
    """A conversation line by line.

    Args:
      speaker: Speaker.
      read: prompt → the next line without its end, None when there is no more.
      write: text → None.
    """

    def __init__(self, speaker, read, write):
        self._speaker, self._read, self._write = speaker, read, write
        self._session = None
        self._region, self._shown = WHOLE_IMAGE, _WHOLE

    @property
    def photograph(self):
        return self._session and self._session.photograph

    def show(self, photograph):
        """Begins a conversation about a Photograph.

        Raises:
          BadImage: it cannot be decoded; the one before stays.
        """
        self._session = Session(self._speaker, photograph)
        self._region, self._shown = WHOLE_IMAGE, _WHOLE
        self._write(f"{photograph.name}: {_size(photograph)} pixels\n")

    def run(self):
        """Reads, answers and prints until the input ends or says so."""
        self._write("@ points at something, /help says how.\n")
        while True:
            prompt = f"{self._shown}> " if self._session else "no photograph> "
            line = self._read(prompt)
            if line is None:
                return
            if not line.strip():
                continue
            try:
                said = parse(line, self.photograph)
                if said.command == "quit":
                    return
                self._take(said)
            except (LineError, RegionError, DataError) as error:
                self._write(f"! {error}\n")

    def _take(self, said):
        if said.command == "help":
            self._write(HELP)
        elif said.command == "image":
            self.show(Photograph.open(said.text))
        elif said.command == "clear":
            if self._session:
                self._session.clear()
            self._region, self._shown = WHOLE_IMAGE, _WHOLE
        else:
            self._answer(said)

    def _answer(self, said):
        if said.region is not None:
            self._region, self._shown = said.region, said.shown
        reply = self._session.ask(said.text, self._region, alone=said.command == "alone")
        for note in reply.notes:
            self._write(f"({note})\n")
        answer = reply.pieces
        try:
            for piece in answer:
                self._write(piece)
            self._write("\n")
        except KeyboardInterrupt:  # enough of this answer, not of the conversation
            answer.close()
            self._write(" … stopped\n")
