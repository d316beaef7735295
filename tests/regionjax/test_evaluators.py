"""Evaluators against predictors whose answers are known, and against calculations by hand."""

import dataclasses
import functools

import numpy as np
import pytest
import toy_benchmark as toy

from regionjax.evaluators.captioning import captioning, show
from regionjax.evaluators.grounding import grounding, parse_box, peak_of
from regionjax.evaluators.items import Described, Referred, pixels
from regionjax.evaluators.referring import _together, referring
from regionjax.evaluators.settings import EvaluateConfig, ProposalConfig
from regionjax.regions import WHOLE_IMAGE, Region

SETTINGS = EvaluateConfig(bootstrap_samples=200)
RECORDS = [toy.record(index) for index in range(12)]


@dataclasses.dataclass
class Scripted:
    """Says what it was told to say, and remembers the questions."""

    answers: list

    def _answer(self, queries, config=None):
        self.queries = list(queries)
        return self.answers[: len(self.queries)]

    generate = heatmap = _answer

    def caption_nll(self, queries, texts, together=None, compared=False):
        self.queries, said = list(queries), iter(self.answers)
        return toy.nll_table(self.queries, texts, lambda query, text: next(said))


def scripted(nll):
    return Scripted(np.array(nll, np.float32))


# ---- captioning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["as_is", "box", "points", "click"])
def test_an_oracle_names_every_region(shown):
    scores, answers = captioning("named", toy.described(RECORDS), toy.Oracle(), SETTINGS, shown)
    assert scores["named/exact_match"] == scores["named/exact_match_low"] == 1
    assert scores["named/cider"] == pytest.approx(5)  # names of two words fill two of four orders
    kinds = {"as_is": "mask", "box": "box", "points": "points", "click": "points"}
    assert all(a.correct and a.region.kind == kinds[shown] for a in answers)


def test_a_click_is_in_the_middle():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False  # the centre itself; of its neighbours the first
    for region, xy in (
        (Region.from_mask(ring), (0.5, 0.3)),
        (Region.from_box((0.2, 0.4, 0.4, 1.0)), (0.3, 0.7)),
    ):
        np.testing.assert_allclose(show(region, "click", None).points, [xy], atol=1e-6)


def test_without_the_region_even_an_oracle_is_right_once_an_image():
    items = toy.described(RECORDS)
    scores, answers = captioning("no_region", items, toy.Oracle(), SETTINGS, "nothing")
    assert scores["no_region/exact_match"] == pytest.approx(1 / 4, abs=0.03)  # names may repeat
    assert all(answer.region is WHOLE_IMAGE for answer in answers)


def test_any_reference_will_do_and_punctuation_is_ignored():
    items = [
        Described(RECORDS[0], lambda: WHOLE_IMAGE, "", ("a b", "c d")),
        Described(RECORDS[1], lambda: WHOLE_IMAGE, "", ("a b",)),
        Described(RECORDS[2], lambda: WHOLE_IMAGE, "", ("e",)),
    ]
    predictor = Scripted(["C  D!", "b a", ""])
    scores, answers = captioning("x", items, predictor, SETTINGS)
    assert [answer.correct for answer in answers] == [True, False, False]
    assert scores["x/exact_match"] == pytest.approx(1 / 3)
    assert scores["x/majority"] == pytest.approx(2 / 3)  # "a b" everywhere
    assert [query.segment.prompt for query in predictor.queries] == [""] * 3


def test_regions_are_shown_alike_every_time():
    items = toy.described(RECORDS[:2])
    first, second = Scripted([""] * 8), Scripted([""] * 8)
    captioning("x", items, first, SETTINGS, "points")
    _, answers = captioning("x", items, second, SETTINGS, "points")
    for a, b, answer in zip(first.queries, second.queries, answers, strict=True):
        np.testing.assert_array_equal(a.segment.region.points, b.segment.region.points)
        np.testing.assert_array_equal(a.segment.region.points, answer.region.points)


def test_unknown_form_of_a_region():
    with pytest.raises(ValueError, match="'circle'"):
        show(WHOLE_IMAGE, "circle", None)


# ---- referring segmentation ---------------------------------------------------------------------


def grid_mask(*cells):
    """Bool [4, 4] with the numbered pixels on."""
    mask = np.zeros(16, bool)
    mask[list(cells)] = True
    return mask.reshape(4, 4)


def choice_of(record, truth, proposals):
    box = Region.from_mask(truth).bounding_box()
    regions = [Region.from_mask(mask) for mask in proposals]
    return Referred(
        record, lambda: Region.from_mask(truth), "x", "refer", "locate x", box, lambda: regions
    )


