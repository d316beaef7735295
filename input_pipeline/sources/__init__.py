"""Public annotation formats, one file each.

A source is a frozen dataclass with `root`, a `name` and three methods:

  files(split) -> the annotation files that a split is read from; DataError if one is missing.
  items(split, tally, proposals) -> yields one picklable item per record to be, in file order.
  record(item, tally) -> the Record with its image read and checked; None if nothing is left.

`items` runs in one process and reads annotations; `record` runs in several and does the work.
Whatever is left out is counted in `tally` (a collections.Counter), under a name that says why.
"""

import pathlib

from input_pipeline.errors import DataError
from input_pipeline.sources.coco import Coco
from input_pipeline.sources.localized_narratives import LocalizedNarratives
from input_pipeline.sources.refer import REFER_SETS, Refer
from regionjax.config import nearest

NAMES = ("coco", "localized_narratives", *REFER_SETS)


def open_source(name, root):
    """The source of that name over the folder `root`.

    Raises:
      DataError: an unknown name or a folder that is not there.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise DataError(f"no data folder {root}")
    if name == "coco":
        return Coco(root)
    if name == "localized_narratives":
        return LocalizedNarratives(root)
    if name in REFER_SETS:
        return Refer(root, name)
    raise DataError(f"{name} is not a source{nearest(name, NAMES)}")
