"""The regions of one image as arrays, all of a kind at once."""

import numpy as np

from input_pipeline.runs import RunGroup, RunRegion
from regionjax.masks import quantize_mask
from regionjax.regions import WHOLE_IMAGE, box_coverage, spread


def encode_regions(regions, mask_size, points, rng):
    """What the model sees of regions.

    Args:
      regions: list of Region or RunRegion (the latter of one image).
      mask_size: M.
      points: K.
      rng: np.random.Generator; draws the points in masks and boxes.

    Returns:
      (f32 [n, K, 2] points, f32 [n, 4] bounding boxes, uint8 [n, M, M] coverage 0…255)
    """
    xy = np.empty((len(regions), points, 2), np.float32)
    boxes = np.empty((len(regions), 4), np.float32)
    coverage = np.full((len(regions), mask_size, mask_size), 255, np.uint8)
    runs, plain, rest = [], [], []
    for place, region in enumerate(regions):
        kind = runs if isinstance(region, RunRegion) else rest if region.box is None else plain
        kind.append(place)
    if runs:
        group = RunGroup([regions[place] for place in runs])
        xy[runs] = group.sample_points(points, rng)
        boxes[runs] = group.bounding_boxes()
        coverage[runs] = _quantized(group.rasterize(mask_size))
    if plain:
        boxes[plain] = box = np.stack([regions[place].box for place in plain])
        sides = box[:, None, 2:] - box[:, None, :2]
        xy[plain] = box[:, None, :2] + spread(len(plain), points, rng) * sides
    if parts := [place for place in plain if regions[place] is not WHOLE_IMAGE]:
        coverage[parts] = _quantized(box_coverage(boxes[parts], mask_size))
    for place in rest:
        region = regions[place]
        xy[place] = region.sample_points(points, rng)
        boxes[place] = region.bounding_box()
        coverage[place] = quantize_mask(region.rasterize(mask_size))
    return xy, boxes, coverage


def _quantized(coverage):
    """quantize_mask of every mask of f32 [n, M, M]."""
    quantized = np.rint(coverage * np.float32(255)).astype(np.uint8)
    for place in np.flatnonzero(~quantized.any(axis=(1, 2))):  # all below half of 1/255
        quantized[place] = quantize_mask(coverage[place])
    return quantized
