"""VCR: questions with outlines written by hand, and the real line with outlines made up."""

import collections
import json

import numpy as np
import pytest
from reading import edit, photograph, read

from input_pipeline import tasks
from input_pipeline.errors import DataError
from input_pipeline.sources.vcr import Vcr

WIDTH, HEIGHT = 60, 40


def line(number=0, image="movie/a", **changes):
    content = {
        "movie": "movie",
        "objects": ["person", "dog", "person", "chair"],
        "img_fn": f"{image}.jpg",
        "metadata_fn": f"{image}.json",
        "question": ["Does", [2], "like", [1], "?"],
        "answer_choices": [["Yes", "."], [[0, 2], "do", "."], ["No", [0], "."], ["Maybe"]],
        "answer_label": 2,
        "rationale_choices": [["a"], [[3], "is", "near"], ["c"], ["d"]],
        "rationale_label": 1,
        "img_id": "val-0",
        "annot_id": f"val-{number}",
        "question_number": number,
    } | changes
    return {key: value for key, value in content.items() if value is not None}


def metadata(**changes):
    """Objects: a square, two outlines, only a box, nothing."""
    return {
        "boxes": [
            [2, 3, 12, 13, 0.9],
            [20, 0, 40, 10, 0.8],
            [30.5, 20, 50, 99, 0.7],
            [0, 0, 0, 0, 0.1],
        ],
        "segms": [
            [[[2, 3], [12, 3], [12, 13], [2, 13]]],
            [
                [[20, 0], [30, 0], [30, 5], [20, 5]],
                [[30, 5], [40, 5], [40, 10], [30, 10]],
                [[1, 2]],
            ],
            [],
            [],
        ],
        "names": ["person", "dog", "person", "chair"],
        "width": WIDTH,
        "height": HEIGHT,
    } | changes


@pytest.fixture
def source(tmp_path):
    for name in ("movie/a", "movie/b"):
        photograph(tmp_path / f"{name}.jpg", WIDTH, HEIGHT)
        (tmp_path / f"{name}.json").write_text(json.dumps(metadata()))
    return Vcr(tmp_path, tmp_path)


def write(source, *lines, split="val"):
    text = "".join(json.dumps(content) + "\n" for content in lines)
    (source.annotations / f"{split}.jsonl").write_text(text)


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


FIRST = rectangle(2, 3, 12, 13)
SECOND = rectangle(20, 0, 30, 5) | rectangle(30, 5, 40, 10)
THIRD = rectangle(30, 20, 50, 40)  # the pixels that its box touches


def test_objects_and_questions(source):
    write(source, line())
    (record,), tally = read(source, "val")
    assert (record.image_id, record.file_name, record.coco_id) == ("val-0", "movie/a.jpg", None)
    *objects, question = record.annotations
    assert [(a.kind, a.id, a.text) for a in objects] == [
        ("phrase", "0", "person"),
        ("phrase", "1", "dog"),
        ("phrase", "2", "person"),
    ]
    np.testing.assert_array_equal(objects[0].region.mask, FIRST)
    np.testing.assert_array_equal(objects[1].region.mask, SECOND)
    np.testing.assert_allclose(
        objects[2].region.box * (WIDTH, HEIGHT, WIDTH, HEIGHT), [30.5, 20, 50, 40], rtol=1e-6
    )
    assert (question.kind, question.id) == ("choice", "val-0")
    assert question.text == "Does [2] like [1] ?"
    assert question.extra == {
        "choices": ["Yes .", "[0] [2] do .", "No [0] .", "Maybe"],
        "answer": 2,
        "rationales": ["a", "[3] is near", "c", "d"],
        "rationale": 1,
    }
    np.testing.assert_array_equal(question.region.mask, FIRST | SECOND | THIRD)
    assert tasks.tasks_of(question) == ("choose", "justify")
    assert tally == {
        "outlines_of_two_points": 1,
        "boxes_clipped": 1,
        "boxes_without_area": 1,
        "regions_by_box": 1,
    }


def test_questions_of_an_image_are_gathered(source):
    nothing = {"question": ["What", "?"], "answer_choices": [["a"], ["b"]], "answer_label": 0}
    write(
        source,
        line(0, question=["Is", [1], "?"], answer_choices=[["yes"], ["no"]], answer_label=1),
        line(1, **nothing),
        line(2, "movie/b"),
        line(3, **nothing),
    )
    records, _ = read(source, "val")
    choices = [[a for a in r.annotations if a.kind == "choice"] for r in records]
    assert [[a.id for a in found] for found in choices] == [
        ["val-0", "val-1"],
        ["val-2"],
        ["val-3"],
    ]
    assert [r.file_name[-5] for r in records] == ["a", "b", "a"]
    dog = next(a for a in records[0].annotations if a.id == "1")
    assert choices[0][0].geometry is dog.geometry
    assert choices[0][1].geometry is None


