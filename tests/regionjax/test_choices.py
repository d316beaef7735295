"""Choosing among texts, against calculations by hand and predictors that know the answer."""

import dataclasses

import numpy as np
import pytest
import toy_benchmark as toy
import toy_questions as questions

from regionjax.evaluators.choices import choosing, numbered_prompts
from regionjax.evaluators.settings import EvaluateConfig
from regionjax.regions import WHOLE_IMAGE

SETTINGS = EvaluateConfig(bootstrap_samples=100)
RECORDS = [toy.record(index) for index in range(8)]


def scripted(*nll):
    return questions.Scripted(np.array(nll, np.float32))


def items(*right):
    """Items of four answers and four rationales; `right` are the pairs of right ones."""
    base = questions.chosen(RECORDS[:1])[0]
    return [dataclasses.replace(base, answer=a, rationale=r) for a, r in right]


@pytest.mark.parametrize("method", ["likelihood", "digit"])
def test_who_looks_is_right(method):
    asked = questions.chosen(RECORDS)
    scores, picks = choosing("vcr", asked, questions.Looking(), SETTINGS, method=method)
    for kind in ("q_a", "qa_r", "q_ar"):
        assert scores[f"vcr/{kind}"] == scores[f"vcr/{kind}_low"] == 1
    assert (scores["vcr/chance_q_a"], scores["vcr/chance_q_ar"]) == (1 / 4, 1 / 16)
    assert [pick.answer for pick in picks] == [item.answer for item in asked]
    assert [pick.rationale for pick in picks] == [item.rationale for item in asked]


def test_less_to_look_at_costs():
    asked = questions.chosen(RECORDS)
    scores, _ = choosing("x", asked, questions.Looking(), SETTINGS, "no_image")
    # nothing is likelier than the rest, which is exactly chance
    assert [scores[f"x/{kind}"] for kind in ("q_a", "qa_r", "q_ar")] == [1 / 4, 1 / 4, 1 / 16]
    assert scores["x/tied"] == 2 * len(asked)
    predictor = questions.Looking()
    scores, _ = choosing("x", asked, predictor, SETTINGS, "no_region")
    assert 1 / 4 < scores["x/q_a"] < 3 / 4
    assert all(query.segment.region is WHOLE_IMAGE for query in predictor.queries)


def test_likelihood_by_hand():
    nan = float("nan")
    predictor = scripted(
        *(3, 1, 2, 4), *(1, 2, 2, 2),  # answer 1, rationale 0: both right
        *(3, 1, 2, 4), *(2, 1, 3, 3),  # answer right, rationale wrong
        *(1, 1, 2, 4), *(1, 2, 2, 2),  # half an answer
        *(nan, 9, nan, nan), *(nan, nan, nan, nan),  # right; none
    )  # fmt: skip
    asked = items((1, 0), (1, 0), (1, 0), (1, 0))
    scores, picks = choosing("x", asked, predictor, SETTINGS)
    assert [pick.credits["q_a"] for pick in picks] == [1, 1, 0.5, 1]
    assert [pick.credits["qa_r"] for pick in picks] == [1, 0, 1, 0]
    assert [pick.credits["q_ar"] for pick in picks] == [1, 0, 0.5, 0]
    assert [(pick.answer, pick.rationale) for pick in picks] == [(1, 0), (1, 1), (0, 0), (1, None)]
    assert scores["x/q_a"] == pytest.approx(3.5 / 4)
    assert (scores["x/tied"], scores["x/not_finite"]) == (1, 7)
    item = asked[0]
    queries = predictor.queries[:2]
    assert [query.segment.prompt for query in queries] == [item.prompt, item.why_prompt]
    assert [query.texts for query in queries] == [item.choices, item.rationales]


def test_items_without_rationales():
    (item,) = items((2, 0))
    item = dataclasses.replace(item, rationales=(), rationale=None, numbered=("1. a", ""))
    scores, (pick,) = choosing("x", [item], scripted(2, 2, 1, 3), SETTINGS)
    assert pick.credits == {"q_a": 1} and "x/qa_r" not in scores and "x/chance_q_ar" not in scores
    _, (pick,) = choosing("x", [item], questions.Scripted(["3"]), SETTINGS, method="digit")
    assert pick.credits == {"q_a": 1}


@pytest.mark.parametrize(
    "text, index",
    [("2", 1), ("answer 3 or 4", 2), ("(1)", 0), ("no idea", 0), ("", 0), ("5", None), ("0", None),
     ("12", None), ("4th", 3)],
)  # fmt: skip
def test_the_first_number_is_the_choice(text, index):
    scores, (pick,) = choosing(
        "x", items((1, 1)), questions.Scripted([text, "2"]), SETTINGS, method="digit"
    )
    assert pick.answer == index and pick.rationale == 1
    assert scores["x/no_number"] == (text in ("no idea", ""))
    assert scores["x/q_ar"] == (index == 1)


def test_prompts_of_numbers_are_those_of_the_published_program():
    texts = numbered_prompts(
        "Why is [0] here ?", ("a", "b", "c", "d"), 2, ("because e", "f", "g", "h")
    )
    assert texts == (
        "Question: Why is [0] here ? 1. a 2. b 3. c 4. d Answer: ",
        "Question: Why is [0] here ? Answer: c Why?  1. because e 2. f 3. g 4. h",
    )


def test_long_prompts_are_left_out_and_counted():
    asked = items((1, 1), (1, 1))
    asked[0] = dataclasses.replace(asked[0], numbered=None)
    predictor = questions.Scripted(["2", "1"])
    scores, picks = choosing("x", asked, predictor, SETTINGS, method="digit")
    assert len(picks) == scores["x/left_out"] == 1
    assert (scores["x/q_a"], scores["x/qa_r"]) == (1, 0)
    scores, picks = choosing("x", asked[:1], questions.Scripted([]), SETTINGS, method="digit")
    assert scores == {"x/left_out": 1, "x/no_number": 0} and not picks


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="'guess'.*'likelihood' or 'digit'"):
        EvaluateConfig(choices_by=("guess",))
