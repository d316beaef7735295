"""What is asked about an annotation, and the settings that change it."""

import numpy as np
import pytest

from input_pipeline import tasks, trajectory_text
from input_pipeline.data_config import DataConfig
from input_pipeline.records import Annotation
from input_pipeline.runs import RunRegion
from regionjax.regions import WHOLE_IMAGE, Region, box_from_locations, box_iou, locations_from_text


def test_tasks():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 15:33] = True
    red = RunRegion.from_mask(mask)
    trace = Region.from_points(np.linspace((-0.1, 0.2), (0.6, 0.7), 30))
    annotations = [
        Annotation("phrase", "red box", "1", red),
        Annotation("expression", "the red box", "2", red),
        Annotation("caption", "all of it here", "3"),
        Annotation("narration", "red box", "4", trace),
    ]
    made = {
        task: tasks.segment(task, annotation, 32)
        for annotation in annotations
        for task in tasks.TASKS[annotation.kind]
    }
    assert made.keys() == {"describe", "refer", "locate", "caption", "narrate"}
    assert {task: segment.prompt for task, segment in made.items()} == {
        "describe": "describe",
        "refer": "refer",
        "locate": "locate the red box",
        "caption": "",
        "narrate": "narrate",
    }
    assert made["caption"].region is WHOLE_IMAGE and made["caption"].target == "all of it here"
    assert made["narrate"].region is trace
    box = np.array([15 / 60, 10 / 40, 33 / 60, 30 / 40], np.float32)
    np.testing.assert_allclose(made["locate"].target_box, box)
    named = box_from_locations(locations_from_text(made["locate"].target), 32)
    assert box_iou(named, box) > 0.85


def test_what_is_in_a_region_is_said_in_normalised_text():
    """Hand cases of BLIP's caption processor, which has questions too; answers are left alone."""
    box = Region.from_box([0, 0, 0.5, 1])

    def said(task, annotation, prefix=""):
        return tasks.segment(task, annotation, 32, prefix=prefix, normalize=True).target

    raw = 'The "Red" box: (left);  no. 3!'
    for kind, task in (("phrase", "describe"), ("expression", "refer"), ("caption", "caption")):
        assert said(task, Annotation(kind, raw, "1", box)) == "the red box left no 3"
    assert said("refer", Annotation("expression", "The MAN.", "1", box), tasks.PART) == (
        "part of the man"
    )
    assert said("narrate", Annotation("narration", "A T-shirt, 'blue'?", "1", box)) == (
        "a t-shirt, 'blue'?"
    )
    assert said("caption", Annotation("caption", "A " * 60, "1")) == "a " * 49 + "a"
    assert said("caption", Annotation("caption", "!!", "1")) == "!!"  # rather than nothing
    asked = Annotation("question", 'Is it "No. 3"? ', "1", None, {"answer": "No. 3"})
    assert said("answer", asked) == "No. 3"
    prompts = tasks.PROMPTS | {"answer": "Question: {text} Short answer:"}
    question = tasks.segment("answer", asked, 32, prompts=prompts, normalize=True).prompt
    assert question == "Question: is it no 3? Short answer:"
    assert trajectory_text.normalized_question("T.V. (or  5:30)? " + "a " * 60) == (
        "tv or  530? " + "a " * 45 + "a"  # 50 words; the second space makes an empty one
    )
    assert tasks.segment("answer", asked, 32, prompts=prompts).prompt.startswith("Question: Is it")
    located = tasks.segment("locate", Annotation("expression", raw, "1", box), 32, normalize=True)
    assert located.prompt == f"locate {raw}"


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        (
            {"descrbe": "x"},
            r"prompts\['descrbe'\] is the prompt of no task; did you mean `describe`",
        ),
        ({"locate": "find it"}, "a prompt to locate has {text} once"),
        ({"answer": "{text} {text}"}, "a prompt to answer has {text} once"),
        ({"refer": "refer to {text}"}, "a prompt to refer has no {text}: that is the answer"),
        ({"locate": "find {words}"}, "{words} is not a place, {text} is"),
        ({"locate": "find {text:>9}"}, "{text} is not a place"),
        ({"locate": "find {}"}, "{} is not a place"),
        ({"locate": "find {text"}, "a brace is {{ or }}"),
        ({"caption": 3}, "= 3 is not text"),
    ],
)
def test_prompts_that_cannot_be(prompts, problem):
    with pytest.raises(ValueError, match=problem):
        DataConfig("", {"coco": 1.0}, prompts=prompts)


def test_questions_and_choices():
    asked = Annotation("question", "what is it?", "1", None, {"answer": "a hat", "answers": []})
    labels = {"choices": ["yes", "no"], "answer": 1, "rationales": ["so", "for"], "rationale": 0}
    choice = Annotation("choice", "is [0] here?", "2", None, labels)
    made = {
        task: tasks.segment(task, annotation, 32)
        for annotation in (asked, choice)
        for task in tasks.tasks_of(annotation)
    }
    assert {task: (segment.prompt, segment.target) for task, segment in made.items()} == {
        "answer": ("answer what is it?", "a hat"),
        "choose": ("answer is [0] here?", "no"),
        "justify": ("why is [0] here? no", "so"),
    }
    unlabelled = {"choices": ["yes", "no"], "rationales": ["so", "for"]}
    assert tasks.tasks_of(Annotation("choice", "is [0] here?", "2", None, unlabelled)) == ()
    assert tasks.tasks_of(Annotation("question", "what is it?", "1")) == ()
