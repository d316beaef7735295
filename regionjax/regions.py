"""Regions and every coordinate conversion; the ground floor that both sides stand on.

Inside, everywhere: xy, normalised to [0, 1], origin top-left, boxes xyxy, time order kept. Other
conventions exist only as the functions below, named after what they produce. Arrays of boxes are
[..., 4] and arrays of points [..., 2]. Integer forms divide the unit line into bins; going back
gives the middle of a bin, so that integer → coordinate → integer is exact.
"""

import dataclasses
import re

import numpy as np
from PIL import Image, ImageDraw

from regionjax.masks import mask_bounds, soft_downsample

TOLERANCE = 1e-6  # how far a box may stick out before it is an error; float32 rounding
BRUSH = 0.03  # radius of a stroke, fraction of the image side


class RegionError(ValueError):
    """A region that cannot be: not finite, out of order, outside the image or empty."""


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """What the user points at: exactly one of points, box or mask.

    Attributes:
      points: f32 [K, 2], xy in time order. May leave the image (real traces do) by at most one
        side; they are clipped on use.
      box: f32 [4], xyxy.
      mask: bool [H, W], at any resolution; it covers the whole image.
    """

    points: np.ndarray | None = None
    box: np.ndarray | None = None
    mask: np.ndarray | None = None

    def __post_init__(self):
        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None]
        if len(given) != 1:
            raise RegionError(f"a region is one of points, box or mask; got {given or 'none'}")
        value = {"points": _points, "box": _box, "mask": _mask}[given[0]](getattr(self, given[0]))
        value.flags.writeable = False
        object.__setattr__(self, given[0], value)

    @classmethod
    def from_points(cls, points):
        return cls(points=points)

    @classmethod
    def from_box(cls, box):
        return cls(box=box)

    @classmethod
    def from_mask(cls, mask):
        return cls(mask=mask)

    @property
    def kind(self):
        """Which of the three it is: "points", "box" or "mask"."""
        return "points" if self.points is not None else "box" if self.box is not None else "mask"

    def bounding_box(self):
        """f32 [4], inside the image; a single point gives a box without area."""
        if self.box is not None:
            return self.box.copy()
        if self.points is not None:
            inside = np.clip(self.points, 0, 1)
            return np.concatenate([inside.min(axis=0), inside.max(axis=0)])
        height, width = self.mask.shape
        return box_from_pixels(mask_bounds(self.mask), width, height)

    def rasterize(self, size, brush=BRUSH):
        """Coverage of a square grid over the image.

        Args:
          size: cells a side.
          brush: radius of the stroke through points, fraction of the image side.

        Returns:
          f32 [size, size] in [0, 1], never all zero. Mask: area average. Box: exact overlap.
          Points: a round brush along the polyline in time order; one point is a disc.
        """
        if self.mask is not None:
            return soft_downsample(self.mask, (size, size))
        if self.box is not None:
            return box_coverage(self.box, size)
        return _stroke(np.clip(self.points, 0, 1), size, brush)

    def sample_points(self, count, rng):
        """f32 [count, 2] inside the image.

        Points: evenly in index, order kept, repeated if too few (`rng` is not used).
        Box: uniform, but spread (`spread`). Mask: the same over its pixels.
        """
        if self.points is not None:
            last = len(self.points) - 1
            index = np.arange(count) * last // (count - 1) if count > 1 else [last // 2]
            return np.clip(self.points[index], 0, 1)
        unit = spread(1, count, rng)[0]
        if self.box is not None:
            points = self.box[:2] + unit * (self.box[2:] - self.box[:2])
        else:
            height, width = self.mask.shape
            columns, rows = np.nonzero(self.mask.T)
            column = columns[(unit[:, 0] * len(columns)).astype(int)]
            first, stop = (columns.searchsorted(column, side) for side in ("left", "right"))
            row = rows[first + (unit[:, 1] * (stop - first)).astype(int)]
            points = (np.stack([column, row], axis=1) + rng.random((count, 2))) / (width, height)
        return points.astype(np.float32)

    def area(self):
        """Share of the image, 0…1; for points the area under the brush."""
        if self.box is not None:
            return float(np.prod(self.box[2:] - self.box[:2]))
        if self.mask is not None:
            return float(self.mask.mean())
        return float(self.rasterize(64).mean())

    def flipped(self):
        """The region in the left-right mirrored image."""
        if self.points is not None:
            return Region(points=flip_points(self.points))
        if self.box is not None:
            return Region(box=flip_box(self.box))
        return Region(mask=self.mask[:, ::-1])


def spread(sets, count, rng):
    """f64 [sets, count, 2] in [0, 1)², each uniform, each set spread: a Latin hypercube.

    Of the `count` columns and rows that the square can be cut into, every one has one point of a
    set (McKay et al. 1979). So few points tell where the middle of a region is, and how large it
    is, several times more exactly than points that know nothing of each other.
    """
    strata = rng.permuted(np.tile(np.arange(count), (sets, 2, 1)), axis=-1)
    return (strata.swapaxes(1, 2) + rng.random((sets, count, 2))) / count


