"""What is asked about an annotation: the tasks, their prompts and their answers."""

import string

from input_pipeline.trajectory_text import normalized, normalized_question
from regionjax.batch import Segment
from regionjax.config import nearest
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
PART = "part of"  # begins the text of a region that shows one side of what is annotated, …
MORE = "more than"  # … and of one that shows another thing as well
ALL = tuple(task for tasks in TASKS.values() for task in tasks)
# What is said to the model; `data.prompts` changes them. {text} is what the annotation asks, so a
# prompt whose answer is that text has no place for it, and the others need it.
PROMPTS = {
    "describe": "describe",
    "refer": "refer",
    "narrate": "narrate",
    "caption": "",  # the contract of a whole-image caption
    "locate": "locate {text}",
    "answer": "answer {text}",
    "choose": "answer {text}",
    "justify": "why {text}",  # question and answer
}
_ASKED = ("locate", "answer", "choose", "justify")
_SAID = ("describe", "refer", "narrate", "caption")  # the answer is the annotation's text
# What has to be known for them, in Annotation.extra.
_LABELS = {"answer": {"answer"}, "choose": {"answer"}, "justify": {"answer", "rationale"}}


def tasks_of(annotation):
    """The tasks that an annotation can be made into: those of its kind whose answer is known."""
    of_kind = TASKS[annotation.kind]
    return tuple(task for task in of_kind if _LABELS.get(task, set()) <= annotation.extra.keys())


def all_prompts(changed):
    """PROMPTS with some of them changed.

    Args:
      changed: {task: template}.

    Raises:
      ValueError: a task that is not there, or a template with another field than {text},
        without it where the task needs it, or with it where it would give the answer away.
    """
    for task, template in changed.items():
        where = f"prompts[{task!r}]"
        if task not in PROMPTS:
            raise ValueError(f"{where} is the prompt of no task{nearest(task, PROMPTS)}")
        if not isinstance(template, str):
            raise ValueError(f"{where} = {template!r} is not text")
        try:
            fields = [
                part[1:] for part in string.Formatter().parse(template) if part[1] is not None
            ]
        except ValueError as error:
            raise ValueError(f"{where} = {template!r}: {error}; a brace is {{{{ or }}}}") from error
        if other := [name for name, *form in fields if name != "text" or form != ["", None]]:
            raise ValueError(f"{where} = {template!r}: {{{other[0]}}} is not a place, {{text}} is")
        if len(fields) != (task in _ASKED):
            expected = "has {text} once" if task in _ASKED else "has no {text}: that is the answer"
            raise ValueError(f"{where} = {template!r}; a prompt to {task} {expected}")
    return PROMPTS | dict(changed)


def prompt(task, text, prompts=PROMPTS, normalize=False):
    """The prompt of a task about an annotation with that text.

    With `normalize` (`data.normalize_text`) a question is asked as `normalized_question` has it;
    VCR's are not.
    """
    if normalize and task == "answer":
        text = normalized_question(text) or text
    return prompts[task].format(text=text)


def texts(task, annotation, prompts=PROMPTS, normalize=False):
    """(prompt, answer) of a task about an annotation; the answer of `locate` is "" (a box)."""
    text, extra = annotation.text, annotation.extra
    answer = "" if task == "locate" else text
    if task == "answer":
        answer = extra["answer"]
    elif task == "choose":
        answer = extra["choices"][extra["answer"]]
    elif task == "justify":
        text = f"{text} {extra['choices'][extra['answer']]}"
        answer = extra["rationales"][extra["rationale"]]
    return prompt(task, text, prompts, normalize), answer


def worded(task, answer, normalize):
    """An answer as a model learns, scores and gives it (`data.normalize_text`).

    Normalised where it says what is in a region or an image. Answers to questions stay as they are,
    and so does a text of which nothing would be left.
    """
    return normalized(answer) or answer if normalize and task in _SAID else answer


def segment(
    task, annotation, location_bins, region=None, prefix="", prompts=PROMPTS, normalize=False
):
    """The Segment of a task about an annotation.

    Args:
      task: one of tasks_of(annotation).
      annotation: an Annotation.
      location_bins: number of location tokens on a side.
      region: shown in place of the annotation's own (its box or points in it); `locate` shows
        the whole image whatever is given, because the region is the answer.
      prefix: what `region` is of it: "", PART or MORE.
      prompts: {task: template} of all tasks.
      normalize: see `worded` and `prompt`.
    """
    question, answer = texts(task, annotation, prompts, normalize)
    answer = worded(task, answer, normalize)
    if task == "locate":
        box = annotation.region.bounding_box()
        answer = locations_to_text(box_to_locations(box, location_bins))
        return Segment(WHOLE_IMAGE, question, answer, target_box=box)
    answer = f"{prefix} {answer}" if prefix else answer
    return Segment(annotation.region if region is None else region, question, answer)
