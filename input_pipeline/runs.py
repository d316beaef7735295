"""Mask regions as run lengths: boxes, points and coverage without making their pixels.

Training shows several regions of every image; going through the pixels of each mask would cost
more than decoding the photograph. `RunRegion` answers what a `regionjax.regions.Region` of the same
mask answers; `RunGroup` asks all the masks of an image at once, laid side by side as one wide mask
(run lengths are column-major, so that this is one concatenation).
"""

import functools

import numpy as np

from regionjax.masks import decode_rle, decompress_counts, encode_rle, polygon_runs
from regionjax.regions import RegionError, box_from_pixels, spread

# Multiplications in a matrix product from which on OpenBLAS wakes all cores. That takes longer than
# products of this size, and input workers keep the cores busy already.
_ONE_THREAD = 1 << 18


class EmptyMask(RegionError):
    """A mask without a pixel, which is no region."""


class RunRegion:
    """A region given by a mask; stands wherever a Region of that mask may stand.

    Attributes:
      counts: u32 [2n], run lengths in COCO's order (column-major, zeros first).
      height, width: pixels.
      bounds: pixel edges (x0, y0, x1, y1) of the bounding box.
    """

    kind = "mask"
    points = None
    box = None

    def __init__(self, counts, height, width, bounds):
        """All four must fit together, as they do in a record; from_mask and from_rle check."""
        self.counts, self.height, self.width, self.bounds = counts, height, width, bounds

    @classmethod
    def from_mask(cls, mask):
        """From bool [H, W]; EmptyMask if it has no pixel."""
        return cls.from_rle(encode_rle(mask, compressed=False), *mask.shape)

    @classmethod
    def from_rle(cls, rle, height, width):
        """From a COCO RLE, compressed or not.

        Raises:
          RegionError: an RLE of another size or malformed; EmptyMask: one without a pixel.
        """
        if list(rle["size"]) != [height, width]:
            raise RegionError(f"RLE of size {rle['size']} on an image of {[height, width]}")
        counts = rle["counts"]
        try:
            counts = decompress_counts(counts) if isinstance(counts, str | bytes) else counts
        except ValueError as error:
            raise RegionError(str(error)) from error
        counts = np.array(counts, np.int64)
        if counts.min(initial=0) < 0 or counts.sum() != height * width:
            raise RegionError(f"run lengths do not fill a mask of {height}x{width}")
        return cls._from_counts(counts, height, width)

    @classmethod
    def from_polygons(cls, polygons, height, width):
        """From COCO polygons, see masks.polygon_runs; EmptyMask if no pixel's centre is inside."""
        return cls._from_counts(polygon_runs(polygons, height, width), height, width)

    @classmethod
    def _from_counts(cls, counts, height, width):
        if counts.size % 2:
            counts = np.append(counts, 0)
        ends = counts.cumsum()[1::2]
        lengths = counts[1::2]
        on = lengths > 0  # COCO allows runs of length zero
        if not on.any():
            raise EmptyMask(f"a mask of {height}x{width} has no pixel")
        starts, ends = (ends - lengths)[on], ends[on]
        first, last = starts // height, (ends - 1) // height  # columns
        if (first < last).any():  # down to the bottom, and on from the top
            top, bottom = 0, height
        else:
            top, bottom = int((starts - first * height).min()), int((ends - first * height).max())
        bounds = int(first[0]), top, int(last[-1]) + 1, bottom
        return cls(counts.astype(np.uint32), height, width, bounds)

    @functools.cached_property
    def mask(self):
        """bool [H, W], made when first asked for."""
        return decode_rle({"size": [self.height, self.width], "counts": self.counts})

    def seen(self, edges, flip=False):
        """The RunRegion in a part of the image, perhaps mirrored.

        Args:
          edges: pixel edges (x0, y0, x1, y1) of the part.
          flip: mirror it left to right.

        Raises:
          RegionError: a region that is not wholly in the part.
        """
        x0, y0, x1, y1 = edges
        left, top, right, bottom = self.bounds
        if left < x0 or top < y0 or right > x1 or bottom > y1:
            raise RegionError(f"a part {edges} of the image cuts a mask within {self.bounds}")
        column, first, last = RunGroup([self]).pieces
        column = column - x0
        if flip:
            left, right = x0 + x1 - right, x0 + x1 - left
            column = x1 - x0 - 1 - column
            order = np.lexsort((first, column))
            column, first, last = column[order], first[order], last[order]
        height, width = y1 - y0, x1 - x0
        counts = np.zeros(2 * len(column) + 2, np.uint32)  # the last run of ones is empty
        starts, ends = column * height + (first - y0), column * height + (last - y0)
        counts[0::2] = np.append(starts, height * width) - np.append(0, ends)
        counts[1:-1:2] = ends - starts
        return RunRegion(counts, height, width, (left - x0, top - y0, right - x0, bottom - y0))

    def area(self):
        """Share of the image, 0…1."""
        return float(self.counts[1::2].sum(dtype=np.int64) / (self.height * self.width))

    def bounding_box(self):
        """f32 [4]."""
        return box_from_pixels(self.bounds, self.width, self.height)

    def sample_points(self, count, rng):
        """f32 [count, 2], as Region.sample_points of the mask."""
        return RunGroup([self]).sample_points(count, rng)[0]

    def rasterize(self, size):
        """f32 [size, size]: area average on a square grid, as Region.rasterize of the mask."""
        return RunGroup([self]).rasterize(size)[0]