def _points(points):
    points = np.array(points, np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise RegionError(f"points are [K, 2] with K >= 1, got {list(points.shape)}")
    if not np.isfinite(points).all():
        raise RegionError(f"point {_first(~np.isfinite(points))} is not finite")
    far = (points < -1) | (points > 2)
    if far.any():
        place = _first(far)
        raise RegionError(
            f"point {place} = {points[place].tolist()} lies more than one image side outside; "
            "points are normalised to [0, 1] (points_from_pixels converts pixels)"
        )
    return points


def _first(wrong):
    return int(np.argmax(wrong.any(axis=1)))


def _box(box):
    box = np.array(box, np.float32)
    if box.shape != (4,):
        raise RegionError(f"a box is [4] (x0, y0, x1, y1), got {list(box.shape)}")
    x0, y0, x1, y1 = box.tolist()
    if not np.isfinite(box).all():
        raise RegionError(f"box {box.tolist()} is not finite")
    if x1 - x0 <= TOLERANCE or y1 - y0 <= TOLERANCE:
        raise RegionError(
            f"box {box.tolist()} has no area or is out of order; a box is x0, y0, x1, y1 "
            "(box_from_xywh converts x, y, width, height)"
        )
    if min(x0, y0) < -TOLERANCE or max(x1, y1) > 1 + TOLERANCE:
        raise RegionError(
            f"box {box.tolist()} leaves the image; boxes are normalised to [0, 1] "
            "(box_from_pixels converts pixels, clip_box cuts)"
        )
    return np.clip(box, 0, 1)


def _mask(mask):
    mask = np.array(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise RegionError(f"a mask is bool [H, W], got {mask.dtype}{list(mask.shape)}")
    if not mask.any():
        raise RegionError(f"a mask of {mask.shape[0]}x{mask.shape[1]} has no pixel")
    return mask


def _stroke(points, size, brush):
    """f32 [size, size] under a round brush along `points`; drawn finer, then averaged."""
    fine = max(1, int(np.ceil(6 / (brush * size))))  # the radius spans at least 6 fine pixels
    side = size * fine
    radius = round(brush * side - 0.5)  # beside the middle pixel: the diameter is odd
    xy = np.rint(points * side - 0.5).astype(int)  # Pillow's integers are pixel centres
    low = np.maximum((xy.min(axis=0) - radius) // fine, 0)  # cells that the brush may touch, …
    high = np.minimum((xy.max(axis=0) + radius) // fine + 1, size)  # … the only ones drawn
    canvas = Image.new("L", tuple(((high - low) * fine).tolist()))
    draw = ImageDraw.Draw(canvas)
    path = (xy - low * fine).tolist()
    path = [tuple(b) for a, b in zip([None, *path], path, strict=False) if a != b]
    if len(path) > 1:
        draw.line(path, fill=255, width=2 * radius + 1)
    for x, y in path:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    shares = np.zeros((size, size), np.float32)
    part = np.array(canvas.reduce(fine))  # 0…255; Pillow averages faster than NumPy
    shares[low[1] : high[1], low[0] : high[0]] = part
    if not part.any():  # a click in the corner of a very coarse grid rounds to nothing
        column, row = np.minimum(points[0] * size, size - 1).astype(int)
        shares[row, column] = 1
    return shares / np.float32(255)


WHOLE_IMAGE = Region(box=(0, 0, 1, 1))


# ---- pixels -------------------------------------------------------------------------------------


def box_from_pixels(box, width, height):
    """Pixel-edge xyxy to normalised xyxy, f32 [..., 4]."""
    return (np.asarray(box, np.float64) / (width, height, width, height)).astype(np.float32)


def box_to_pixels(box, width, height):
    """Normalised xyxy to pixel-edge xyxy, f64 [..., 4]."""
    return np.asarray(box, np.float64) * (width, height, width, height)


def box_from_xywh(box, width, height):
    """COCO's pixel x, y, width, height to normalised xyxy, f32 [..., 4]."""
    box = np.asarray(box, np.float64)
    corners = np.concatenate([box[..., :2], box[..., :2] + box[..., 2:]], axis=-1)
    return box_from_pixels(corners, width, height)


def box_to_xywh(box, width, height):
    """Normalised xyxy to COCO's pixel x, y, width, height, f64 [..., 4]."""
    box = box_to_pixels(box, width, height)
    return np.concatenate([box[..., :2], box[..., 2:] - box[..., :2]], axis=-1)


def box_from_yxyx(box):
    """TFDS's normalised ymin, xmin, ymax, xmax to xyxy, f32 [..., 4]."""
    return np.asarray(box, np.float32)[..., [1, 0, 3, 2]]


def box_to_yxyx(box):
    """Normalised xyxy to TFDS's ymin, xmin, ymax, xmax, f32 [..., 4]."""
    return np.asarray(box, np.float32)[..., [1, 0, 3, 2]]


def points_from_pixels(points, width, height):
    """Pixel xy to normalised xy, f32 [..., 2]; (0, 0) is the corner of the first pixel."""
    return (np.asarray(points, np.float64) / (width, height)).astype(np.float32)


def points_to_pixels(points, width, height):
    """Normalised xy to pixel xy, f64 [..., 2]."""
    return np.asarray(points, np.float64) * (width, height)


# ---- integers and text --------------------------------------------------------------------------


def points_to_text(points):
    """RegionVLM's trajectory text: `[12 40] [13 42]`, each trunc(100·x), clipped to [0, 1]."""
    percent = np.trunc(np.clip(np.asarray(points, np.float64), 0, 1) * 100).astype(int)
    return " ".join(f"[{x} {y}]" for x, y in percent.tolist())


def points_from_text(text):
    """Trajectory text to f32 [K, 2], the middle of each hundredth.

    Raises:
      RegionError: text that is not a row of `[x y]` with numbers from 0 to 100.
    """
    if not re.fullmatch(r"\s*(\[\d+ \d+\]\s*)+", text):
        raise RegionError(f"{text!r} is not trajectory text such as '[12 40] [13 42]'")
    percent = np.array([int(number) for number in re.findall(r"\d+", text)], np.float64)
    if percent.max() > 100:
        raise RegionError(f"{text!r} holds {percent.max():.0f}; coordinates run from 0 to 100")
    return np.minimum((percent + 0.5) / 100, 1).astype(np.float32).reshape(-1, 2)


def box_to_locations(box, bins=1024):
    """Normalised xyxy to PaliGemma's order y0, x0, y1, x1; int64 [..., 4] in 0…bins-1."""
    box = np.clip(np.asarray(box, np.float64), 0, 1)
    return np.minimum(np.floor(box * bins), bins - 1).astype(np.int64)[..., [1, 0, 3, 2]]


def box_from_locations(locations, bins=1024):
    """Location integers y0, x0, y1, x1 to normalised xyxy, f32 [..., 4] (the middle of each bin).

    Raises:
      RegionError: an integer outside 0…bins-1.
    """
    locations = np.asarray(locations)
    if (locations < 0).any() or (locations >= bins).any():
        raise RegionError(f"locations {locations.tolist()} are not all in 0…{bins - 1}")
    return ((locations[..., [1, 0, 3, 2]] + 0.5) / bins).astype(np.float32)


def locations_to_text(locations):
    """Four location integers to `<loc0012><loc0007><loc0101><loc0099>`."""
    return "".join(f"<loc{location:04d}>" for location in np.asarray(locations).tolist())


def locations_from_text(text):
    """Location text, with or without spaces between, to int64 [n].

    Raises:
      RegionError: anything else in the text.
    """
    if not re.fullmatch(r"\s*(<loc\d{4}>\s*)*", text):
        raise RegionError(f"{text!r} is not a row of location tokens such as '<loc0012>'")
    return np.array([int(number) for number in re.findall(r"\d{4}", text)], np.int64)


def box_to_thousand(box):
    """Normalised xyxy to Qwen3-VL's relative integers, x0 y0 x1 y1 in 0…1000; int64 [..., 4]."""
    return np.rint(np.clip(np.asarray(box, np.float64), 0, 1) * 1000).astype(np.int64)


def box_from_thousand(box):
    """Relative integers 0…1000 to normalised xyxy, f32 [..., 4].

    Raises:
      RegionError: an integer outside 0…1000.
    """
    box = np.asarray(box)
    if (box < 0).any() or (box > 1000).any():
        raise RegionError(f"box {box.tolist()} is not in 0…1000 (absolute pixels?)")
    return (box / 1000).astype(np.float32)


# ---- boxes --------------------------------------------------------------------------------------


def clip_box(box):
    """Cuts normalised boxes to the image, f32 [..., 4]; nothing may be left (no area)."""
    return np.clip(np.asarray(box, np.float32), 0, 1)


def box_iou(a, b):
    """Intersection over union, f64 [...] of boxes [..., 4] (broadcast); 0 if both have no area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (a, b)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def box_coverage(boxes, size):
    """f32 [..., size, size]: exact overlap of boxes [..., 4] with the cells of a square grid."""
    edges = np.asarray(boxes, np.float64)[..., None] * size  # in cells
    cell = np.arange(size)
    overlap = np.minimum(edges[..., 2:, :], cell + 1) - np.maximum(edges[..., :2, :], cell)
    share = np.maximum(overlap, 0).astype(np.float32)  # [..., 2, size]: across, down
    return share[..., 1, :, None] * share[..., 0, None, :]


def flip_points(points):
    """Points in the left-right mirrored image."""
    return np.stack([1 - points[..., 0], points[..., 1]], axis=-1)


def flip_box(box):
    """Boxes in the left-right mirrored image, still ordered."""
    return np.stack([1 - box[..., 2], box[..., 1], 1 - box[..., 0], box[..., 3]], axis=-1)
