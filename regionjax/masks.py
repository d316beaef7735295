"""Binary masks: COCO polygons and run lengths in and out, soft shrinking, overlap.

A mask is bool [H, W], row-major, origin top-left. COCO run lengths are column-major and start with
a run of zeros; the compressed form writes every count as 5-bit groups in printable characters,
from the fourth count on as a difference to the count two places before. Only numpy is needed.
"""

import functools

import numpy as np


def polygon_mask(polygons, height, width):
    """The union of COCO polygons as a mask, bool [height, width]; see polygon_runs."""
    counts = polygon_runs(polygons, height, width)
    return decode_rle({"size": [height, width], "counts": counts})


def polygon_runs(polygons, height, width):
    """The union of COCO polygons as COCO run lengths, without making its pixels.

    A pixel belongs to a polygon when its centre lies inside (even-odd rule).

    Args:
      polygons: list of flat lists [x0, y0, x1, y1, …] in pixels; parts outside are cut off.

    Returns:
      i64 [n], column-major, zeros first; the last run is not empty unless all are.

    Raises:
      ValueError: a polygon with an odd count of numbers, fewer than three corners, or a NaN.
    """
    runs = []
    for number, polygon in enumerate(polygons):
        corners = np.asarray(polygon, np.float64)
        if corners.ndim != 1 or corners.size % 2 or corners.size < 6:
            raise ValueError(
                f"polygon {number} has {corners.size} numbers; expected x, y pairs of >= 3 corners"
            )
        if not np.isfinite(corners).all():
            raise ValueError(f"polygon {number} holds a number that is not finite")
        runs.append(_polygon_runs(corners, height, width))
    starts, ends = runs[0] if len(runs) == 1 else _united(runs)
    if not starts.size:
        return np.array([height * width])
    rest = height * width - ends[-1]
    counts = np.empty(2 * starts.size + (rest > 0), np.int64)
    counts[0] = starts[0]
    counts[1 : 2 * starts.size : 2] = ends - starts
    counts[2 : 2 * starts.size : 2] = starts[1:] - ends[:-1]
    if rest:
        counts[-1] = rest
    return counts


