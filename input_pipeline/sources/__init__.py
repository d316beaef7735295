"""Public annotation formats, one file each; source.py says what a source is."""

import pathlib

from input_pipeline.errors import DataError
from input_pipeline.sources.coco import Coco, CocoCaptions, CocoInstances
from input_pipeline.sources.coco_karpathy import CocoKarpathy
from input_pipeline.sources.flickr30k_entities import Flickr30kEntities
from input_pipeline.sources.localized_narratives import LocalizedNarratives
from input_pipeline.sources.own_regions import OwnRegions
from input_pipeline.sources.refer import REFER_SETS
from input_pipeline.sources.referring_json import ReferringJson
from input_pipeline.sources.tfds_records import TfdsRecords
from input_pipeline.sources.triplets import Triplets
from input_pipeline.sources.vcr import Vcr
from input_pipeline.sources.video_localized_narratives import VideoLocalizedNarratives
from input_pipeline.sources.visual_genome import VisualGenome
from input_pipeline.sources.vqa import Gqa, Okvqa, Vqav2
from regionjax.config import nearest

# Name: (what makes the source from `annotations` and `images`, where these lie below a data root).
SOURCES = {
    "coco": (Coco, "annotations", "."),
    "coco_instances": (CocoInstances, "annotations", "."),
    "coco_captions": (CocoCaptions, "annotations", "."),
    "coco_karpathy": (CocoKarpathy, "annotations", "."),
    "flickr30k_entities": (Flickr30kEntities, "flickr30k_entities", "."),
    "localized_narratives": (LocalizedNarratives, "localized_narratives", "."),
    "video_localized_narratives": (VideoLocalizedNarratives, "vidlns", "frames"),
    "visual_genome": (VisualGenome, "visual_genome", "."),
    **{set_.name: (set_, f"refer/{set_.folder}", set_.photographs) for set_ in REFER_SETS},
    "triplets": (Triplets, "triplets", "triplets"),
    "referring_json": (ReferringJson, "referring", "."),
    "vcr": (Vcr, "vcr1annots", "vcr1images"),
    "vqav2": (Vqav2, "vqav2", "."),
    "okvqa": (Okvqa, "okvqa", "."),
    "gqa": (Gqa, "gqa", "gqa/images"),
    "own_regions": (OwnRegions, "own_regions", "own_regions"),
    "tfds": (TfdsRecords, "tfds", "tfds"),
}


def open_source(name, annotations, images):
    """The source of that name over files that lie where the user says.

    Raises:
      DataError: an unknown name, or a place that is not there.
    """
    if name not in SOURCES:
        raise DataError(f"{name} is not a source{nearest(name, SOURCES)}")
    annotations, images = pathlib.Path(annotations), pathlib.Path(images)
    for place in (annotations, images):
        if not place.exists():
            raise DataError(f"no file or folder {place}")
    return SOURCES[name][0](annotations, images)


def source_below(root, name):
    """The source of that name in the usual layout below a data root; errors as open_source."""
    root = pathlib.Path(root)
    if not root.is_dir():
        raise DataError(f"no data folder {root}")
    _, annotations, images = SOURCES.get(name, (None, ".", "."))
    return open_source(name, root / annotations, root / images)
