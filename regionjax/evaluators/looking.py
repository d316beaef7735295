"""Questions with less to look at: what is answered without the region, and without the image.

A model that is right as often with less has not looked. `no_region` shows the whole image in place
of the region; `no_image` shows an even grey and no region either, so that only the text is left.
"""

import dataclasses
import functools
import io

from PIL import Image

from regionjax.regions import WHOLE_IMAGE

WAYS = ("as_is", "no_region", "no_image")
GREY = (128, 128, 128)  # RGB


def looked_at(items, way):
    """Yields (record, region) of each item, in one of WAYS.

    Args:
      items: with `record` and `region`; items of one image together.
      way: of WAYS.

    Raises:
      ValueError: another way.
    """
    if way not in WAYS:
        raise ValueError(f"questions are asked {', '.join(WAYS)}; got {way!r}")
    latest = [None, None]  # record, the same without its image
    for item in items:
        record, region = item.record, item.region if way == "as_is" else lambda: WHOLE_IMAGE
        if way == "no_image":
            if record is not latest[0]:
                latest[:] = record, dataclasses.replace(record, image=_grey())
            record = latest[1]
        yield record, region()


def ways(items):
    """The WAYS in which there is a difference: `no_region` needs an item that has a region."""
    pointed = any(item.region() is not WHOLE_IMAGE for item in items)
    return tuple(way for way in WAYS if pointed or way != "no_region")


def called(name, way):
    """A benchmark's name where it is asked in one of WAYS: vqav2, vqav2_no_image."""
    return name if way == "as_is" else f"{name}_{way}"


def of_set(scores, suffix):
    """The scores of one of several sets: `ris/miou` of refcoco is `ris_refcoco/miou`.

    The suffix of the only set is "".
    """
    named = (key.split("/", 1) for key in scores)
    return {f"{family}{suffix}/{name}": scores[f"{family}/{name}"] for family, name in named}


@functools.cache
def _grey():
    """An image file of one colour; its size does not matter, as images are squeezed to a square."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), GREY).save(file, "PNG")
    return file.getvalue()
