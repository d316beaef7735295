"""What is in a scene and where: objects, their words, their visible pixels."""

import dataclasses

import numpy as np

from input_pipeline.scenes.shapes import TILT_STEPS, CutOut, cut_out
from input_pipeline.scenes.vocabulary import BACKGROUNDS, COLOURS, PATTERNS, SHAPES

FEWEST, MOST = 3, 8  # objects
RADII = {"small": (0.1, 0.118), "large": (0.165, 0.188)}  # fractions of the image side
LARGE = 0.4  # share of large objects
VISIBLE = 0.66  # of each object's pixels, at least
TRIES = 40  # places tried for an object before it is left out


@dataclasses.dataclass(frozen=True, eq=False)
class Thing:
    """One object: its words, its pixels and the small accidents of its look.

    Attributes:
      x, y: pixel of the image where the cut-out's first pixel lies; all of it is inside.
      radius: pixels.
      accidents: 8 floats in [-1, 1]; `drawing` turns them into tints, angles and phases.
    """

    size: str
    colour: str
    pattern: str
    shape: str
    cut_out: CutOut
    x: int
    y: int
    radius: float
    accidents: tuple

    @property
    def name(self):
        return f"{self.size} {self.colour} {self.pattern} {self.shape}"


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A ground and objects on it, farthest first.

    Attributes:
      size: pixels a side.
      background: a word of BACKGROUNDS.
      things: tuple of Thing; a later one covers an earlier one.
      masks: bool [things, size, size], the visible pixels of each.
      bounds: i64 [things, 4], pixel edges x0 y0 x1 y1 of what is visible.
      centres: f64 [things, 2], xy of the bounds' middles, normalised to [0, 1].
    """

    size: int
    background: str
    things: tuple
    masks: np.ndarray
    bounds: np.ndarray
    centres: np.ndarray


def make_scene(rng, size):
    """Draws lots for a scene of `size` pixels a side."""
    owner = np.full((size, size), -1, np.int8)  # index of the thing seen at a pixel
    things, visible, least = [], np.zeros(0, int), np.zeros(0)
    for size_word, colour, pattern, shape in _words(rng):
        low, high = (round(2 * size * radius) for radius in RADII[size_word])
        radius, tilt, stretch = rng.integers(
            (low, -TILT_STEPS, -1), (high + 1, TILT_STEPS + 1, 2)
        ).tolist()
        cut = cut_out(shape, radius, tilt, stretch)
        place = _place(rng, owner, cut.solid, visible, least)
        if place is None:
            continue
        (x, y), hidden = place
        height, width = cut.solid.shape
        owner[y : y + height, x : x + width][cut.solid] = len(things)
        visible = np.append(visible - hidden, cut.pixels)
        least = np.append(least, VISIBLE * cut.pixels)
        accidents = tuple(rng.uniform(-1, 1, 8).tolist())
        things.append(Thing(size_word, colour, pattern, shape, cut, x, y, radius / 2, accidents))
    return _assemble(size, BACKGROUNDS[rng.integers(len(BACKGROUNDS))], things, owner)


def _assemble(size, background, things, owner):
    masks = owner == np.arange(len(things), dtype=np.int8)[:, None, None]
    bounds = bounding_boxes(masks)
    centres = (bounds[:, :2] + bounds[:, 2:]) / (2 * size)
    return Scene(size, background, tuple(things), masks, bounds, centres)


def bounding_boxes(masks):
    """Pixel edges x0 y0 x1 y1, i64 [n, 4], of non-empty masks, bool [n, size, size]."""
    sides = [masks.any(axis=1), masks.any(axis=2)]  # columns and rows, [n, size]
    low = np.stack([side.argmax(axis=1) for side in sides], axis=1)
    behind = np.stack([side[:, ::-1].argmax(axis=1) for side in sides], axis=1)
    return np.concatenate([low, masks.shape[1] - behind], axis=1)


def _words(rng):
    """[(size, colour, pattern, shape)]: few shapes and colours a scene, so that they repeat.

    An object among others of its shape and colour has to be told apart by looking at it.
    """
    count = int(rng.integers(FEWEST, MOST + 1))
    shapes = _pool(rng, SHAPES, count)
    colours = _pool(rng, tuple(COLOURS), count)
    patterns = [PATTERNS[i] for i in rng.integers(len(PATTERNS), size=count)]
    sizes = ["large" if lot < LARGE else "small" for lot in rng.random(count)]
    return list(zip(sizes, colours, patterns, shapes, strict=True))


def _pool(rng, words, count):
    """`count` words in random order, from two to four different ones, each used."""
    different = int(rng.integers(2, min(4, count) + 1))
    pool = rng.permutation(len(words))[:different]
    picks = np.concatenate([pool, pool[rng.integers(different, size=count - different)]])
    return [words[i] for i in rng.permutation(picks)]


def _place(rng, owner, solid, visible, least):
    """A place where nothing before is hidden too much: ((x, y), pixels hidden of each), or None."""
    height, width = solid.shape
    room = (owner.shape[1] - width + 1, owner.shape[0] - height + 1)
    for x, y in rng.integers(0, room, (TRIES, 2)).tolist():
        below = owner[y : y + height, x : x + width][solid]
        hidden = np.bincount(below + 1, minlength=len(visible) + 1)[1:]
        if (visible - hidden >= least).all():
            return (x, y), hidden
    return None
