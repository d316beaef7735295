"""Changes to a training image that keep its geometry and its texts true.

crop: up to `crop` of width or height is cut off each side, in whole pixels of the file, and never
  a part of what the example speaks of: of the regions that are shown or asked for, whole objects
  also where only a point or a side of them is shown. Points outside the image count as on its edge.
  An example of whole images alone is not cropped (as in RegionVLM): its texts are about all of it.
flip: left and right change places in the image, the regions and the texts; an example of which a
  text cannot be rewritten safely (see mirrored_text.py) is not flipped.
brightness, contrast, saturation: one factor each, in this order. The hue stays, for colour words.

What is drawn depends on the example's own generator alone.
"""

import dataclasses

import numpy as np

from input_pipeline.mirrored_text import mirrored_text
from input_pipeline.runs import RunRegion
from regionjax.regions import (
    WHOLE_IMAGE,
    Region,
    RegionError,
    box_to_pixels,
    flip_box,
    flip_points,
    points_to_pixels,
)

_LUMA = np.float32([0.299, 0.587, 0.114])  # of RGB, as in JPEG
_ROUNDING = 1e-3  # pixels by which a box in float32 may stick out


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of an image.

    Attributes:
      width, height: of the image, pixels.
      edges: pixel edges (x0, y0, x1, y1) of the part that is seen.
      flip: whether left and right change places.
    """

    width: int
    height: int
    edges: tuple[int, int, int, int]
    flip: bool = False

    def points(self, points):
        """Normalised xy in the image to the same in the view; clipped to the image before."""
        x0, y0, x1, y1 = self.edges
        pixels = points_to_pixels(np.clip(points, 0, 1), self.width, self.height)
        points = ((pixels - (x0, y0)) / (x1 - x0, y1 - y0)).astype(np.float32)
        return flip_points(points) if self.flip else points

    def box(self, box):
        """Normalised xyxy in the image to the same in the view.

        Raises:
          RegionError: a box that is not wholly in the view.
        """
        x0, y0, x1, y1 = self.edges
        box = box_to_pixels(box, self.width, self.height) - (x0, y0, x0, y0)
        sides = np.array([x1 - x0, y1 - y0] * 2)
        if (box < -_ROUNDING).any() or (box > sides + _ROUNDING).any():
            raise RegionError(f"a part {self.edges} of the image cuts a box")
        box = np.clip(box / sides, 0, 1).astype(np.float32)
        return flip_box(box) if self.flip else box

    def region(self, region):
        """A Region or RunRegion of the image as it is in the view; the whole stays the whole.

        Raises:
          RegionError: a box or mask that is not wholly in the view, or a mask of another size.
        """
        if region is WHOLE_IMAGE:
            return region
        if region.kind == "points":
            return Region(points=self.points(region.points))
        if region.kind == "box":
            return Region(box=self.box(region.box))
        runs = region if isinstance(region, RunRegion) else RunRegion.from_mask(region.mask)
        if (runs.height, runs.width) != (self.height, self.width):
            size = f"{runs.height}x{runs.width}"
            raise RegionError(f"a mask of {size} on an image of {self.height}x{self.width}")
        return runs.seen(self.edges, self.flip)


def draw_view(data, width, height, regions, rng):
    """A View of an image in which no region is cut.

    Args:
      data: DataConfig; `crop` and `flip` count.
      width, height: pixels.
      regions: list of Region or RunRegion.
      rng: np.random.Generator.
    """
    sides = np.array([width, height])
    low, high = sides, np.zeros(2)  # what has to stay, pixels
    parts = [region for region in regions if region is not WHOLE_IMAGE]
    for region in parts:
        box = box_to_pixels(region.bounding_box(), width, height)
        low, high = np.minimum(low, box[:2]), np.maximum(high, box[2:])
    most = (data.crop if parts else 0) * sides
    before = np.minimum(low + _ROUNDING, most).astype(int)
    after = np.minimum(sides - high + _ROUNDING, most).astype(int)
    draws = rng.random(5)
    x0, y0 = (draws[:2] * (before + 1)).astype(int).tolist()
    x1, y1 = (sides - (draws[2:4] * (after + 1)).astype(int)).tolist()
    return View(width, height, (x0, y0, x1, y1), bool(draws[4] < data.flip))


def mirrored_annotation(annotation):
    """The annotation with all its texts about the mirrored image, or None; its region stays."""
    extra = dict(annotation.extra)
    texts = [annotation.text]
    for key in ("answer", "choices", "rationales"):
        value = extra.get(key)
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            texts += value
    mirrored = {text: mirrored_text(text) for text in texts}
    if None in mirrored.values():
        return None
    for key, value in extra.items():
        if key in ("answer", "choices", "rationales"):
            found = isinstance(value, list)
            extra[key] = [mirrored[text] for text in value] if found else mirrored.get(value, value)
    return dataclasses.replace(annotation, text=mirrored[annotation.text], extra=extra)


def jittered(image, data, rng):
    """The image in other light.

    Args:
      image: uint8 [S, S, 3].
      data: DataConfig; `brightness`, `contrast` and `saturation` count.
      rng: np.random.Generator.

    Returns:
      uint8 [S, S, 3]
    """
    spread = np.array([data.brightness, data.contrast, data.saturation])
    brightness, contrast, saturation = 1 + spread * (2 * rng.random(3) - 1)
    # Each step is linear in the colours of a pixel, so that all three are one.
    colours = image.astype(np.float32)
    luma = colours[..., 0] * _LUMA[0] + colours[..., 1] * _LUMA[1] + colours[..., 2] * _LUMA[2]
    grey = brightness * float(luma.mean())  # contrast is about this
    light = np.float32(brightness * contrast)
    colours *= light * np.float32(saturation)
    luma *= light * np.float32(1 - saturation)
    luma += np.float32((1 - contrast) * grey + 0.5)
    colours += luma[..., None]
    return np.clip(colours, 0, 255, out=colours).astype(np.uint8)
