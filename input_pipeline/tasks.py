"""What is asked about an annotation: the tasks, their prompts and their answers."""

from regionjax.batch import Segment
from regionjax.regions import WHOLE_IMAGE, box_to_locations, locations_to_text

# Kind of annotation: the tasks that can be made of it.
TASKS = {
    "phrase": ("describe",),
    "expression": ("refer", "locate"),
    "narration": ("narrate",),
    "caption": ("caption",),
    "question": ("answer",),
    "choice": ("choose", "justify"),
}
PART = "part of"  # begins the text of a region that shows one side of what is annotated
ALL = tuple(task for tasks in TASKS.values() for task in tasks)
_PROMPTS = {
    "describe": "describe",
    "refer": "refer",
    "narrate": "narrate",
    "caption": "",  # the contract of a whole-image caption
    "locate": "locate {text}",
    "answer": "answer {text}",
    "choose": "answer {text}",
    "justify": "why {text}",
}
_LABELS = {"answer": "answer", "choose": "answer", "justify": "rationale"}  # in Annotation.extra


def tasks_of(annotation):
    """The tasks that an annotation can be made into: those of its kind whose answer is known."""
    of_kind = TASKS[annotation.kind]
    return tuple(task for task in of_kind if _LABELS.get(task, "") in {"", *annotation.extra})


def prompt(task, text):
    """The prompt of a task about an annotation with that text."""
    return _PROMPTS[task].format(text=text)


def texts(task, annotation):
    """(prompt, answer) of a task about an annotation; the answer of `locate` is "" (a box)."""
    text, extra = annotation.text, annotation.extra
    if task == "answer":
        return prompt(task, text), extra["answer"]
    if task == "choose":
        return prompt(task, text), extra["choices"][extra["answer"]]
    if task == "justify":
        asked = f"{text} {extra['choices'][extra['answer']]}"
        return prompt(task, asked), extra["rationales"][extra["rationale"]]
    return prompt(task, text), "" if task == "locate" else text


def segment(task, annotation, location_bins, region=None, part=False):
    """The Segment of a task about an annotation.

    Args:
      task: one of tasks_of(annotation).
      annotation: an Annotation.
      location_bins: number of location tokens on a side.
      region: shown in place of the annotation's own (its box or points in it); `locate` shows
        the whole image whatever is given, because the region is the answer.
      part: whether `region` is only one side of it.
    """
    question, answer = texts(task, annotation)
    if task == "locate":
        box = annotation.region.bounding_box()
        answer = locations_to_text(box_to_locations(box, location_bins))
        return Segment(WHOLE_IMAGE, question, answer, target_box=box)
    answer = f"{PART} {answer}" if part else answer
    return Segment(annotation.region if region is None else region, question, answer)
