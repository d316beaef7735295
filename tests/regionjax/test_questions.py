"""Questions made of records."""

import dataclasses
import types

import numpy as np

from input_pipeline import tasks
from input_pipeline.data_config import DataConfig
from regionjax.evaluate import questions_about
from regionjax.evaluators.questions import make_questions
from regionjax.regions import WHOLE_IMAGE, Region


@dataclasses.dataclass
class Annotation:
    kind: str
    text: str
    region: Region = WHOLE_IMAGE
    extra: dict = dataclasses.field(default_factory=dict)
    id: str = ""


@dataclasses.dataclass(eq=False)
class Record:
    image_id: str
    annotations: list
    proposals: tuple = ()
    source: str = ""


def prompt(task, text):
    return f"{task} {text}" if task in ("locate", "answer", "choose", "justify") else task


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
    assert caption.references == ("a cat", "a cat and a dog", "a cat")  # each as often as written
    assert caption.region() is WHOLE_IMAGE
    (expression,) = made.expressions["coco"]
    assert (expression.refer_prompt, expression.locate_prompt) == ("refer", "locate cat")
    assert expression.box.tolist() == [0, 0, 0.5, 0.5]
    masks = [proposal.mask for proposal in expression.proposals()]
    np.testing.assert_array_equal(masks, [CAT.mask, DOG.mask])  # its own, as it has no others


def test_referring_expressions_go_before_names():
    made = make_questions({"coco": [COCO], "refer": [REFER]}, prompt, lambda *texts: True)
    assert made.expressions.keys() == {"refer"} and not made.own_masks
    (item,) = made.expressions["refer"]
    assert item.expression == "the left dog"
    masks = [proposal.mask for proposal in item.proposals()]
    np.testing.assert_array_equal(masks, [DOG.mask, CAT.mask])
    assert len(made.regions) == 3


def test_sets_of_expressions_are_kept_apart_and_proposals_are_no_answers():
    """Where some images of a set have proposals, one without has none; else the annotated ones."""
    bare = dataclasses.replace(REFER, image_id="4", proposals=())
    records = {"refcoco": [REFER, bare], "refcocog": [bare], "names": [COCO]}
    made = make_questions(records, prompt, lambda *texts: True)
    assert made.own_masks == ("refcocog",) and made.counts()["expressions"] == 3
    counts = {
        name: [len(item.proposals()) for item in items] for name, items in made.expressions.items()
    }
    assert counts == {"refcoco": [2, 0], "refcocog": [1]}


def test_expressions_are_scored_as_they_are_learnt():
    """With data.normalize_text; captions are compared with what was written."""
    things = [Annotation("expression", "The Dog!", DOG), Annotation("caption", "A Dog.")]
    record = Record("3", things)
    tokenizer = types.SimpleNamespace(encode=str.split)
    lengths = {"prompt_length": 9, "target_length": 9, "text_length": 9}
    spec = types.SimpleNamespace(**lengths)
    for normalize, expected in ((True, "the dog"), (False, "The Dog!")):
        data = DataConfig("", {"coco": 1.0}, normalize_text=normalize)
        made = questions_about({"refer": [record]}, data, spec, tokenizer)
        (item,) = made.expressions["refer"]
        learnt = tasks.segment("refer", things[0], 16, normalize=normalize)
        assert item.expression == learnt.target == expected
        assert item.locate_prompt == "locate The Dog!"
        assert made.captions[0].references == ("A Dog.",)


def test_what_does_not_fit_is_left_out():
    made = make_questions({"coco": [COCO]}, prompt, lambda question, answer: len(question) < 9)
    assert not made.expressions  # "locate cat" is too long
    assert made.left_out == {"expressions_too_long": 1}
    assert len(made.regions) == 3  # their texts never enter the batch


CHOICE = {"choices": ["a", "b"], "answer": 1, "rationales": ["r", "s", "t"], "rationale": 2}
ASKED = Record(
    "3",
    [
        Annotation("question", "what ?", WHOLE_IMAGE, {"answer": "x", "answers": ["x", "y"]}, "7"),
        Annotation("question", "who ?", CAT, {"answer": "z", "answer_type": "other"}, "8"),
        Annotation("question", "when ?", WHOLE_IMAGE, {}, "9"),
        Annotation("question", "how ?", WHOLE_IMAGE, {"answers": ["u", "v", "v"]}, "13"),
        Annotation("choice", "is [0] ?", DOG, CHOICE, "10"),
        Annotation("choice", "is it ?", WHOLE_IMAGE, {"choices": ["a"], "answer": 0}, "11"),
        Annotation("choice", "is not ?", WHOLE_IMAGE, {"choices": ["a"]}, "12"),
    ],
    source="vcr",
)


def test_questions_and_choices():
    made = make_questions({"x": [ASKED], "coco": [COCO]}, prompt, lambda *texts: True)
    assert made.questions.keys() == made.choices.keys() == {"vcr"}
    what, who, when, how = made.questions["vcr"]
    assert (what.prompt, what.question_id, what.answers) == ("answer what ?", "7", ("x", "y"))
    assert what.region() is WHOLE_IMAGE and who.region().kind == "mask"
    assert (who.answer, who.answers, who.answer_type) == ("z", (), "other")
    assert when.answer is None and how.answer == "v"  # which most of them said
    with_reasons, without = made.choices["vcr"]
    assert (with_reasons.prompt, with_reasons.why_prompt) == (
        "choose is [0] ?",
        "justify is [0] ? b",
    )
    assert (with_reasons.answer, with_reasons.rationale) == (1, 2)
    assert with_reasons.numbered[0].startswith("Question: is [0] ? 1. a 2. b")
    assert (without.rationales, without.rationale, without.numbered[1]) == ((), None, "")
    assert made.left_out == {"choices_without_answer": 1}
    assert made.counts() == {
        "regions": 3,
        "narrations": 1,
        "captions": 1,
        "expressions": 1,
        "vcr": 6,
        "choices_without_answer": 1,
    }


def test_long_questions_are_counted():
    made = make_questions({"x": [ASKED]}, prompt, lambda question, answer: answer != "r")
    assert len(made.choices["vcr"]) == 1 and made.left_out["choices_too_long"] == 1
    made = make_questions({"x": [ASKED]}, prompt, lambda question, answer: "1. " not in question)
    assert [item.numbered for item in made.choices["vcr"]] == [None, None]
    made = make_questions({"x": [ASKED]}, prompt, lambda question, answer: False)
    assert made.left_out["questions_too_long"] == 4
