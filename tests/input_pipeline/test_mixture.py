"""Mixtures: exact shares, evenly spread, found without counting, and changed without repeating."""

import collections
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline import mixture


def counted(mixed, places):
    """(component, index) of places 0, 1, … and how often each component came before each place."""
    found = [mixed.locate(place) for place in range(places)]
    names = sorted({name for name, _ in found})
    ones = np.array([[name == other for other in names] for name, _ in found])
    return found, names, np.cumsum(ones, axis=0)


# ---- shares ----


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"b": 2.0, "a": 1, "c": 1.0}, {"a": 1, "b": 2, "c": 1}),
        ({"a": 7}, {"a": 1}),
        (
            {"coco": 0.2, "refer": 0.75, "narratives": 0.05},
            {"coco": 4, "narratives": 1, "refer": 15},
        ),
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 1, "b": 1, "c": 1}),
        ({"a": 0.333, "b": 0.667}, {"a": 333, "b": 667}),
        ({"a": 1, "b": 9999}, {"a": 1, "b": 9999}),
        ({"a": 1, "b": 99999}, {"a": 1, "b": 9999}),  # nothing is left out
        ({"a": 1e-9, "b": 1e-9, "c": 5}, {"a": 1, "b": 1, "c": 9998}),
    ],
)
def test_whole_shares(weights, shares):
    assert mixture.whole_shares(weights) == shares
    assert list(mixture.whole_shares(weights)) == sorted(weights)


def test_shares_that_no_period_has_are_rounded_by_largest_remainder():
    weights = {"a": 2**0.5, "b": 3**0.5, "c": 5**0.5, "d": np.pi}
    shares = mixture.whole_shares(weights)
    assert sum(shares.values()) == 10_000
    for name, weight in weights.items():
        assert abs(shares[name] - 10_000 * weight / sum(weights.values())) < 1


some_weights = st.dictionaries(
    st.sampled_from("abcdefg"), st.integers(1, 60) | st.floats(0.01, 5), min_size=1, max_size=6
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_weights)
def test_no_component_is_ever_a_whole_example_off_its_share(weights):
    shares = mixture.whole_shares(weights)
    period = sum(shares.values())
    found, names, counts = counted(mixture.Mixture([[0, shares]]), min(3 * period, 4000))
    expected = np.arange(1, len(found) + 1)[:, None] * [shares[name] / period for name in names]
    assert (np.abs(counts - expected) < 1).all()
    if len(found) >= period:  # and none at all after whole periods
        assert counts[period - 1].tolist() == [shares[name] for name in names]
    seen = collections.Counter()
    for name, index in found:
        assert index == seen[name]
        seen[name] += 1


def test_far_places_are_found_without_those_before():
    shares = {"a": 3, "b": 7, "c": 1}
    mixed = mixture.Mixture([[0, shares]])
    far = 11 * 10**13
    near, away = ([mixed.locate(start + i) for i in range(40)] for start in (0, far))
    assert away == [(name, index + 10**13 * shares[name]) for name, index in near]


# ---- a mixture that changes ----

PHASES = [
    [0, {"a": 1, "b": 1}],
    [7, {"a": 1, "b": 3, "c": 2}],
    [30, {"c": 1}],
    [33, {"a": 2, "c": 3}],
]


def test_components_go_on_where_they_are():
    mixed = mixture.Mixture(json.loads(json.dumps(PHASES)))
    found, names, _ = counted(mixed, 80)
    assert names == ["a", "b", "c"]
    for name in names:
        indices = [index for other, index in found if other == name]
        assert indices == list(range(len(indices)))
    for (start, shares), end in zip(PHASES, (7, 30, 33, 80), strict=True):
        seen = collections.Counter(name for name, _ in found[start:end])
        for name in names:
            expected = (end - start) * shares.get(name, 0) / sum(shares.values())
            assert abs(seen[name] - expected) < 1
    unchanged, _, _ = counted(mixture.Mixture(PHASES[:1]), 7)
    assert found[:7] == unchanged


def test_phases_of_a_run_that_goes_on():
    one, other = {"a": 1, "b": 1}, {"a": 1, "b": 2}
    assert mixture.continued([[0, one]], one, 64) == [[0, one]]
    assert mixture.continued([[0, one]], other, 64) == [[0, one], [64, other]]
    assert mixture.continued([[0, one]], other, 0) == [[0, other]]
    assert mixture.continued([[0, one], [64, other]], one, 64) == [[0, one]]  # and back, unused
    twice = [[0, one], [64, other]]
    assert mixture.continued(twice, one, 80) == [*twice, [80, one]]


# ---- slots ----


def test_filled_slots():
    candidates = {0: 1, 2: 5, 9: 2}  # 0·1 + 2·5 + 4·2 slots of 4 in 8 records
    assert mixture.filled_slots(candidates, 4) == (18 / 8, 2 / 8)
    assert mixture.filled_slots(candidates, 9) == (28 / 8, 0)
    assert mixture.filled_slots({3: 7}, 1) == (1, 1)


def test_weights_by_regions_give_regions_by_weight():
    candidates = {"few": {1: 40}, "many": {4: 10, 12: 10}, "some": {2: 3}}
    weights = {"few": 1.0, "many": 1.0, "some": 2.0}
    slots = {"few": 1, "many": 6, "some": 2}  # of 8
    examples = mixture.weights_by_regions(weights, candidates, 8)
    shares = mixture.whole_shares(examples)
    assert shares == {"few": 6, "many": 1, "some": 6}
    found, _, _ = counted(mixture.Mixture([[0, shares]]), 13 * 50)
    regions = collections.Counter()
    for name, _ in found:
        regions[name] += slots[name]
    assert regions == {"few": 300, "many": 300, "some": 600}


def test_wanted_leaves_out_what_is_not_trained():
    offered = {"1 caption, 2 describe, 2 locate": 6, "3 locate": 5, "1 caption": 2, "": 4}
    assert mixture.wanted(offered, {"describe": 8.0}) == {5: 6, 3: 5, 1: 2, 0: 4}
    assert mixture.wanted(offered, {"locate": 0.0}) == {3: 6, 0: 9, 1: 2}
    assert mixture.told({"locate": 2, "caption": 1}) == "1 caption, 2 locate"
    assert mixture.told({}) == ""


def test_slots_report():
    line = mixture.slots_report(
        {"few": 1.0, "many": 3.0}, {"few": {1: 40}, "many": {4: 10, 12: 10}}, 8
    )
    assert line == (
        "4.8 of 8 slots will be filled on average "  # (1 + 3·6) / 4
        "(few 1.0; many 6.0, 50% of its records have more)"
    )
