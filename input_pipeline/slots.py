"""The regions of one image as arrays, all of a kind at once."""

import numpy as np

from input_pipeline.runs import RunGroup, RunRegion
from regionjax.masks import quantize_mask
from regionjax.regions import box_coverage


def encode_regions(regions, mask_size, points, rng):
    """What the model sees of regions.

    Args:
      regions: list of Region or RunRegion (those of one image, all of its size).
      mask_size: M.
      points: K.
      rng: np.random.Generator; draws the points in masks and boxes.

    Returns:
      (f32 [n, K, 2] points, f32 [n, 4] bounding boxes, uint8 [n, M, M] coverage 0…255)
    """
    xy = np.empty((len(regions), points, 2), np.float32)
    coverage = np.empty((len(regions), mask_size, mask_size), np.float32)
    boxes = np.array([region.bounding_box() for region in regions], np.float32).reshape(-1, 4)
    if runs := [i for i, region in enumerate(regions) if isinstance(region, RunRegion)]:
        group = RunGroup([regions[i] for i in runs])
        xy[runs] = group.sample_points(points, rng)
        coverage[runs] = group.rasterize(mask_size)
    if plain := [i for i, region in enumerate(regions) if region.box is not None]:
        box = boxes[plain]
        corner, sides = box[:, None, :2], (box[:, 2:] - box[:, :2])[:, None]
        xy[plain] = corner + rng.random((len(plain), points, 2), np.float32) * sides
        coverage[plain] = box_coverage(box, mask_size)
    for i in sorted(set(range(len(regions))).difference(runs, plain)):
        xy[i] = regions[i].sample_points(points, rng)
        coverage[i] = regions[i].rasterize(mask_size)
    quantized = np.rint(coverage * 255).astype(np.uint8)
    for i in np.flatnonzero(~quantized.any(axis=(1, 2))):  # smaller than half a cell's 1/255
        quantized[i] = quantize_mask(coverage[i])
    return xy, boxes, quantized
