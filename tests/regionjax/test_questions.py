"""Questions made of records."""

import dataclasses

import numpy as np

from regionjax.evaluators.questions import make_questions
from regionjax.regions import WHOLE_IMAGE, Region


@dataclasses.dataclass
class Annotation:
    kind: str
    text: str
    region: Region = WHOLE_IMAGE


@dataclasses.dataclass(eq=False)
class Record:
    image_id: str
    annotations: list
    proposals: tuple = ()


def prompt(task, text):
    return f"{task} {text}" if task == "locate" else task


def corner(rows, columns):
    mask = np.zeros((4, 4), bool)
    mask[:rows, :columns] = True
    return Region.from_mask(mask)


CAT, DOG, BOX = corner(2, 2), corner(1, 3), Region.from_box((0, 0, 0.5, 0.5))
COCO = Record(
    "1",
    [
        Annotation("phrase", "cat", CAT),
        Annotation("expression", "cat", CAT),
        Annotation("phrase", "dog", DOG),
        Annotation("phrase", "fog", BOX),
        Annotation("caption", "a cat"),
        Annotation("caption", "a cat and a dog"),
        Annotation("caption", "a cat"),
        Annotation("narration", "here is a cat", Region.from_points([(0, 0), (0.1, 0)])),
    ],
)
REFER = Record("2", [Annotation("expression", "the left dog", DOG)], (DOG, CAT))


def test_each_kind_becomes_its_question():
    made = make_questions({"coco": [COCO]}, prompt, lambda *texts: True)
    assert [(q.prompt, q.references) for q in made.regions] == [
        ("describe", ("cat",)),
        ("describe", ("dog",)),
        ("describe", ("fog",)),
    ]
    assert made.regions[2].region().kind == "box"
    (narration,) = made.narrations
    assert (narration.prompt, narration.region().kind) == ("narrate", "points")
    (caption,) = made.captions
    assert caption.references == ("a cat", "a cat and a dog")
    assert caption.region() is WHOLE_IMAGE
    (expression,) = made.expressions
    assert (expression.refer_prompt, expression.locate_prompt) == ("refer", "locate cat")
    assert expression.box.tolist() == [0, 0, 0.5, 0.5]
    masks = [proposal.mask for proposal in expression.proposals()]
    np.testing.assert_array_equal(masks, [CAT.mask, DOG.mask])  # its own, as it has no others


def test_referring_expressions_go_before_names():
    made = make_questions({"coco": [COCO], "refer": [REFER]}, prompt, lambda *texts: True)
    assert [q.expression for q in made.expressions] == ["the left dog"]
    masks = [proposal.mask for proposal in made.expressions[0].proposals()]
    np.testing.assert_array_equal(masks, [DOG.mask, CAT.mask])
    assert len(made.regions) == 3


def test_what_does_not_fit_is_left_out():
    made = make_questions({"coco": [COCO]}, prompt, lambda question, answer: len(question) < 9)
    assert not made.expressions  # "locate cat" is too long
    assert len(made.regions) == 3  # their texts never enter the batch
