"""Answers to questions: VQA's own evaluation program, calculations by hand, toy predictors.

tests/golden/vqa.json was made by the evaluation program of VQA (GT-Vision-Lab/VQA, as packed in
salesforce-lavis 1.0.2): `texts` by processPunctuation and processDigitArticle, `answers` by
evaluate, which gives the score of each text.
"""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import toy_benchmark as toy
import toy_questions as questions

from regionjax.decode import GenerationConfig
from regionjax.evaluators.looking import looked_at, ways
from regionjax.evaluators.settings import EvaluateConfig
from regionjax.evaluators.vqa import answering, normalised, predictions, vqa_accuracy
from regionjax.regions import WHOLE_IMAGE

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "vqa.json").read_text(encoding="utf-8")
)
SETTINGS = EvaluateConfig(bootstrap_samples=100)
RECORDS = [toy.record(index) for index in range(8)]


@pytest.mark.parametrize("text, expected", GOLDEN["texts"])
def test_normalised_as_the_program_does(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize("case", GOLDEN["answers"], ids=lambda case: " ".join(case["answers"][-2:]))
def test_accuracy_as_the_program_gives_it(case):
    for text, score in case["scores"].items():
        assert vqa_accuracy(text, case["answers"]) == pytest.approx(score), text


@pytest.mark.parametrize(
    "right, expected",
    # Of 10 annotators n say it: n turns find n - 1 others, 10 - n turns find n.
    [(0, 0), (1, 0.9 / 3), (2, (2 * 1 + 8 * 2) / 30), (3, (3 * 2 + 7 * 3) / 30), (4, 1), (10, 1)],
)
def test_accuracy_by_hand(right, expected):
    answers = ["cat"] * right + [f"other {number}" for number in range(10 - right)]
    assert vqa_accuracy("A cat.", answers) == pytest.approx(expected)


# ---- the benchmark ------------------------------------------------------------------------------


def test_who_looks_is_right_and_less_to_look_at_costs():
    items = questions.asked(RECORDS)
    scores, replies = answering("x", items, questions.Looking(), SETTINGS)
    assert scores["x/accuracy"] == scores["x/accuracy_low"] == scores["x/other"] == 1
    assert [reply.score for reply in replies] == [1.0] * len(items)
    scores, _ = answering("x", items, questions.Looking(), SETTINGS, "no_region")
    names = [[name.split()[0] for name, _ in record.objects] for record in RECORDS]
    expected = np.mean([colour == colours[0] for colours in names for colour in colours])
    assert scores["x/accuracy"] == pytest.approx(expected)
    scores, _ = answering("x", items, questions.Looking(), SETTINGS, "no_image")
    expected = np.mean([colour == "red" for colours in names for colour in colours])
    assert scores["x/accuracy"] == pytest.approx(expected)
    colours = [colour for found in names for colour in found]
    assert scores["x/majority"] == pytest.approx(max(map(colours.count, colours)) / len(colours))


def test_types_of_answers_have_scores_of_their_own():
    items = questions.asked(RECORDS, ("yes/no", "other"))
    right = [item.answer if item.answer_type == "other" else "no idea" for item in items]
    scores, _ = answering("x", items, questions.Scripted(right), SETTINGS)
    assert (scores["x/yes_no"], scores["x/other"], scores["x/accuracy"]) == (0, 1, 0.5)


def test_a_single_answer_is_matched_exactly():
    items = questions.about_all(RECORDS)
    said = ["4", "Four.", "the four", "5", "four or five", "", "4", "4"]
    scores, replies = answering("gqa", items, questions.Scripted(said), SETTINGS)
    assert [reply.score for reply in replies] == [1, 1, 1, 0, 0, 0, 1, 1]
    assert scores["gqa/accuracy"] == pytest.approx(5 / 8)
    assert scores["gqa/majority"] == 1


def test_questions_without_answers_have_predictions_and_no_scores():
    items = [dataclasses.replace(item, answer=None) for item in questions.about_all(RECORDS)]
    scores, replies = answering("x", items, questions.Looking(), SETTINGS)
    assert scores == {} and {reply.score for reply in replies} == {None}
    assert predictions("x", replies)[1] == {"question_id": 1, "answer": "4."}
    assert predictions("gqa", replies)[1] == {"questionId": "000000000001", "prediction": "4."}


def test_short_answers_have_settings_of_their_own():
    short = GenerationConfig(method="beam", length_penalty=-1.0, max_new_tokens=10)
    for settings, used in (
        (SETTINGS, SETTINGS.generation),
        (EvaluateConfig(short_answers=short), short),
    ):
        predictor = questions.Looking()
        answering("x", questions.about_all(RECORDS), predictor, settings)
        assert predictor.config == used


# ---- less to look at ----------------------------------------------------------------------------


def test_what_is_shown():
    items = questions.asked(RECORDS[:2])
    shown = list(looked_at(items, "as_is"))
    assert [record for record, _ in shown] == [item.record for item in items]
    assert all(region.kind == "mask" for _, region in shown)
    assert all(region is WHOLE_IMAGE for _, region in looked_at(items, "no_region"))
    blank = list(looked_at(items, "no_image"))
    assert all(questions.is_blank(record) for record, _ in blank)
    assert all(region is WHOLE_IMAGE for _, region in blank)
    # one record an image, so that its questions share a row
    assert len({id(record) for record, _ in blank}) == 2
    assert [record.image_id for record, _ in blank] == [item.record.image_id for item in items]
    with pytest.raises(ValueError, match="'without'"):
        list(looked_at(items, "without"))


def test_nothing_is_removed_where_nothing_is_pointed_at():
    assert ways(questions.asked(RECORDS)) == ("as_is", "no_region", "no_image")
    assert ways(questions.about_all(RECORDS)) == ("as_is", "no_image")
