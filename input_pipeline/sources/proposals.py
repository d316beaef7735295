"""Segmentation proposals of any source's images, in COCO's results form (compressed RLE).

FOLDER/proposals_{split}2017.json: a list of {image_id, segmentation: {size, counts}}.
"""

from input_pipeline.errors import DataError
from input_pipeline.runs import RunRegion
from input_pipeline.sources.annotation_files import field, read_json_list
from regionjax.regions import RegionError


def proposals_file(folder, split):
    """Where the proposals of a split are, if there are any."""
    return folder / f"proposals_{split}2017.json"


def read_proposals(path):
    """{image id as text: its entries, in file order}.

    Raises:
      DataError: missing, not JSON, or an entry without image_id.
    """
    found = {}
    for number, entry in enumerate(read_json_list(path)):
        image_id = str(field(entry, "image_id", f"{path}: proposal {number}"))
        found.setdefault(image_id, []).append(entry)
    return found


def proposal_regions(entries, width, height, file_name):
    """The proposals' regions, in file order; empty ones are an error."""
    regions = []
    for number, entry in enumerate(entries):
        where = f"{file_name}: proposal {number}"
        try:
            rle = field(entry, "segmentation", where, dict)
            regions.append(RunRegion.from_rle(rle, height, width))
        except (RegionError, KeyError) as error:
            raise DataError(f"{where}: {error}") from error
    return regions
