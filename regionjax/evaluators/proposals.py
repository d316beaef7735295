"""Proposals of an image: which of them are chosen among, and how each is shown.

Segment Anything proposes specks and backgrounds too, so some proposals are left out before the
model is asked. Three rules:

all       every proposal, in the order in which they are listed.
sensible  at least `least_area` of the image, and covering at most `most_border` of each of the
          four sides of the image; the largest `most` of those, largest first. Where nothing is
          left: at least `fallback_area`, at any side, again the largest.
parity    as the released code of RegionVLM does it: pixels of the two outermost rows together are
          held against `most_border` times the *height*, those of the two outermost columns against
          that of the *width*; the first `most` in the order of the list; points are the corners of
          pixels.

Source: github.com/jbeomlee93/RegionVLM (NAACL 2024), eval_RIS.py.
"""

import dataclasses
import zlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Kept:
    """Indices into an image's proposals, in the order in which they are asked about."""

    indices: tuple[int, ...]
    fallback: bool = False  # nothing passed the rule, these passed its second, weaker form


def kept(masks, config):
    """The proposals that a rule keeps.

    Args:
      masks: sequence of bool [H, W].
      config: ProposalConfig.

    Returns:
      Kept; its indices are empty if there are no masks or nothing is left of them.
    """
    if config.rule == "all":
        return Kept(tuple(range(len(masks))))
    clings = {"sensible": fills_side, "parity": fills_side_parity}[config.rule]
    areas = [float(mask.mean()) for mask in masks]
    order = range(len(masks))
    if config.rule == "sensible":
        order = sorted(order, key=lambda index: -areas[index])  # equal ones as they are listed
    large = [index for index in order if areas[index] >= config.least_area]
    first = [index for index in large if not clings(masks[index], config.most_border)]
    if first:
        return Kept(tuple(first[: config.most]))
    second = [index for index in order if areas[index] >= config.fallback_area]
    return Kept(tuple(second[: config.most]), fallback=bool(second))


def fills_side(mask, most):
    """Whether a mask (bool [H, W]) covers more than the share `most` of a side of the image."""
    return max(side.mean() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) > most


def fills_side_parity(mask, most):
    """The released code's test of the same: two lines are added up, and H and W change places."""
    height, width = mask.shape
    rows = max(mask[:2].sum(), mask[-2:].sum())
    columns = max(mask[:, :2].sum(), mask[:, -2:].sum())
    return bool(rows > most * height or columns > most * width)


def centre(mask):
    """(row, column) of the pixel of a mask that is nearest to its centre of mass.

    The centre itself may lie outside the mask. Of equals the first, row by row.
    """
    rows, columns = np.nonzero(mask)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[nearest]), int(columns[nearest])


def generator(seed, image_id, proposal, repeat):
    """np.random.Generator of one sampling of a proposal: a function of these four alone."""
    return np.random.default_rng((seed, zlib.crc32(str(image_id).encode()), proposal, repeat))


class Sampled:
    """A mask region whose points are always the same ones; stands wherever a Region may stand.

    Args:
      region: Region or RunRegion with a mask.
      generator: () → np.random.Generator, a new one in the same state every time.
      coverage: dict that samplings of one region share, so that it is rasterized once.
      corners: points are corners of different pixels (as the released code of RegionVLM has them)
        instead of even in the mask.
    """

    kind = "mask"
    points = None
    box = None

    def __init__(self, region, generator, coverage, corners=False):
        self._region, self._generator = region, generator
        self._coverage, self._corners = coverage, corners

    @property
    def mask(self):
        """bool [H, W]"""
        return self._region.mask

    def area(self):
        """Share of the image, 0…1."""
        return self._region.area()

    def bounding_box(self):
        """f32 [4]"""
        return self._region.bounding_box()

    def rasterize(self, size):
        """f32 [size, size], as Region.rasterize."""
        if size not in self._coverage:
            self._coverage[size] = self._region.rasterize(size)
        return self._coverage[size]

    def sample_points(self, count, rng):
        """f32 [count, 2]; `rng` is not used."""
        del rng
        if not self._corners:
            return self._region.sample_points(count, self._generator())
        rows, columns = np.nonzero(self.mask)
        drawn = self._generator().permutation(len(rows))[:count]
        drawn = np.resize(drawn, count)  # a mask of fewer pixels gives some of them again
        height, width = self.mask.shape
        return (np.stack([columns[drawn], rows[drawn]], axis=1) / (width, height)).astype(
            np.float32
        )
