"""Boxes and masks in pixels, as people and programs write them, to regions."""

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.runs import EmptyMask, RunRegion
from regionjax.regions import TOLERANCE, Region, box_from_pixels, clip_box


def pixel_box(box, width, height, where, tally):
    """A box cut to its image.

    Args:
      box: x0, y0, x1, y1 in pixels.
      width, height: of the image, pixels.
      where: what to call it in errors.
      tally: counts `boxes_clipped` and `boxes_without_area` (within the image).

    Returns:
      f32 [4], normalised; None if nothing lies in the image.

    Raises:
      DataError: not four finite numbers, corners out of order, or plainly not in pixels.
    """
    try:
        corners = np.array(box, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: box {box!r} is not x0, y0, x1, y1: {error}") from error
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise DataError(f"{where}: box {box!r} is not x0, y0, x1, y1")
    if (corners[2:] < corners[:2]).any():
        raise DataError(
            f"{where}: box {box!r} is out of order; a box is x0, y0, x1, y1 "
            "(not x, y, width, height)"
        )
    if 0 < corners.max() <= 1 and (corners % 1).any():
        raise DataError(f"{where}: box {box!r} is less than a pixel; a box is in pixels, not 0…1")
    return inside_image(box_from_pixels(corners, width, height), tally)


def inside_image(box, tally):
    """The part of a normalised box that lies in its image, f32 [4]; None if nothing does.

    Counts in `tally` as pixel_box.
    """
    inside = clip_box(box)
    if (inside[2:] - inside[:2] <= TOLERANCE).any():
        tally["boxes_without_area"] += 1
        return None
    if (np.abs(box - inside) > TOLERANCE).any():
        tally["boxes_clipped"] += 1
    return inside


def box_region(box, width, height, where, tally):
    """The Region of a box in pixels, or None; arguments and errors as pixel_box."""
    inside = pixel_box(box, width, height, where, tally)
    return None if inside is None else Region.from_box(inside)


def boxes_region(boxes, width, height, where, tally):
    """The region of everything in some boxes: one a Region, several the union as a RunRegion.

    Args:
      boxes: list of x0, y0, x1, y1 in pixels; the others and the errors as pixel_box.

    Returns:
      None if nothing lies in the image.
    """
    found = [
        inside
        for number, box in enumerate(boxes)
        if (inside := pixel_box(box, width, height, f"{where}, box {number}", tally)) is not None
    ]
    if len(found) < 2:
        return Region.from_box(found[0]) if found else None
    mask = np.zeros((height, width), bool)
    for box in np.array(found, np.float64) * (width, height, width, height):
        start = np.floor(box[:2] + 1e-3).astype(int)  # every pixel that the box touches
        stop = np.maximum(np.ceil(box[2:] - 1e-3).astype(int), start + 1)
        mask[start[1] : stop[1], start[0] : stop[0]] = True
    return RunRegion.from_mask(mask)


def mask_region(mask, width, height, where, tally):
    """The RunRegion of a COCO `segmentation`.

    Args:
      mask: a list of polygons [x0, y0, x1, y1, …] in pixels, or an RLE {size, counts}; or bool
        [height, width].
      width, height, where: as pixel_box.
      tally: counts `masks_without_pixel`.

    Returns:
      None if no pixel's centre lies in it.

    Raises:
      DataError: a polygon of fewer than three corners, an RLE of another size or malformed.
    """
    try:
        if isinstance(mask, dict):
            return RunRegion.from_rle(mask, height, width)
        if isinstance(mask, list):
            if not mask or not all(isinstance(outline, list) for outline in mask):
                raise ValueError("polygons are a list of lists [x0, y0, x1, y1, …]")
            return RunRegion.from_polygons(mask, height, width)
        return RunRegion.from_mask(mask)
    except EmptyMask:
        tally["masks_without_pixel"] += 1
        return None
    except KeyError as error:
        raise DataError(
            f"{where}: a run-length mask has `size` and `counts`, no {error}"
        ) from error
    except (ValueError, TypeError) as error:  # RegionError is a ValueError
        raise DataError(f"{where}: {error}") from error