class RunGroup:
    """n RunRegions of one image."""

    def __init__(self, regions):
        """Raises RegionError if runs do not fill the image."""
        self.height, self.width = regions[0].height, regions[0].width
        self.bounds = [region.bounds for region in regions]
        counts = np.concatenate([region.counts for region in regions])
        ends = counts.cumsum(dtype=np.int64)
        filled = ends[np.cumsum([len(region.counts) for region in regions]) - 1]
        self.first = np.arange(len(regions) + 1) * (self.height * self.width)  # pixel of each mask
        if (filled != self.first[1:]).any():
            raise RegionError(f"run lengths do not fill a mask of {self.height}x{self.width}")
        lengths, ends = counts[1::2], ends[1::2]
        on = lengths > 0  # COCO allows runs of length zero
        self.lengths, self.ends = lengths[on].astype(np.int64), ends[on]

    @functools.cached_property
    def pieces(self):
        """Runs cut at the ends of columns: column, first row, row after the last; i64 [pieces]."""
        starts, ends, height = self.ends - self.lengths, self.ends, self.height
        column = starts // height
        corner = column * height
        overhang = (ends - 1) // height - column
        if not overhang.any():
            return column, starts - corner, ends - corner
        pieces = overhang + 1
        run = np.repeat(np.arange(len(column)), pieces)
        within = np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        column = column[run] + within
        corner = column * height
        top = np.maximum(starts[run] - corner, 0)
        return column, top, np.minimum(ends[run] - corner, height)

    def bounding_boxes(self):
        """f32 [n, 4]."""
        return box_from_pixels(self.bounds, self.width, self.height)

    def rasterize(self, size):
        """f32 [n, size, size]: area averages on a square grid."""
        column, top, bottom = self.pieces
        below, across = _filled_cells(self.height, size), _filled_cells(self.width, size)
        down = below.take(bottom, axis=0)
        down -= below.take(top, axis=0)  # [pieces, size]
        cut = column.searchsorted(self.first // self.height).tolist()
        column = column % self.width
        right = across.take(column + 1, axis=0)
        right -= across.take(column, axis=0)  # [pieces, size]
        coverage = np.zeros((len(cut) - 1, size, size), np.float32)
        block = max(1, _ONE_THREAD // size**2)
        for one, start, stop in zip(coverage, cut[:-1], cut[1:], strict=True):
            for first in range(start, stop, block):
                last = min(first + block, stop)
                one += down[first:last].T @ right[first:last]
        return np.minimum(coverage, 1, out=coverage)

    def sample_points(self, count, rng):
        """f32 [n, count, 2], as Region.sample_points of each mask."""
        column, top, bottom = self.pieces
        filled = (bottom - top).cumsum()
        cut = column.searchsorted(self.first // self.height)
        area = np.append(0, filled)[cut]  # of all masks before each one
        across, down = np.moveaxis(spread(len(area) - 1, count, rng), -1, 0)
        pick = area[:-1, None] + (across * np.diff(area)[:, None]).astype(np.int64)
        piece = filled.searchsorted(pick, side="right")
        x = column[piece] % self.width + rng.random(pick.shape)
        y = top[piece] + down * (bottom - top)[piece]
        return (np.stack([x, y], axis=-1) / (self.width, self.height)).astype(np.float32)


@functools.lru_cache(maxsize=256)
def _filled_cells(pixels, cells):
    """f32 [pixels + 1, cells]: how much of each cell of a line its first n pixels cover."""
    filled = np.arange(pixels + 1)[:, None] * (cells / pixels) - np.arange(cells)
    return np.clip(filled, 0, 1).astype(np.float32)
