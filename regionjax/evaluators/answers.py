"""Answers of an unfinished evaluation, on disk: stopped at any moment, it goes on from there.

FOLDER/NNN-FUNCTION.npy holds what the model said in the NNN-th round of questions: for each row of
them a digest of these and an array, one after the other in NumPy's format. Scores are not kept;
they are made of the answers again. A row that was being written when the evaluation stopped is
asked once more.
"""

import pathlib
import shutil

import numpy as np

from regionjax.config import ConfigError

# What NumPy raises on an array that ends too early.
_CUT_SHORT = (EOFError, ValueError)


class OtherQuestions(ConfigError):
    """Kept answers belong to other questions than those that are asked."""


class Answers:
    """The folder; `writes` is false for all but one process of several."""

    def __init__(self, folder, writes=True):
        self._folder, self._writes, self._rounds = pathlib.Path(folder), writes, 0

    @property
    def begun(self):
        """Whether there are answers of an evaluation that was stopped."""
        return self._folder.is_dir()

    def next_round(self, name):
        """The Round of the next questions, put to the predict function `name`."""
        self._rounds += 1
        return Round(self._folder / f"{self._rounds:03d}-{name}.npy", self._writes)

    def clear(self):
        """Removes the folder: the evaluation is finished."""
        if self._writes and self._folder.is_dir():
            shutil.rmtree(self._folder)
            if not any(self._folder.parent.iterdir()):  # nor of another evaluation
                self._folder.parent.rmdir()


class Round:
    """The answers to one round of questions, a row after the other."""

    def __init__(self, path, writes):
        self._path, self._writes = path, writes
        self._kept, self._end = [], 0  # rows, and the byte after the last whole one
        if path.is_file():
            self._read()

    def _read(self):
        with self._path.open("rb") as file:
            try:
                while True:
                    row = tuple(np.load(file, allow_pickle=False) for _ in range(2))
                    self._kept.append(row)
                    self._end = file.tell()
            except _CUT_SHORT:
                self._kept.reverse()  # taken from the end

    def kept(self, digest):
        """The answers to the next row of questions, or None from where they have to be asked.

        Args:
          digest: bytes that tell these questions from others.

        Raises:
          OtherQuestions: the row that was kept has another digest.
        """
        if not self._kept:
            return None
        theirs, answers = self._kept.pop()
        if theirs.tobytes() != digest:
            raise OtherQuestions(
                f"{self._path} has answers to other questions, of another version of the program "
                "it seems; remove the folder to ask anew"
            )
        return answers

    def append(self, digest, answers):
        """Keeps the answers (array) to a row of questions."""
        if not self._writes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.seek(self._end)
            file.truncate()
            np.save(file, np.frombuffer(digest, np.uint8))
            np.save(file, answers)
            self._end = file.tell()
