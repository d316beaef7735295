"""VQAv2, OK-VQA and GQA: minimal files in the published form, and VQAv2's real annotations."""

import collections
import json
import shutil

import pytest
from reading import edit, photograph, read

from input_pipeline import tasks
from input_pipeline.errors import DataError
from input_pipeline.sources.vqa import Gqa, Okvqa, Vqav2


def question(identifier, image_id, text):
    return {"image_id": image_id, "question": text, "question_id": identifier}


def answers(identifier, image_id, texts, agreed=None, answer_type="other"):
    entry = {
        "question_id": identifier,
        "image_id": image_id,
        "question_type": "what",
        "answer_type": answer_type,
        "answers": [
            {"answer": text, "answer_confidence": "yes", "answer_id": number}
            for number, text in enumerate(texts, start=1)
        ],
    }
    return entry if agreed is None else entry | {"multiple_choice_answer": agreed}


def write(source, subtype, questions, annotations=None):
    files = {f"{source.prefix}OpenEnded_mscoco_{subtype}_questions.json": {"questions": questions}}
    if annotations is not None:
        files[f"{source.prefix}mscoco_{subtype}_annotations.json"] = {"annotations": annotations}
    for name, content in files.items():
        (source.annotations / name).write_text(json.dumps({"info": {}, "license": {}} | content))


@pytest.fixture
def vqav2(tmp_path):
    """Two photographs; the questions of the first are not adjacent."""
    source = Vqav2(tmp_path, tmp_path)
    for number in (9, 25):
        photograph(tmp_path / f"train2014/COCO_train2014_{number:012d}.jpg")
    write(
        source,
        "train2014",
        [
            question(9000, 9, "What is  this? "),
            question(25000, 25, "Is it red?"),
            question(9001, 9, "How many?"),
        ],
        [
            answers(9001, 9, ["two"] * 4 + ["2"] * 6, "2", "number"),
            answers(25000, 25, ["yes"] * 10, "yes", "yes/no"),
            answers(9000, 9, ["net"] * 9 + ["mesh"], "net"),
        ],
    )
    return source


def test_vqav2(vqav2):
    records, tally = read(vqav2)
    assert not tally
    assert [(r.image_id, r.coco_id, r.file_name) for r in records] == [
        ("9", 9, "train2014/COCO_train2014_000000000009.jpg"),
        ("25", 25, "train2014/COCO_train2014_000000000025.jpg"),
    ]
    first, second = records[0].annotations
    assert (first.kind, first.text, first.id) == ("question", "What is this?", "9000")
    assert first.geometry is None
    assert first.extra == {
        "answer": "net",
        "answers": ["net"] * 9 + ["mesh"],
        "answer_type": "other",
    }
    assert (second.text, second.extra["answer"]) == ("How many?", "2")
    assert second.extra["answers"] == ["two"] * 4 + ["2"] * 6
    assert tasks.tasks_of(first) == ("answer",)


@pytest.mark.parametrize("split", ["test", "test2015", "test-dev"])
def test_tests_without_answers(vqav2, split):
    subtype = "test-dev2015" if split == "test-dev" else "test2015"
    photograph(vqav2.images / "test2015/COCO_test2015_000000000016.jpg")
    write(vqav2, subtype, [question(16000, 16, "Why?")])
    (record,), tally = read(vqav2, split)
    assert not tally and record.file_name == "test2015/COCO_test2015_000000000016.jpg"
    (annotation,) = record.annotations
    assert annotation.extra == {} and tasks.tasks_of(annotation) == ()
    assert len(vqav2.files(split)) == 1


def test_questions_and_answers_that_do_not_meet(vqav2):
    path = vqav2.annotations / "v2_mscoco_train2014_annotations.json"

    def change(content):
        content["annotations"][0]["question_id"] = 9002  # of an image that has questions
        content["annotations"].append(answers(77000, 77, ["a"], "a"))  # of one that has none

    edit(path, change)
    records, tally = read(vqav2)
    assert tally == {"answers_without_question": 2, "questions_without_answer": 1}
    assert records[0].annotations[1].extra == {}
    path.unlink()
    with pytest.raises(DataError, match="no file .*v2_mscoco_train2014_annotations.json"):
        read(vqav2)


def test_empty_questions(vqav2):
    path = vqav2.annotations / "v2_OpenEnded_mscoco_train2014_questions.json"
    edit(path, lambda content: [q.update(question=" ") for q in content["questions"][:2]])
    records, tally = read(vqav2)
    assert [[a.text for a in r.annotations] for r in records] == [["How many?"]]
    assert tally == {"empty_questions": 2, "images_without_annotations": 1}