def _polygon_runs(corners, height, width):
    """Starts and ends of the runs of one polygon [x0, y0, x1, …], in column-major order."""
    x, y = closed = np.empty((2, corners.size // 2 + 1))  # edges, also from the last corner on
    closed[:, :-1] = corners.reshape(-1, 2).T
    closed[:, -1] = closed[:, 0]
    closed -= 0.5  # in pixels' centres
    first = np.minimum(np.maximum(np.ceil(x), 0), width).astype(np.int64)  # column at or after
    columns = np.abs(first[1:] - first[:-1])
    edge = columns.nonzero()[0]
    columns = columns[edge]
    slope = (y[edge + 1] - y[edge]) / (x[edge + 1] - x[edge])
    passed = columns.cumsum()
    total = passed[-1] if passed.size else 0
    column = np.minimum(first[edge], first[edge + 1]) - passed + columns
    column = column.repeat(columns) + np.arange(total)
    down = (column - x[edge].repeat(columns)) * slope.repeat(columns) + y[edge].repeat(columns)
    row = np.minimum(np.maximum(np.ceil(down), 0), height).astype(np.int64)
    crossings = column * height + row
    crossings.sort()
    return _joined(crossings[0::2], crossings[1::2])  # even-odd: inside from each to the next


def _united(runs):
    """The union of several polygons' runs, as starts and ends."""
    starts = np.concatenate([np.empty(0, np.int64), *(starts for starts, _ in runs)])
    ends = np.concatenate([np.empty(0, np.int64), *(ends for _, ends in runs)])
    order = starts.argsort()
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    return _joined(starts, ends, np.less_equal)


def _joined(starts, ends, touch=np.equal):
    """Runs in order without empty ones; those that touch (or overlap) become one."""
    some = starts < ends
    starts, ends = starts[some], ends[some]
    new = np.ones(starts.size + 1, bool)
    np.logical_not(touch(starts[1:], ends[:-1]), out=new[1:-1])
    return starts[new[:-1]], ends[new[1:]]


def encode_rle(mask, compressed=True):
    """A mask as a COCO RLE: {"size": [H, W], "counts": str, or list of int if not compressed}."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"a mask is bool [H, W], got {mask.dtype}{list(mask.shape)}")
    counts, _ = _run_lengths(mask[None])
    return {
        "size": list(mask.shape),
        "counts": compress_counts(counts.tolist()) if compressed else counts.tolist(),
    }


def encode_rles(masks):
    """Compressed COCO RLEs of masks bool [n, H, W]; several times faster than one by one."""
    counts, runs = _run_lengths(masks)
    starts = np.cumsum(runs) - runs
    texts = _compress(counts, np.arange(counts.size) - np.repeat(starts, runs))
    lengths = np.add.reduceat((texts > 0).sum(axis=1), starts)
    text, end = texts[texts > 0].tobytes().decode("ascii"), np.cumsum(lengths)
    return [
        {"size": list(masks.shape[1:]), "counts": text[start:stop]}
        for start, stop in zip((end - lengths).tolist(), end.tolist(), strict=True)
    ]


def _run_lengths(masks):
    """Of masks bool [n, H, W]: all runs one after the other, i64; and how many each mask has."""
    flat = masks.transpose(0, 2, 1).reshape(len(masks), -1)
    changes = flat.copy()  # against the pixel before; the first against a zero
    changes[:, 1:] ^= flat[:, :-1]
    which, at = np.divmod(np.flatnonzero(changes), flat.shape[1])
    runs = np.bincount(which, minlength=len(masks)) + 1
    last = np.cumsum(runs) - 1
    starts, ends = np.zeros(runs.sum(), np.int64), np.full(runs.sum(), flat.shape[1])
    inner = np.ones(ends.shape, bool)
    inner[last] = False
    ends[inner] = at
    starts[1:][inner[:-1]] = at
    return ends - starts, runs


def decode_rle(rle):
    """The mask of a COCO RLE whose counts are a list, a str or bytes; bool [H, W].

    Raises:
      ValueError: counts that are malformed or do not add up to H·W.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        counts = decompress_counts(counts)
    counts = np.asarray(counts, np.int64)
    if (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(
            f"run lengths add up to {counts.sum()}, a mask of {height}x{width} "
            f"has {height * width} pixels"
        )
    values = np.arange(counts.size) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def segmentation_mask(segmentation, height, width):
    """The mask of a COCO `segmentation`: a polygon list or an RLE; bool [height, width]."""
    if not isinstance(segmentation, dict):
        return polygon_mask(segmentation, height, width)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"RLE of size {segmentation['size']} on an image of {[height, width]}")
    return decode_rle(segmentation)


def compress_counts(counts):
    """Run lengths (list of int) to COCO's printable string."""
    texts = _compress(np.array(counts, np.int64), np.arange(len(counts)))
    return texts[texts > 0].tobytes().decode("ascii")


def _compress(counts, places):
    """uint8 [runs, groups], characters and then zeros; `places` counts the runs of each mask."""
    later = np.flatnonzero(places > 2)
    rest = counts.copy()
    rest[later] -= counts[later - 2]
    open_, groups = np.ones(rest.shape, bool), []
    while open_.any() or not groups:
        more = open_ & ((rest < -16) | (rest > 15))  # than five bits with a sign
        groups.append(open_ * (48 + (rest & 31) + 32 * more))
        open_, rest = more, rest >> 5
    return np.stack(groups, axis=1).astype(np.uint8)


def decompress_counts(text):
    """COCO's printable string (str or bytes) to run lengths (list of int)."""
    groups = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8)
    groups = groups.astype(np.int64) - 48
    if (wrong := (groups < 0) | (groups > 63)).any():
        place = int(wrong.argmax())
        raise ValueError(
            f"character {place} of compressed run lengths is {chr(groups[place] + 48)!r}"
        )
    ends = np.flatnonzero(groups < 32)
    if groups.size and (not ends.size or ends[-1] != groups.size - 1):
        raise ValueError("compressed run lengths end in the middle of a number")
    if not groups.size:
        return []
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    shifts = 5 * (np.arange(groups.size) - np.repeat(starts, lengths))
    counts = np.add.reduceat((groups & 31) << shifts, starts)
    counts -= np.where(groups[ends] & 16, np.left_shift(1, 5 * lengths), 0)  # sign of the last
    counts[1::2] = np.cumsum(counts[1::2])  # differences to two places before,
    counts[2::2] = np.cumsum(counts[2::2])  # but for the first three
    return counts.tolist()


@functools.lru_cache(maxsize=256)
def _overlaps(cells, pixels):
    """f32 [cells, pixels]: the share of each cell (of `cells` on the unit line) a pixel covers."""
    edges = np.arange(pixels + 1) / pixels * cells  # pixel edges, measured in cells
    left, right = edges[:-1], edges[1:]
    cell = np.arange(cells)[:, None]
    return np.clip(np.minimum(right, cell + 1) - np.maximum(left, cell), 0, 1).astype(np.float32)


def soft_downsample(mask, size):
    """Area average of a mask on another grid; any sizes, also growing.

    Args:
      mask: bool [H, W].
      size: (h, w).

    Returns:
      f32 [h, w], the covered share of each cell; above 0 wherever a pixel touches, so never all
      zero unless the mask is.
    """
    down, across = _overlaps(size[0], mask.shape[0]), _overlaps(size[1], mask.shape[1])
    return np.clip(down @ np.asarray(mask, np.float32) @ across.T, 0, 1)


def quantize_mask(soft):
    """Coverage f32 in [0, 1] to uint8 in 0…255; a non-empty mask keeps at least its best cell."""
    quantized = np.round(np.asarray(soft) * 255).astype(np.uint8)
    if not quantized.any() and np.max(soft) > 0:
        quantized.flat[np.argmax(soft)] = 1
    return quantized


def mask_iou(a, b):
    """Intersection over union of two masks; 0 when both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def mask_bounds(mask):
    """Pixel edges (x0, y0, x1, y1) of a mask's bounding box, x1 and y1 exclusive.

    Raises:
      ValueError: the mask is empty.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        raise ValueError(f"a mask of {mask.shape[0]}x{mask.shape[1]} without any pixel has no box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