def test_a_split_without_labels(source):
    write(source, line(answer_label=None, rationale_label=None), split="test")
    (record,), _ = read(source, "test")
    question = record.annotations[-1]
    assert question.extra.keys() == {"choices", "rationales"}
    assert tasks.tasks_of(question) == ()


def test_references_to_nothing(source):
    asked = ["Are", [3, 4], "or", [-1], "there", "?"]
    write(source, line(question=asked, answer_choices=[["a"]], answer_label=0))
    (record,), tally = read(source, "val")
    question = record.annotations[-1]
    assert question.geometry is None and question.text == "Are [3] [4] or [-1] there ?"
    assert tally["references_to_no_object"] == 2 and tally["references_without_region"] == 1


def test_outlines_without_a_pixel(source):
    thin = [[[[2, 3.1], [12, 3.1], [12, 3.2]]], *metadata()["segms"][1:]]
    edit(source.images / "movie/a.json", lambda content: content.update(segms=thin))
    write(source, line())
    (record,), tally = read(source, "val")
    assert tally["masks_without_pixel"] == 1 and tally["regions_by_box"] == 2
    assert record.annotations[0].region.kind == "box"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_fn": None}, "val.jsonl, line 2 has no `img_fn`"),
        ({"question": "Why?"}, "line 2: `question` is a str"),
        ({"question": [["a"]]}, r"line 2: objects \['a'\] are not numbers"),
        ({"answer_choices": ["Yes"]}, "line 2: a text is a str"),
        ({"answer_choices": None}, "line 2 has no `answer_choices`"),
        ({"answer_label": 4}, "line 2: `answer_label` is 4 of 4 choices"),
        ({"rationale_label": "1"}, "line 2: `rationale_label` is '1' of 4"),
        ({"objects": ["person"]}, "line 2: `objects` are not those of the line before"),
    ],
)
def test_errors_of_lines(source, changes, message):
    write(source, line(), line(1, **changes))
    with pytest.raises(DataError, match=message):
        read(source, "val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segms": [[]]}, "movie/a.json: `segms` of 1 objects, .*line 1 names 4"),
        ({"boxes": {}}, "movie/a.json has no list `boxes`"),
        ({"width": 61}, "movie/a.json: `width` is 61, movie/a.jpg has 60x40 pixels"),
        ({"segms": [[[[1, 2], [3]]], [], [], []]}, "movie/a.json: object 0: "),
        ({"segms": [[[[1, 2], [3, 4], [5, float("nan")]]], [], [], []]}, "object 0: .*not finite"),
        ({"boxes": [[1, 2], [], [], []], "segms": [[], [], [], []]}, r"object 0: box \[1, 2\]"),
    ],
)
def test_errors_of_metadata(source, changes, message):
    edit(source.images / "movie/a.json", lambda content: content.update(changes))
    write(source, line())
    with pytest.raises(DataError, match=message):
        read(source, "val")


def test_missing_metadata(source):
    write(source, line())
    (source.images / "movie/a.json").unlink()
    with pytest.raises(DataError, match="no file .*movie/a.json"):
        read(source, "val")


def test_the_real_line(shared_data, tmp_path):
    (content,) = [
        json.loads(text)
        for text in (shared_data / "vcr/train_sample.jsonl").read_text().splitlines()
    ]
    photograph(tmp_path / content["img_fn"], 200, 100)
    count = len(content["objects"])
    outlines = [[[[10 * n, 0], [10 * n + 8, 0], [10 * n + 8, 50]]] for n in range(count)]
    boxes = [[10 * n, 0, 10 * n + 8, 50, 1] for n in range(count)]
    (tmp_path / content["metadata_fn"]).write_text(json.dumps({"boxes": boxes, "segms": outlines}))
    source = Vcr(shared_data / "vcr", tmp_path)
    with pytest.raises(DataError, match="no file .*train.jsonl; did you mean `train_sample.jsonl`"):
        source.files("train")
    (record,), tally = read(source, "train_sample")
    *objects, question = record.annotations
    assert not tally and collections.Counter(a.text for a in objects) == {"person": 3, "car": 1}
    assert question.text == "Does [2] feel comfortable ?" and question.id == "train-0"
    assert question.geometry is objects[2].geometry
    extra = question.extra
    # The line holds the right answer and rationale a second time, as they were written.
    assert extra["choices"][extra["answer"]].removesuffix(" .") == content["answer_orig"]
    right = extra["rationales"][extra["rationale"]]
    assert right.removesuffix(" .") == content["rationale_orig"]
    assert tasks.texts("choose", question)[1] == extra["choices"][1]
