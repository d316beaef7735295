"""Proposals for images that come without: segments of an image, by its pixels or by a model.

Without a model, pixels are joined along their edges, from alike to unlike, as long as the step
between two segments is small against the differences inside them (Felzenszwalb and Huttenlocher,
Efficient Graph-Based Image Segmentation, IJCV 2004). Three scales give parts, things and grounds.
Such segments follow colours and not things: they are a poor stand-in for a trained model, but know
nothing of what is annotated.
"""

import functools
import hashlib
import io
import pathlib

import numpy as np
from PIL import Image, ImageFilter

from input_pipeline.errors import DataError
from input_pipeline.images import decode_image, to_rgb

VERSION = "segments 1"  # changes with the segments
SCALES = (150.0, 500.0, 1500.0)  # the larger, the larger the segments
SIDE = 96  # pixels a side at which segments are made
LEAST = 0.004  # of the image; smaller ones are joined to a neighbour


def of_pixels(data, name):
    """Segments of an image at three scales.

    Args:
      data: bytes of the image file.
      name: of the image, for errors.

    Returns:
      list of different masks, bool [H, W] of the image's size, the largest first.
    """
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    small = Image.fromarray(decode_image(data, SIDE, name)).filter(ImageFilter.MedianFilter(5))
    pixels = np.asarray(small, np.float64)
    found = {}
    for scale in SCALES:
        labels = joined(pixels, scale, LEAST * SIDE * SIDE)
        for label in range(labels.max() + 1):
            mask = labels == label
            found.setdefault(mask.tobytes(), mask)
    masks = sorted(found.values(), key=lambda mask: -mask.sum())
    rows, columns = (np.arange(pixels_) * SIDE // pixels_ for pixels_ in (height, width))
    grown = (mask[np.ix_(rows, columns)] for mask in masks)
    return [mask for mask in grown if mask.any()]


def joined(pixels, scale, least):
    """Segments of pixels that hang together.

    Args:
      pixels: f64 [H, W, C].
      scale: how large a step a small segment takes: scale divided by its pixels, beyond the
        largest step that it holds already.
      least: pixels of a segment; smaller ones join the neighbour that is most alike.

    Returns:
      i64 [H, W], 0 … segments - 1.
    """
    height, width = pixels.shape[:2]
    index = np.arange(height * width).reshape(height, width)
    steps = [
        np.sqrt(((pixels[:, 1:] - pixels[:, :-1]) ** 2).sum(axis=-1)).ravel(),
        np.sqrt(((pixels[1:] - pixels[:-1]) ** 2).sum(axis=-1)).ravel(),
    ]
    steps = np.concatenate(steps)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    order = np.argsort(steps, kind="stable")
    edges = list(
        zip(steps[order].tolist(), first[order].tolist(), second[order].tolist(), strict=True)
    )
    parent, size, limit = list(range(index.size)), [1] * index.size, [scale] * index.size

    def root(pixel):
        while parent[pixel] != pixel:
            parent[pixel] = parent[parent[pixel]]
            pixel = parent[pixel]
        return pixel

    def join(step, a, b):
        parent[b] = a
        size[a] += size[b]
        limit[a] = step + scale / size[a]

    for step, a, b in edges:
        a, b = root(a), root(b)
        if a != b and step <= limit[a] and step <= limit[b]:
            join(step, a, b)
    for step, a, b in edges:
        a, b = root(a), root(b)
        if a != b and min(size[a], size[b]) < least:
            join(step, a, b)
    roots = np.array([root(pixel) for pixel in range(index.size)])
    return np.unique(roots, return_inverse=True)[1].reshape(height, width)


# ---- a model ------------------------------------------------------------------------------------


def check_model(folder):
    """A digest of a checkpoint's files.

    Raises:
      DataError: no checkpoint, or PyTorch is not installed.
    """
    folder = pathlib.Path(folder)
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    if not any(path.suffix == ".safetensors" for path in files):
        raise DataError(
            f"{folder} has no *.safetensors; a checkpoint of SAM or SAM 2 in Hugging Face's form "
            "is needed, or `auto` alone"
        )
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    _generator(str(folder))
    return digest.hexdigest()[:16]


def of_model(data, name, folder):
    """Masks that a checkpoint of SAM or SAM 2 makes of an image, with the settings of its authors.

    Args:
      data: bytes of the image file.
      name: of the image, for errors.
      folder: of the checkpoint.

    Returns:
      list of masks, bool [H, W] of the image's size, the largest first.
    """
    del name
    with Image.open(io.BytesIO(data)) as image:
        found = _generator(folder)(to_rgb(image), points_per_batch=64)["masks"]
    # Tensors, perhaps on another device.
    masks = [np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask, bool) for mask in found]
    return sorted((mask for mask in masks if mask.any()), key=lambda mask: -mask.sum())


@functools.lru_cache(maxsize=1)
def _generator(folder):
    """transformers' pipeline for masks; each of the processes that prepare loads it once."""
    try:
        from transformers import pipeline

        return pipeline("mask-generation", model=folder)
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            f"masks of {folder}: {error} (PyTorch and torchvision are needed, which are not "
            "installed with this program)"
        ) from error
