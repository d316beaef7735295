"""What is asked about an annotation: the tasks, their prompts and their answers."""

from regionjax.batch import Segment
from regionjax.regions import WHOLE_IMAGE, box_to_locations, locations_to_text

# Kind of annotation: the tasks that can be made of it.
TASKS = {
    "phrase": ("describe",),
    "expression": ("refer", "locate"),
    "narration": ("narrate",),
    "caption": ("caption",),
}
PART = "part of"  # begins the text of a region that shows one side of what is annotated
ALL = tuple(task for tasks in TASKS.values() for task in tasks)
_PROMPTS = {
    "describe": "describe",
    "refer": "refer",
    "narrate": "narrate",
    "caption": "",  # the contract of a whole-image caption
    "locate": "locate {text}",
}


def prompt(task, text):
    """The prompt of a task about an annotation with that text."""
    return _PROMPTS[task].format(text=text)


def segment(task, annotation, location_bins, region=None, part=False):
    """The Segment of a task about an annotation.

    Args:
      task: a task of the annotation's kind.
      annotation: an Annotation.
      location_bins: number of location tokens on a side.
      region: shown in place of the annotation's own (its box or points in it); `locate` shows
        the whole image whatever is given, because the region is the answer.
      part: whether `region` is only one side of it.
    """
    question = prompt(task, annotation.text)
    if task == "locate":
        box = annotation.region.bounding_box()
        answer = locations_to_text(box_to_locations(box, location_bins))
        return Segment(WHOLE_IMAGE, question, answer, target_box=box)
    answer = f"{PART} {annotation.text}" if part else annotation.text
    return Segment(annotation.region if region is None else region, question, answer)
