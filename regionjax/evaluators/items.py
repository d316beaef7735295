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
