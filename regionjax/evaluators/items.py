"""What the evaluators are asked about: one item is one answer to be scored.

Masks are decoded when they are used (`region()`, `proposals()`), so that a split of thousands of
photographs fits in memory. Items of one image must stand together: they share its rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from regionjax.regions import Region


@dataclasses.dataclass(frozen=True)
class Described:
    """A region that has a text.

    Attributes:
      record: the image, of which evaluators use image_id, width and height (pixels); handed to the
        encoder as it is.
      region: () → Region, what the text is about.
      prompt: the question put to the model.
      references: the right answers, any of which will do.
    """

    record: Any
    region: Callable[[], Region]
    prompt: str
    references: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Referred:
    """An expression that is true of one region of its image.

    Attributes:
      record: as above.
      region: () → Region (mask or box), what the expression means.
      expression: the text, which the model scores against regions.
      refer_prompt: the question whose answer is the expression.
      locate_prompt: the question whose answer is the place: "locate <expression>".
      box: f32 [4], the true box.
      proposals: () → list of Regions (masks) to choose from; may be empty.
    """

    record: Any
    region: Callable[[], Region]
    expression: str
    refer_prompt: str
    locate_prompt: str
    box: np.ndarray
    proposals: Callable[[], list[Region]]


def pixels(region, height, width):
    """A mask or box as bool [height, width]: the pixels whose centres it holds."""
    if region.mask is not None:
        return region.mask
    x0, y0, x1, y1 = region.bounding_box()
    across = (np.arange(width) + 0.5) / width
    down = (np.arange(height) + 0.5) / height
    return np.outer((down >= y0) & (down < y1), (across >= x0) & (across < x1))


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question that is answered in words.

    Attributes:
      record: as above.
      region: () → Region, what the question is about; WHOLE_IMAGE itself where it names none.
      prompt: the question as it is put to the model.
      question: its text.
      question_id: the data set's own, as text.
      answer: what the annotators agreed on; None where the split says nothing.
      answers: of all annotators; empty where there is only `answer`.
      answer_type: such as "yes/no"; "" where the data set has no types.
    """

    record: Any
    region: Callable[[], Region]
    prompt: str
    question: str
    question_id: str
    answer: str | None
    answers: tuple[str, ...] = ()
    answer_type: str = ""


@dataclasses.dataclass(frozen=True)
class MultipleChoice:
    """A question with answers to choose from, and reasons for the right one to choose from.

    Attributes:
      record, region: as of Asked.
      question: its text.
      prompt: the question as it is put to the model.
      choices: the answers.
      answer: index of the right one.
      why_prompt: the question why, after the right answer.
      rationales: the reasons; empty where there are none.
      rationale: index of the right one; None where there is none.
      numbered: (prompt for a number of `choices`, the same for `rationales` or ""); None where
        these do not fit into a batch.
    """

    record: Any
    region: Callable[[], Region]
    question: str
    prompt: str
    choices: tuple[str, ...]
    answer: int
    why_prompt: str = ""
    rationales: tuple[str, ...] = ()
    rationale: int | None = None
    numbered: tuple[str, str] | None = None