@pytest.fixture
def three_choices():
    """IoUs of the proposals: (1, 1/3, 0), (1/2, 0) and none at all."""
    small = [toy.Record(str(n), 4, 4, b"", ()) for n in range(3)]
    return [
        choice_of(small[0], grid_mask(0, 1), [grid_mask(0, 1), grid_mask(1, 2), grid_mask(9)]),
        choice_of(small[1], grid_mask(0, 1, 2, 3), [grid_mask(0, 1), grid_mask(4, 5)]),
        choice_of(small[2], grid_mask(0, 1, 2), []),
    ]


def test_choices_by_hand(three_choices):
    scores, choices = referring(three_choices, scripted([3, 1, 2, 1, 9]), SETTINGS)
    assert [choice.chosen for choice in choices] == [1, 0, None]
    np.testing.assert_allclose([choice.iou for choice in choices], [1 / 3, 1 / 2, 0])
    assert scores["ris/miou"] == pytest.approx((1 / 3 + 1 / 2) / 3)
    assert scores["ris/oiou"] == pytest.approx((1 + 2 + 0) / (3 + 4 + 3))
    assert scores["ris/chance_miou"] == pytest.approx(((1 + 1 / 3 + 0) / 3 + 1 / 4 + 0) / 3)
    # mean intersections 1, 1, 0 over mean unions (2 + 3 + 3) / 3, (4 + 6) / 2, 3
    assert scores["ris/chance_oiou"] == pytest.approx(2 / (8 / 3 + 5 + 3))
    assert scores["ris/best_miou"] == pytest.approx((1 + 1 / 2) / 3)
    assert (scores["ris/tied"], scores["ris/not_finite"]) == (0, 0)


def test_a_constant_model_gets_exactly_chance(three_choices):
    scores, _ = referring(three_choices, scripted([2.5] * 5), SETTINGS)
    assert scores["ris/miou"] == pytest.approx(scores["ris/chance_miou"])
    assert scores["ris/oiou"] == pytest.approx(scores["ris/chance_oiou"])
    assert scores["ris/tied"] == 2


def test_scores_that_are_not_finite_never_win(three_choices):
    nan, infinity = float("nan"), float("inf")
    predictor = scripted([nan, 7, -infinity, nan, infinity])
    scores, choices = referring(three_choices, predictor, SETTINGS)
    assert [choice.chosen for choice in choices] == [1, None, None]
    assert scores["ris/oiou"] == pytest.approx((1 + 0 + 0) / (3 + 4 + 3))
    assert scores["ris/not_finite"] == 4


def test_shares_of_good_choices_boxes_and_points_by_hand():
    truth = grid_mask(0, 1, 2, 3, 4, 5, 6, 7)  # the upper half
    near = grid_mask(0, 1, 2, 3, 4, 5, 6)  # IoU 7/8; its box is the true one
    row = grid_mask(0, 1, 2, 3)  # IoU 4/8, and so is that of its box
    low = grid_mask(4, 8, 12)  # IoU 1/10; its centre is the pixel in the third row
    record = toy.Record("1", 4, 4, b"", ())
    items = [choice_of(record, truth, [near, row, low])] * 3
    # of each proposal in turn, the three expressions
    scores, _ = referring(items, scripted([0, 1, 2, 1, 0, 1, 2, 2, 0]), SETTINGS)
    shares = [scores[f"ris/pr{level}"] for level in (50, 60, 70, 80, 90)]
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3, 1 / 3, 1 / 3, 0])
    assert scores["ris/chance_pr50"] == pytest.approx(2 / 3)
    assert scores["rec/acc50"] == pytest.approx(2 / 3)
    assert scores["rec/pointing"] == pytest.approx(2 / 3)
    assert scores["ris/images"] == 1


def test_the_best_sampling_of_a_proposal_counts(three_choices):
    """Two samplings each; the second proposal of the first image has the lowest of all."""
    nan = float("nan")
    settings = dataclasses.replace(SETTINGS, point_samplings=2)
    predictor = scripted([3, 4, 9, 1, 2, 2, 5, nan, nan, 6])
    scores, choices = referring(three_choices, predictor, settings)
    assert [choice.chosen for choice in choices] == [1, 0, None]
    assert scores["ris/not_finite"] == 2
    regions = [query.segment.region for query in predictor.queries]
    assert len(regions) == 10 and regions[0].rasterize(4) is regions[1].rasterize(4)
    first, second = (region.sample_points(50, None) for region in regions[:2])
    assert (first != second).any()
    for points in (first, second):  # in the proposal: the first two pixels of four times four
        assert (points < (0.5, 0.25)).all() and (points >= 0).all()


