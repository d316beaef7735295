"""From annotated images to questions with known answers."""

import collections
import copy
import dataclasses
import functools

from regionjax.evaluators.choices import numbered_prompts
from regionjax.evaluators.items import Asked, Described, MultipleChoice, Referred
from regionjax.regions import WHOLE_IMAGE


@dataclasses.dataclass(frozen=True)
class Questions:
    """Items of each kind; items of one image stand together.

    Attributes:
      regions: list of Described, names of regions.
      narrations: list of Described, sentences along a trace.
      captions: list of Described, one an image with all its captions.
      expressions: {source: list of Referred}.
      questions: {source: list of Asked}.
      choices: {source: list of MultipleChoice}.
      left_out: {kind and why: how many were not asked}.
      own_masks: the sources of `expressions` whose proposals are the annotated masks themselves.
    """

    regions: list
    narrations: list
    captions: list
    expressions: dict
    questions: dict = dataclasses.field(default_factory=dict)
    choices: dict = dataclasses.field(default_factory=dict)
    left_out: dict = dataclasses.field(default_factory=dict)
    own_masks: tuple[str, ...] = ()

    def counts(self):
        """{kind or source: number of items}, with what was left out."""
        kinds = ("regions", "narrations", "captions")
        sizes = {kind: len(getattr(self, kind)) for kind in kinds}
        sizes["expressions"] = sum(map(len, self.expressions.values()))
        for found in (self.questions, self.choices):
            for source, items in found.items():
                sizes[source] = sizes.get(source, 0) + len(items)
        return sizes | self.left_out


def make_questions(records, prompt, fits, worded=lambda task, text: text):
    """Everything that can be asked about records.

    Expressions come from the sources that have nothing else, as referring expressions do; names
    that happen to be unique in their image (COCO's categories) stand in only where there are no
    such sources. A source without any proposals is given the masks of its own annotations.

    Args:
      records: {source: list of Record}; a Record has image_id, width, height, image (bytes),
        proposals (regions with a mask) and annotations with kind, text and region.
      prompt: (task, text) → the prompt of a task about an annotation of that text.
      fits: (prompt, target) → whether both fit into a batch; what does not is left out.
      worded: (task, text) → a text as the model was taught to say it; expressions are scored so.
        Captions are compared with what the annotators wrote.
    """
    regions, narrations, captions = [], [], []
    expressions = {"made for it": {}, "by the way": {}}
    own_masks = [name for name, found in records.items() if not any(r.proposals for r in found)]
    questions, choices = collections.defaultdict(list), collections.defaultdict(list)
    left_out = collections.Counter()
    for name, record in ((name, record) for name, found in records.items() for record in found):
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
            captions.append(Described(record, lambda: WHOLE_IMAGE, question, tuple(texts)))
        shown = _own_regions(record) if name in own_masks else record.proposals
        proposals = functools.partial(_all_fresh, shown)
        purpose = "made for it" if by_kind.keys() == {"expression"} else "by the way"
        for annotation in by_kind.get("expression", ()):
            refer, locate = (prompt(task, annotation.text) for task in ("refer", "locate"))
            expression = worded("refer", annotation.text)
            if not (fits(refer, expression) and fits(locate, "")):
                left_out["expressions_too_long"] += 1
            else:
                expressions[purpose].setdefault(name, []).append(
                    Referred(
                        record=record,
                        region=_fresh(annotation.region),
                        expression=expression,
                        refer_prompt=refer,
                        locate_prompt=locate,
                        box=annotation.region.bounding_box(),
                        proposals=proposals,
                    )
                )
        for annotation in by_kind.get("question", ()):
            if item := _asked(record, annotation, prompt, fits, left_out):
                questions[record.source].append(item)
        for annotation in by_kind.get("choice", ()):
            if item := _choice(record, annotation, prompt, fits, left_out):
                choices[record.source].append(item)
    chosen = expressions["made for it"] or expressions["by the way"]
    return Questions(
        regions=regions,
        narrations=narrations,
        captions=captions,
        expressions=chosen,
        questions=dict(questions),
        choices=dict(choices),
        left_out=dict(left_out),
        own_masks=tuple(name for name in own_masks if name in chosen),
    )


def _asked(record, annotation, prompt, fits, left_out):
    """An Asked, or None if the question is too long."""
    extra, question = annotation.extra, prompt("answer", annotation.text)
    answers = tuple(extra.get("answers", ()))
    agreed = collections.Counter(answers).most_common(1)  # of the most, where no answer is given
    if not fits(question, ""):
        left_out["questions_too_long"] += 1
        return None
    return Asked(
        record=record,
        region=_fresh(annotation.region),
        prompt=question,
        question=annotation.text,
        question_id=annotation.id,
        answer=extra.get("answer", agreed[0][0] if agreed else None),
        answers=answers,
        answer_type=extra.get("answer_type", ""),
    )


def _choice(record, annotation, prompt, fits, left_out):
    """A MultipleChoice, or None if a text is too long or the right answer is not known."""
    text, extra = annotation.text, annotation.extra
    if "answer" not in extra:
        left_out["choices_without_answer"] += 1
        return None
    choices, right = tuple(extra["choices"]), extra["answer"]
    rationales = tuple(extra.get("rationales", ())) if "rationale" in extra else ()
    ask = prompt("choose", text)
    why = prompt("justify", f"{text} {choices[right]}")  # question and answer, as in training
    pairs = [(ask, choice) for choice in choices] + [(why, reason) for reason in rationales]
    if not all(fits(*pair) for pair in pairs):
        left_out["choices_too_long"] += 1
        return None
    numbered = numbered_prompts(text, choices, right, rationales)
    return MultipleChoice(
        record=record,
        region=_fresh(annotation.region),
        question=text,
        prompt=ask,
        choices=choices,
        answer=right,
        why_prompt=why,
        rationales=rationales,
        rationale=extra.get("rationale"),
        numbered=numbered if all(fits(text, "") for text in numbered) else None,
    )


def _fresh(region):
    """() → a copy of a region, so that the dense mask it makes when used is not kept.

    The whole image stays the one that it is known by.
    """
    return functools.partial(copy.copy, region) if region is not WHOLE_IMAGE else _whole_image


def _whole_image():
    return WHOLE_IMAGE


def _all_fresh(regions):
    return [copy.copy(region) for region in regions]


def _own_regions(record):
    """The regions of a record's annotations that have a mask, each once."""
    regions = {id(a.region): a.region for a in record.annotations if a.region.kind == "mask"}
    return list(regions.values())
