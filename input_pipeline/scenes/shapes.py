"""Outlines of the shapes and how an outline becomes pixels."""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageDraw

FINE = 3  # outlines are drawn this much finer, then averaged
RIM = 0.9  # pixels of dark outline inside the edge
SOLID = 128  # coverage of 255 from which on a pixel belongs to the object
TILT_STEPS = 6  # of tilt either way; a set of cut-outs small enough to keep

# word: largest tilt either way, degrees. A square on its corner would be another shape.
TILTS = {
    "circle": 180,
    "square": 18,
    "triangle": 22,
    "star": 36,
    "cross": 18,
    "ring": 180,
    "heart": 22,
}


def _polygon(radii, start=-90.0):
    """Corners at equal angles from `start` degrees, at the given radii; f64 [n, 2]."""
    angles = np.deg2rad(start + np.arange(len(radii)) * 360 / len(radii))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]


def _cross(arm):
    corner = [(-arm, -1), (arm, -1), (arm, -arm)]
    turns = [((1, 0), (0, 1)), ((0, -1), (1, 0)), ((-1, 0), (0, -1)), ((0, 1), (-1, 0))]
    return np.concatenate([np.array(corner) @ np.array(turn).T for turn in turns])


def _heart():
    t = np.arange(36) * (2 * np.pi / 36)
    x = 16 * np.sin(t) ** 3
    y = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return np.stack([x / 15.5, (y - 2.5) / 14], axis=1)


# word: outlines f64 [n, 2] on a scale where 1 is the object's radius; the second one is a hole
OUTLINES = {
    "circle": (_polygon([1.0] * 40),),
    "square": (_polygon([1.25] * 4, start=-135),),
    "triangle": (_polygon([1.25] * 3) + (0, 0.22),),
    "star": (_polygon([1.25, 0.58] * 5),),
    "cross": (_cross(0.36),),
    "ring": (_polygon([1.05] * 40), _polygon([0.43] * 30)),
    "heart": (_heart(),),
}


@dataclasses.dataclass(frozen=True, eq=False)
class CutOut:
    """One outline in pixels, on a canvas that just holds it.

    Attributes:
      coverage: uint8 [h, w], how much of each pixel lies inside the outline; 255 = all.
      face: uint8 [h, w], how much of it lies inside the dark rim too.
      solid: bool [h, w], the pixels that belong to the object.
      pixels: how many those are.
    """

    coverage: np.ndarray
    face: np.ndarray
    solid: np.ndarray
    pixels: int


@functools.lru_cache(maxsize=8192)
def cut_out(shape, radius, tilt, stretch):
    """Draws an outline once for each setting, which therefore comes in steps.

    Args:
      radius: in half pixels.
      tilt: in steps of the shape's largest tilt / TILT_STEPS, clockwise.
      stretch: width over height of the untilted outline, in 6 % steps from 1.
    """
    angle = math.radians(tilt * TILTS[shape] / TILT_STEPS)
    wide = math.sqrt(1 + 0.06 * stretch)
    right = np.array([math.cos(angle), math.sin(angle)]) * wide * radius / 2
    down = np.array([-math.sin(angle), math.cos(angle)]) / wide * radius / 2
    outlines = [o[:, :1] * right + o[:, 1:] * down for o in OUTLINES[shape]]
    corner = np.floor(outlines[0].min(axis=0)) - 1
    width, height = (np.ceil(outlines[0].max(axis=0)) + 1 - corner).astype(int).tolist()
    paths = [
        # Pillow counts pixel centres; rounded, so that ties fall alike on every machine
        list(map(tuple, np.round((outline - corner) * FINE - 0.5, 3).tolist()))
        for outline in outlines
    ]
    coverage = Image.new("L", (width * FINE, height * FINE))
    pen = ImageDraw.Draw(coverage)
    for path, inside in zip(paths, (255, 0), strict=False):
        pen.polygon(path, fill=inside)
    face = coverage.copy()
    pen = ImageDraw.Draw(face)
    for path in paths:
        pen.line([*path, path[0]], fill=0, width=round(2 * RIM * FINE))
    coverage, face = np.asarray(coverage.reduce(FINE)), np.asarray(face.reduce(FINE))
    solid = coverage >= SOLID
    return CutOut(coverage, face, solid, int(np.count_nonzero(solid)))
