"""Image files: read and checked once when data is prepared, decoded again for every example."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from input_pipeline.errors import DataError

# What Pillow raises on bytes that are not, or not wholly, an image.
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)


class BadImage(DataError):
    """An image file that is missing, corrupt or cut short; the message names it."""


def read_image(root, file_name):
    """Reads an image file and decodes it once, to be sure that training will be able to.

    Coordinates refer to the stored pixels: an EXIF orientation is not applied (nor does COCO).

    Returns:
      (bytes, width, height)

    Raises:
      BadImage: names the file.
    """
    path = root / file_name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"{path}: {error.strerror or error}") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return data, *image.size
    except _BROKEN as error:
        raise BadImage(f"{path} ({len(data)} bytes): {error}") from error


def decode_image(data, size, name):
    """uint8 [size, size, 3] of an encoded image, squeezed to a square (bicubic).

    Args:
      data: the file's bytes.
      size: S, pixels a side.
      name: what to call the image in an error.

    Raises:
      BadImage: names the image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if min(image.size) >= 2 * size:
                image.draft("RGB", (size, size))  # JPEG: decoded at 1/2…1/8 of its size
            if image.mode != "RGB":
                image = image.convert("RGB")
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BICUBIC)
            return np.asarray(image)
    except _BROKEN as error:
        raise BadImage(f"image {name} ({len(data)} bytes): {error}") from error
