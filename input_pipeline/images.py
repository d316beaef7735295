"""Image files: checked once when data is prepared, decoded again for every example.

What becomes of odd images:
  several frames (GIF, WebP, PNG): the first; pages and thumbnails of other formats likewise.
  transparency (alpha channel, transparent palette entry or colour): laid on white, as a page
    would show it; a colour without opacity says nothing.
  grey, black and white, palette, CMYK, YCbCr: converted to RGB; colour profiles are not applied.
  16-bit grey: its upper 8 bits.
  EXIF orientation: not applied. Coordinates refer to the stored pixels, as COCO's do.
  pixels without a fixed range (32-bit integers, floating point) and LAB: BadImage.
  more pixels than Pillow takes for safe (179 million): BadImage.
"""

import contextlib
import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from input_pipeline.errors import DataError

# Formats that Pillow reads by itself; for EPS it would start another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}
# What Pillow raises on bytes that are not, or not wholly, an image.
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)
_SHOWN = 24  # bytes of a file that is no image


class BadImage(DataError):
    """An image file that is missing, corrupt or cut short; the message names it."""


def read_image(root, file_name):
    """Reads an image file and checks that training will be able to decode it.

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
    return data, *check_image(data, path)


def check_image(data, name):
    """(width, height) of an encoded image, read to its end.

    Args:
      data: the file's bytes.
      name: what to call the image in an error.

    Raises:
      BadImage: names the image.
    """
    with _opened(data, name) as image:
        size = image.size
        # A JPEG at 1/8 of its size: all of its code is read, most of the arithmetic is not done.
        image.draft("L", (1, 1))
        image.load()
        return size


def decode_image(data, size, name, edges=None):
    """The pixels that a model sees; the one rule for training and evaluation.

    The image, or a part of it, is squeezed to a square: bicubic, antialiased (the filter grows with
    the scale). What is at least twice as large is averaged before: a JPEG is decoded at 1/2, 1/4 or
    1/8 of its size, the smallest that is no smaller than the square, and whole pixels are averaged
    by the whole number of times that a side is larger.

    Args:
      data: the file's bytes.
      size: S, pixels a side.
      name: what to call the image in an error.
      edges: pixel edges (x0, y0, x1, y1) of the part that is seen; None for all of it.

    Returns:
      uint8 [size, size, 3]

    Raises:
      BadImage: names the image.
    """
    with _opened(data, name) as image:
        whole, part = image.size, edges or (0, 0, *image.size)
        wanted = [
            -(-size * pixels // seen) for pixels, seen in zip(whole, _sides(part), strict=True)
        ]
        scale = 1.0  # what is decoded, by the file's size
        if image.width >= 2 * wanted[0] and image.height >= 2 * wanted[1]:
            drawn = image.draft("RGB", wanted)  # None for all but JPEG
            scale = drawn[1][2] / whole[0] if drawn else 1.0
        image = to_rgb(image)
        if image.size != (size, size) or edges:
            box = [edge * scale for edge in part]
            image = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=1.0)
        return np.asarray(image)


def _sides(edges):
    return edges[2] - edges[0], edges[3] - edges[1]


def to_rgb(image):
    """An open Pillow image in mode RGB; see the top of the file."""
    if image.mode in _SIXTEEN_BITS:
        grey = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB")


@contextlib.contextmanager
def _opened(data, name):
    """The image, unread; whatever is wrong with it becomes a BadImage with its name."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.mode not in _MODES | _SIXTEEN_BITS:
                raise ValueError(f"pixels of mode {image.mode} are not read; save it as RGB")
            yield image
    except UnidentifiedImageError as error:
        problem = f"no image, it begins with {data[:_SHOWN]!r}" if data else "the file is empty"
        raise BadImage(f"{name} ({len(data)} bytes): {problem}") from error
    except _BROKEN as error:
        raise BadImage(f"{name} ({len(data)} bytes): {error}") from error