def test_the_mean_of_a_proposals_samplings_counts_on_request(three_choices):
    """The first has the lowest mean, the second the lowest score; what is not finite is out."""
    settings = dataclasses.replace(SETTINGS, point_samplings=2, samplings_by="mean")
    predictor = scripted([3, 4, 9, 1, 6, 6, 5, float("nan"), 7, 6])
    _, choices = referring(three_choices, predictor, settings)
    assert [choice.chosen for choice in choices] == [0, 1, None]
    with pytest.raises(ValueError, match="samplings_by = 'median': expected 'min' or 'mean'"):
        dataclasses.replace(SETTINGS, samplings_by="median")


def test_points_depend_on_seed_image_proposal_and_repeat_alone(three_choices):
    def points(items, seed=0):
        predictor = scripted([0] * 40)
        settings = dataclasses.replace(SETTINGS, point_samplings=2, seed=seed)
        referring(items, predictor, settings)
        return [query.segment.region.sample_points(3, None) for query in predictor.queries]

    once = points(three_choices)
    np.testing.assert_array_equal(once, points(three_choices))
    np.testing.assert_array_equal(points(three_choices[1:]), once[6:])
    again = dataclasses.replace(three_choices[0], refer_prompt="what is this")
    twice = points([three_choices[0], again])  # another question, the same points
    np.testing.assert_array_equal(twice[:6], once[:6])
    np.testing.assert_array_equal(twice[6:], once[:6])
    assert len(np.unique(np.array(once), axis=0)) == 10
    assert (np.array(points(three_choices, seed=1)) != np.array(once)).any(axis=(1, 2)).all()


def test_proposals_are_left_out_by_rule_and_images_counted():
    whole, dot, pair = np.ones((4, 4), bool), grid_mask(5), grid_mask(5, 6)
    records = [toy.Record(str(n), 4, 4, b"", ()) for n in range(3)]
    items = [
        choice_of(records[0], dot, [whole, dot, pair]),  # the largest first: pair, dot
        choice_of(records[0], pair, [whole, dot, pair]),
        choice_of(records[1], dot, [whole]),  # nothing else is left
        choice_of(records[2], dot, []),
    ]
    settings = dataclasses.replace(SETTINGS, proposals=ProposalConfig("sensible"))
    scores, choices = referring(items, scripted([2, 1, 1, 2, 0]), settings)
    assert [choice.chosen for choice in choices] == [1, 2, 0, None]
    assert scores["ris/miou"] == pytest.approx((1 + 1 + 1 / 16) / 4)
    assert scores["ris/best_miou"] == scores["ris/miou"]
    names = ("images", "images_on_fallback", "images_without_proposals")
    assert [scores[f"ris/{name}"] for name in names] == [3, 1, 1]


def test_an_oracle_chooses_right():
    scores, _ = referring(toy.referred(RECORDS), toy.Oracle(), SETTINGS)
    assert scores["ris/best_miou"] == 1
    # an image may hold two objects of one name, which tie
    assert scores["ris/miou"] == 1 - 0.5 * scores["ris/tied"] / (4 * len(RECORDS))
    assert scores["ris/chance_miou"] == pytest.approx(1 / 4)


def test_regions_are_read_once_for_all_expressions_of_an_image(monkeypatch):
    """Five expressions of one image, one of another; what is chosen is what is chosen alone."""
    first, second = RECORDS[:2]
    items = [*toy.referred([first]), toy.referred([first])[0], toy.referred([second])[0]]
    items = [dataclasses.replace(item, proposals=items[0].proposals) for item in items[:5]] + [
        items[5]
    ]

    def scored(settings):
        predictor = scripted(range(200))
        _, choices = referring(items, predictor, settings)
        return predictor.queries, choices

    queries, _ = scored(SETTINGS)
    assert [len(query.texts) for query in queries] == [5] * 4 + [1] * 4
    assert [query.record for query in queries] == [first] * 4 + [second] * 4
    found = referring(items, toy.Oracle(), SETTINGS)
    monkeypatch.setattr("regionjax.evaluators.referring.MOST", 1)
    queries, _ = scored(SETTINGS)
    assert [len(query.texts) for query in queries] == [1] * 24
    assert found == referring(items, toy.Oracle(), SETTINGS)


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ((), []),
        ((1, 1), [1, 1]),
        ((7, 7), [7, 7]),
        ((17,), [9, 8]),  # of at most 16
        ((1, 1, 1, 9), [1, 1, 1, 3, 3, 3]),  # 6 × 4.5; 12 × 2.5, 8 × 3.5 and 4 × 10.5 are more
    ],
)
def test_expressions_are_put_together_where_little_is_left_empty(counts, sizes, three_choices):
    items = []
    for count in counts:
        proposals = functools.partial(list)  # another one: another image
        items += [dataclasses.replace(three_choices[0], proposals=proposals)] * count
    assert [len(group) for group in _together(items)] == sizes


