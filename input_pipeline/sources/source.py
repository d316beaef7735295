"""What a source of annotations is: the interface behind `prepare`.

A source is a frozen dataclass with `annotations` and `images` (where the files are, as its own
docstring says), a `licence` line and three methods:

  files(split) -> the annotation files that a split is read from; DataError if one is missing.
  items(split, tally) -> yields one picklable Item per record to be, in file order.
  record(item, tally) -> the Record with its image read and checked; None if nothing is left.

`items` runs in one process and reads annotations; `record` runs in several and does the work.
Whatever is left out is counted in `tally` (a collections.Counter), under a name that says why.
"""

import dataclasses


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
