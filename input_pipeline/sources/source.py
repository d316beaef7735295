"""What a source of annotations is: the interface behind `prepare`.

A source is a frozen dataclass with `annotations` and `images` (where the files are, as its own
docstring says), a `licence` line and three methods:

  files(split) -> the annotation files that a split is read from; DataError if one is missing.
  items(split, tally) -> yields one picklable Item per record to be, in file order.
  record(item, tally) -> the Record with its image read and checked; None if nothing is left.

`items` runs in one process and reads annotations; `record` runs in several and does the work.
Whatever is left out is counted in `tally` (a collections.Counter), under a name that says why; and
so is what is odd but kept, under a name that `told_apart` knows.
"""

import dataclasses

_KEPT = {
    "boxes_clipped",
    "points_outside_image",
    "regions_by_box",
    "regions_thinner_than_a_pixel",
    "questions_without_answer",
    "images_without_proposals",
}
PUBLISHED = "_than_the_published_"  # fewer or more references or images


def told_apart(tally):
    """A tally as {why: number} of what was left out, and the same of what is odd but kept."""
    kept = {name for name in tally if name in _KEPT or PUBLISHED in name}
    counted = +tally
    return (
        {name: count for name, count in counted.items() if name not in kept},
        {name: count for name, count in counted.items() if name in kept},
    )


@dataclasses.dataclass(frozen=True)
class Item:
    """What the annotation files say of one image; sources add fields of their own.

    Attributes:
      image_id: the source's identifier, as text.
      file_name: below the source's folder of images.
      coco_id: of the photograph, where it is one of COCO's.
    """

    image_id: str
    file_name: str
    coco_id: int | None