def test_questions_of_referring(three_choices):
    predictor = scripted([0] * 5)
    referring(three_choices, predictor, SETTINGS)
    question = predictor.queries[1]
    assert question.record is three_choices[0].record
    assert (question.segment.prompt, question.texts) == ("refer", ("x",))
    np.testing.assert_array_equal(question.segment.region.mask, grid_mask(1, 2))


# ---- grounding ----------------------------------------------------------------------------------


def test_an_oracle_finds_everything():
    scores, places = grounding(toy.referred(RECORDS), toy.Oracle(), SETTINGS, toy.BINS)
    for name in ("grounding/acc50", "pointing/accuracy", "pointing/box_centre_accuracy"):
        assert scores[name] == scores[f"{name}_low"] == scores[f"{name}_high"] == 1
    assert scores["grounding/malformed"] == scores["pointing/not_finite"] == 0
    areas = [mask.mean() for record in RECORDS for _, mask in record.objects]
    assert scores["pointing/chance"] == pytest.approx(np.mean(areas))
    assert scores["grounding/chance_acc50"] == pytest.approx(1 / 4)
    assert min(place.iou for place in places) > 0.97  # bins of 1/1024


class Careless(toy.Oracle):
    """Writes no boxes and points nowhere."""

    def generate(self, queries, config):
        return ["a red circle"] * len(queries)

    def heatmap(self, queries):
        return np.full((len(queries), 3, 3), np.nan, np.float32)


def test_what_is_no_answer_scores_0_and_is_counted():
    items = toy.referred(RECORDS)
    scores, places = grounding(items, Careless(), SETTINGS, toy.BINS)
    assert scores["grounding/acc50"] == scores["pointing/accuracy"] == 0
    assert scores["pointing/box_centre_accuracy"] == 0
    assert scores["grounding/malformed"] == scores["pointing/not_finite"] == len(items)
    assert all(place.box is None and place.peak is None for place in places)


def test_a_random_heatmap_scores_chance():
    class Random(toy.Oracle):
        def heatmap(self, queries):
            return np.eye(96 * 96, dtype=np.float32).reshape(-1, 96, 96)[
                np.random.default_rng(0).integers(96 * 96, size=len(queries))
            ]

    items = toy.referred([toy.record(index) for index in range(100)])
    scores, _ = grounding(items, Random(), SETTINGS, toy.BINS)
    assert scores["pointing/accuracy"] == pytest.approx(scores["pointing/chance"], abs=0.04)


@pytest.mark.parametrize(
    "text, box",
    [
        # y0 x0 y1 x1 of 10 bins, each its middle
        ("<loc0001><loc0002><loc0003><loc0004>", (0.25, 0.15, 0.45, 0.35)),
        ("<loc0001> <loc0002> <loc0003> <loc0004>", (0.25, 0.15, 0.45, 0.35)),
        ("<loc0001><loc0002><loc0003>", None),
        ("<loc0001><loc0002><loc0003><loc0004><loc0005>", None),
        ("<loc0001><loc0002><loc0003> square", None),
        ("<loc0001><loc0002><loc0003><loc0010>", None),  # outside the bins
        ("<loc0003><loc0002><loc0001><loc0004>", None),  # upside down
        ("", None),
    ],
)
def test_parse_box(text, box):
    found = parse_box(text, bins=10)
    assert (found is None) if box is None else found == pytest.approx(box)


def test_peak_is_x_then_y():
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 3] = 1  # top right
    x, y = peak_of(heatmap, height=4, width=8)
    assert x > 0.75 and y == 0.125


def test_pixels_of_a_box_are_those_whose_centres_it_holds():
    found = pixels(Region.from_box((0.25, 0, 0.74, 0.5)), height=2, width=4)
    np.testing.assert_array_equal(found, [[0, 1, 1, 0], [0, 0, 0, 0]])
