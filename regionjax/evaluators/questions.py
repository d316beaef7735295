"""From annotated images to questions with known answers."""

import copy
import dataclasses
import functools

from regionjax.evaluators.items import Described, Referred
from regionjax.regions import WHOLE_IMAGE


@dataclasses.dataclass(frozen=True)
class Questions:
    """Items of each kind; items of one image stand together.

    Attributes:
      regions: list of Described, names of regions.
      narrations: list of Described, sentences along a trace.
      captions: list of Described, one an image with all its captions.
      expressions: list of Referred.
    """

    regions: list
    narrations: list
    captions: list
    expressions: list


def make_questions(records, prompt, fits):
    """Everything that can be asked about records.

    Expressions come from the sources that have nothing else, as referring expressions do; names
    that happen to be unique in their image (COCO's categories) stand in only where there are no
    such sources. A record without proposals is given the masks of its own annotations.

    Args:
      records: {source: list of Record}; a Record has image_id, width, height, image (bytes),
        proposals (regions with a mask) and annotations with kind, text and region.
      prompt: (task, text) → the prompt of a task about an annotation of that text.
      fits: (prompt, target) → whether both fit into a batch; what does not is left out.
    """
    regions, narrations, captions = [], [], []
    expressions = {"made for it": [], "by the way": []}
    for record in (record for found in records.values() for record in found):
        by_kind = {}
        for annotation in record.annotations:
            by_kind.setdefault(annotation.kind, []).append(annotation)
        for kind, task, items in (
            ("phrase", "describe", regions),
            ("narration", "narrate", narrations),
        ):
            for annotation in by_kind.get(kind, ()):
                question = prompt(task, annotation.text)
                items.append(
                    Described(record, _fresh(annotation.region), question, (annotation.text,))
                )
        if texts := [annotation.text for annotation in by_kind.get("caption", ())]:
            question = prompt("caption", "")
            references = tuple(dict.fromkeys(texts))
            captions.append(Described(record, lambda: WHOLE_IMAGE, question, references))
        proposals = functools.partial(_all_fresh, record.proposals or _own_regions(record))
        purpose = "made for it" if by_kind.keys() == {"expression"} else "by the way"
        for annotation in by_kind.get("expression", ()):
            refer, locate = (prompt(task, annotation.text) for task in ("refer", "locate"))
            if fits(refer, annotation.text) and fits(locate, ""):
                expressions[purpose].append(
                    Referred(
                        record=record,
                        region=_fresh(annotation.region),
                        expression=annotation.text,
                        refer_prompt=refer,
                        locate_prompt=locate,
                        box=annotation.region.bounding_box(),
                        proposals=proposals,
                    )
                )
    chosen = expressions["made for it"] or expressions["by the way"]
    return Questions(regions, narrations, captions, chosen)


def _fresh(region):
    """() → a copy of a region, so that the dense mask it makes when used is not kept."""
    return functools.partial(copy.copy, region)


def _all_fresh(regions):
    return [copy.copy(region) for region in regions]


def _own_regions(record):
    """The regions of a record's annotations that have a mask, each once."""
    regions = {id(a.region): a.region for a in record.annotations if a.region.kind == "mask"}
    return list(regions.values())