def test_okvqa(tmp_path):
    source = Okvqa(tmp_path, tmp_path)
    photograph(tmp_path / "val2014/COCO_val2014_000000000042.jpg")
    # Published without an agreed answer; the first of two that are as common is taken.
    texts = ["race"] * 4 + ["motocross"] * 4 + ["ride"] * 2
    entry = answers(421, 42, texts)
    for answer in entry["answers"]:
        answer["raw_answer"] = answer["answer"] + "ing"
    write(source, "val2014", [question(421, 42, "What sport is it?")], [entry])
    for split in ("val", "test", "val2014"):
        (record,), tally = read(source, split)
        assert not tally and record.source == "okvqa" and record.coco_id == 42
        assert record.annotations[0].extra["answer"] == "race"
        assert record.annotations[0].extra["answers"] == texts


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("questions", lambda c: c.pop("questions"), "no list `questions`"),
        ("questions", lambda c: c["questions"][1].pop("question"), "questions 1 has no `question`"),
        ("questions", lambda c: c["questions"][1].update(image_id="x"), "image_id 'x' is not one"),
        ("questions", lambda c: c["questions"][2].update(question_id=9000), "question_id twice"),
        (
            "annotations",
            lambda c: c["annotations"][2].update(question_id=9001),
            "annotations.json: image 9 has a question_id twice",
        ),
        (
            "annotations",
            lambda c: c["annotations"][2].update(answers={}),
            "annotations 2: `answers` is a dict",
        ),
        (
            "annotations",
            lambda c: c["annotations"][0]["answers"][0].pop("answer"),
            "question 9001 has no `answer`",
        ),
        (
            "annotations",
            lambda c: c["annotations"][1].update(answers=[], multiple_choice_answer=None),
            "question 25000 has neither",
        ),
    ],
)
def test_errors(vqav2, file, change, message):
    prefix = "OpenEnded_mscoco" if file == "questions" else "mscoco"
    edit(vqav2.annotations / f"v2_{prefix}_train2014_{file}.json", change)
    with pytest.raises(DataError, match=message):
        read(vqav2)


def test_unknown_splits(vqav2):
    with pytest.raises(DataError, match="vqav2 has no split trian; did you mean `train`"):
        vqav2.files("trian")


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations(shared_data, tmp_path, split):
    """The sample has no questions, so each is called by the type that its annotation gives."""
    name = f"v2_mscoco_{split}2014_annotations.json"
    shutil.copyfile(shared_data / "vqav2" / f"{name}_samples.json", tmp_path / name)
    entries = json.loads((tmp_path / name).read_text())["annotations"]
    source = Vqav2(tmp_path, tmp_path)
    asked = [question(e["question_id"], e["image_id"], e["question_type"]) for e in entries]
    (tmp_path / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(
        json.dumps({"questions": asked[::-1]})
    )
    for image_id in {entry["image_id"] for entry in entries}:
        photograph(tmp_path / f"{split}2014/COCO_{split}2014_{image_id:012d}.jpg")
    records, tally = read(source, split)
    found = {a.id: (r, a) for r in records for a in r.annotations}
    assert not tally and len(found) == len(entries) == 100
    assert len(records) == len({entry["image_id"] for entry in entries})
    for entry in entries:
        record, annotation = found[str(entry["question_id"])]
        assert record.coco_id == entry["image_id"] and annotation.text == entry["question_type"]
        assert annotation.extra["answer"] == entry["multiple_choice_answer"]
        common = collections.Counter(annotation.extra["answers"])
        assert common.total() == 10 and common[annotation.extra["answer"]] == max(common.values())


# ---- GQA ----


@pytest.fixture
def gqa(tmp_path):
    content = {
        "02930152": {
            "semantic": [],
            "entailed": [],
            "question": "Is the sky dark?",
            "imageId": "2354786",
            "isBalanced": True,
            "answer": "yes",
            "fullAnswer": "Yes, the sky is dark.",
        },
        "20602949": {"question": "Who is it?", "imageId": "n161313", "answer": "woman"},
        "02930153": {"question": "What color?", "imageId": "2354786"},
    }
    (tmp_path / "val_balanced_questions.json").write_text(json.dumps(content))
    for name in ("2354786", "n161313"):
        photograph(tmp_path / f"images/{name}.jpg")
    return Gqa(tmp_path, tmp_path / "images")


def test_gqa(gqa):
    records, tally = read(gqa, "val")
    assert tally == {"questions_without_answer": 1}
    assert [(r.image_id, r.file_name, r.coco_id) for r in records] == [
        ("2354786", "2354786.jpg", None),
        ("n161313", "n161313.jpg", None),
    ]
    assert [(a.kind, a.id, a.text, a.extra) for r in records for a in r.annotations] == [
        ("question", "02930152", "Is the sky dark?", {"answer": "yes"}),
        ("question", "02930153", "What color?", {}),
        ("question", "20602949", "Who is it?", {"answer": "woman"}),
    ]


def test_gqa_knows_the_photographs_of_coco(gqa):
    images = [
        {"image_id": 2354786, "coco_id": 581929, "width": 60, "height": 40},
        {"image_id": 1, "coco_id": None},
    ]
    (gqa.annotations / "image_data.json").write_text(json.dumps(images))
    assert [r.coco_id for r in read(gqa, "val")[0]] == [581929, None]
    assert [path.name for path in gqa.files("val")] == [
        "val_balanced_questions.json",
        "image_data.json",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["20602949"].pop("imageId"), "question 20602949 has no `imageId`"),
        (lambda c: c["20602949"].update(imageId="../x"), "'../x' cannot be the name"),
        (lambda c: c["20602949"].update(answer=3), "question 20602949: `answer` is a int"),
        (lambda c: c.update(a=[]), "question a is a list"),
    ],
)
def test_gqa_errors(gqa, change, message):
    edit(gqa.annotations / "val_balanced_questions.json", change)
    with pytest.raises(DataError, match=message):
        read(gqa, "val")
    with pytest.raises(DataError, match="no file .*train_balanced_questions.json"):
        read(gqa, "train")
