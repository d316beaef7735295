"""Scribbles made worse: what happens to the points, and that scores fall as they should."""

import dataclasses

import numpy as np
import pytest
import toy_benchmark as toy

from regionjax import page_robustness
from regionjax.evaluators.items import Described
from regionjax.evaluators.robustness import curves, robustness, scribbled
from regionjax.evaluators.settings import EvaluateConfig, RobustnessConfig
from regionjax.regions import WHOLE_IMAGE, Region

RECORDS = [toy.record(index) for index in range(10)]
MASK = np.zeros((64, 64), bool)
MASK[16:48, 8:24] = True  # 1/8 of the image
TRACE = Region.from_points(np.linspace((0.1, 0.2), (0.9, 0.4), 10))


def settings(**changes):
    return EvaluateConfig(bootstrap_samples=50, robustness=RobustnessConfig(**changes))


def drawn(region, kind, value, count=10, seed=0):
    rng = np.random.default_rng(seed)
    return scribbled(region, rng, kind=kind, value=value, settings=settings(count=count)).points


def inside(points):
    columns, rows = np.minimum((points * 64).astype(int), 63).T
    return MASK[rows, columns]


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5, 1])
def test_a_share_of_the_points_lies_outside(share):
    region = Region.from_mask(MASK)
    before, after = drawn(region, "outside", 0), drawn(region, "outside", share)
    assert inside(before).all()
    assert (~inside(after)).sum() == (before != after).any(axis=1).sum() == round(10 * share)
    more = drawn(region, "outside", min(1, share + 0.2))  # the same ones are outside, and some more
    moved = (before != after).any(axis=1)
    np.testing.assert_array_equal(more[moved], after[moved])


def test_outside_of_a_trace_and_of_the_whole_image():
    moved = drawn(TRACE, "outside", 1)
    gap = np.abs(moved - TRACE.points[:, None]).min(axis=0)
    assert (gap.max(axis=-1) > 0).all()
    line = (moved - (0.1, 0.2)) @ (-0.2, 0.8) / np.hypot(0.2, 0.8)  # distance to the line
    beyond = (moved[:, 0] < 0.1) | (moved[:, 0] > 0.9)
    assert (beyond | (np.abs(line) > 0.02)).all()  # the brush's radius is 0.03
    everywhere = drawn(WHOLE_IMAGE, "outside", 1, count=500)
    np.testing.assert_allclose(everywhere.mean(axis=0), 0.5, atol=0.05)


def test_jitter_grows_with_the_region():
    region = Region.from_mask(MASK)
    before, after = (drawn(region, "jitter", value, count=4000) for value in (0, 0.1))
    np.testing.assert_allclose((after - before).std(axis=0), 0.1 * np.sqrt(1 / 8), rtol=0.05)
    wild = drawn(region, "jitter", 9, count=4000)
    assert wild.min() == 0 and wild.max() == 1


def test_shuffling_keeps_the_points_and_loses_their_order():
    kept = drawn(TRACE, "shuffled", 0)
    np.testing.assert_allclose(kept, TRACE.points)
    for share, most in ((0.3, 3), (1, 10)):
        points = drawn(TRACE, "shuffled", share)
        moved = (points != kept).any(axis=1).sum()
        assert 1 < moved <= most
        assert sorted(points.tolist()) == sorted(kept.tolist())


def test_fewer_points_are_still_from_end_to_end():
    np.testing.assert_allclose(drawn(TRACE, "points", 2), TRACE.points[[0, -1]])
    assert drawn(Region.from_box((0.1, 0.1, 0.2, 0.2)), "points", 3).shape == (3, 2)


class Looker(toy.Oracle):
    """Knows the object on which most points lie, and how sure it is."""

    def caption_nll(self, queries, texts, together=None, compared=False):
        self.queries = list(queries)
        return toy.nll_table(self.queries, texts, self._nll)

    def _nll(self, query, text):
        mask = dict(query.record.objects)[text.removeprefix("the ")]
        columns, rows = np.clip(query.segment.region.points * 96, 0, 95).astype(int).T
        return 1 - mask[rows, columns].mean()


def test_scores_fall_and_are_named():
    asked = settings(outside=(0, 0.5, 1.0), points=(1,))
    texts = {"region_caption": toy.described(RECORDS), "narration": []}
    model = Looker()
    sets = {"": toy.referred(RECORDS), "_two": toy.referred(RECORDS[:2])}
    scores = robustness(texts, sets, model, asked)
    assert {query.segment.region.kind for query in model.queries} == {"points"}
    at = {value: f"robustness/outside/{value}" for value in ("0", "0.5", "1")}
    assert scores[f"{at['0']}/region_caption/exact_match"] == 1
    assert scores[f"{at['0']}/ris/miou"] > 0.9
    for name in ("region_caption/exact_match", "ris/miou"):
        values = [scores[f"{at[value]}/{name}"] for value in at]
        assert values[0] >= values[1] > values[2]
        assert scores[f"{at['1']}/{name}_low"] <= values[2] <= scores[f"{at['1']}/{name}_high"]
    assert scores["robustness/points/1/ris/miou"] > 0.9
    assert scores["robustness/points/1/ris_two/miou"] > 0.9
    assert not any("narration" in key or "chance" in key for key in scores)

    lines = curves({**scores, "ris/miou": 0.5})
    assert lines["outside", "ris/miou"] == (
        [0, 0.5, 1],
        [scores[f"{at[value]}/ris/miou"] for value in at],
    )
    assert {kind for kind, _ in lines} == {"outside", "points"}

    page = page_robustness.section(scores)
    assert page.count('<figure class="chart">') == 4  # two ways, each with CIDEr-D apart
    assert "share of the points outside the region" in page and "ris/miou" in page
    assert page_robustness.section({"ris/miou": 0.5}) == ""


def test_nothing_is_asked_by_default():
    sets = {"": toy.referred(RECORDS)}
    assert robustness({"x": toy.described(RECORDS)}, sets, None, settings()) == {}


def test_the_same_again():
    asked = settings(outside=(0.3,))
    record = RECORDS[0]
    items = [Described(record, lambda: Region.from_mask(MASK), "describe", ("x",))] * 2
    shown = []

    class Noting(toy.Oracle):
        def generate(self, queries, config):
            shown.append([query.segment.region.points for query in queries])
            return ["x"] * len(items)

    for _ in range(2):
        robustness({"region_caption": items}, {}, Noting(), asked)
    np.testing.assert_array_equal(shown[0], shown[1])
    assert (shown[0][0] != shown[0][1]).any()  # two items, two scribbles
    other = dataclasses.replace(asked, seed=1)
    robustness({"region_caption": items}, {}, Noting(), other)
    assert (shown[2][0] != shown[0][0]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outside": (0.5, 1.5)}, "outside = .*1.5 is not in 0…1"),
        ({"jitter": (-1,)}, "jitter = .*-1 is not in 0"),
        ({"points": (0,)}, "0 is not a number of points"),
        ({"points": (0.5,)}, "0.5 is not a number of points"),
    ],
)
def test_numbers_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        RobustnessConfig(**changes)
