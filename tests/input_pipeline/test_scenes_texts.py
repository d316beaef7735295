"""What is said about scenes, checked against the drawn things by a second reading of the words."""

import collections
import dataclasses
import re

import numpy as np
import pytest

from input_pipeline.scenes import vocabulary
from input_pipeline.scenes.expressions import Phrases, refer
from input_pipeline.scenes.narratives import narrate
from input_pipeline.scenes.scene import make_scene
from input_pipeline.scenes.sentences import captions

SCENES = 150
SHAPES = "|".join(vocabulary.SHAPES)


@dataclasses.dataclass
class Told:
    scene: object
    expressions: list
    captions: list
    narrative: dict


@pytest.fixture(scope="module")
def told():
    """Scenes with all that is said about them."""
    found = []
    for seed in range(SCENES):
        rng = np.random.default_rng([11, seed])
        scene = make_scene(rng, 96)
        phrases = Phrases(scene)
        found.append(
            Told(scene, refer(phrases, rng), captions(scene), narrate(scene, phrases, rng))
        )
    return found


def described(things, phrase):
    """Things (name, x, y) that fit `phrase`, by its words alone."""
    words = [word for word in phrase.split() if word not in ("the", "object")]
    return [thing for thing in things if set(words) <= set(thing[0].split())]


def meant(things, text):
    """Everything that an expression could mean; looser than the rules that made it."""
    if match := re.fullmatch(r"the (leftmost|rightmost|highest|lowest) (.+)", text):
        key = {
            "leftmost": lambda t: t[1],
            "rightmost": lambda t: -t[1],
            "highest": lambda t: t[2],
            "lowest": lambda t: -t[2],
        }[match[1]]
        rivals = sorted(described(things, match[2]), key=key)
        return [t for t in rivals if key(t) < key(rivals[0]) + 0.05]
    if match := re.fullmatch(r"(.+) (left of|right of|above|below) (the .+)", text):
        (anchor,) = described(things, match[3])
        stands = {
            "left of": lambda t: anchor[1] - t[1],
            "right of": lambda t: t[1] - anchor[1],
            "above": lambda t: anchor[2] - t[2],
            "below": lambda t: t[2] - anchor[2],
        }[match[2]]
        return [t for t in described(things, match[1]) if t != anchor and stands(t) > 0.03]
    return described(things, text)


def located(scene):
    """(name, x, y) of each thing: the middle of its visible pixels' box, from the masks."""
    things = []
    for thing, mask in zip(scene.things, scene.masks, strict=True):
        rows, columns = np.nonzero(mask)
        x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        things.append((thing.name, x / scene.size, y / scene.size))
    return things


def test_every_expression_fits_one_thing_and_needs_its_words(told):
    kinds = collections.Counter()
    for item in told:
        things = located(item.scene)
        for thing, texts in zip(things, item.expressions, strict=True):
            assert len(set(texts)) == len(texts) <= 2
            for text in texts:
                assert meant(things, text) == [thing], (text, things)
                assert len(text.split()) <= 10
                head = re.sub(r"leftmost|rightmost|highest|lowest", "", text)
                head = re.split(r" left of| right of| above| below", head)[0]
                kind = "attribute" if head == text else "place"
                kinds[kind] += 1
                if kind == "place":
                    assert len(described(things, head)) > 1
                else:  # leaving out any attribute makes it fit another thing too
                    words = text.split()[1:]
                    for word in words[:-1]:
                        rest = " ".join(w for w in words if w != word)
                        assert len(described(things, rest)) > 1
    assert min(kinds.values()) > 200
    texts = sum(len(item.expressions) for item in told)
    assert sum(not e for item in told for e in item.expressions) < 0.03 * texts


def test_captions_count_right(told):
    numbers = {word: n for n, word in enumerate(vocabulary.NUMBERS)}
    for item in told:
        by_shape, by_colour = item.captions
        ground = item.scene.background
        assert max(len(text.split()) for text in item.captions) <= 16
        pairs = re.findall(r"(\w+) (\w+)(?: and| on)", by_shape)
        counted = {re.sub("(?<=s)es$|(?<!s)s$", "", noun): numbers[n] for n, noun in pairs}
        assert counted == collections.Counter(t.shape for t in item.scene.things)
        assert by_shape.endswith(f" on {ground}")
        body = re.fullmatch(rf"(.+) objects? on {ground}", by_colour)[1]
        counted = {colour: numbers[n] for n, colour in map(str.split, body.split(" and "))}
        assert counted == collections.Counter(t.colour for t in item.scene.things)


def test_few_words(told):
    words = collections.Counter()
    for item in told:
        for text in (*sum(item.expressions, []), *item.captions):
            words.update(text.split())
        words.update(item.narrative["caption"].replace(".", "").split())
    assert 60 < len(words) < 120
    assert all(re.fullmatch("[a-z]+", word) for word in words)


def sentences(narrative):
    """[(text, utterances)] of the sentences."""
    found, current = [], []
    for utterance in narrative["timed_caption"]:
        current.append(utterance)
        if utterance["utterance"].endswith("."):
            text = " ".join(u["utterance"] for u in current).removesuffix(".")
            found.append((text, current))
            current = []
    assert not current
    return found


def points_during(narrative, utterances):
    points = [point for segment in narrative["traces"] for point in segment]
    return np.array([
        (p["x"], p["y"]) for p in points
        if any(u["start_time"] <= p["t"] <= u["end_time"] for u in utterances)
    ])  # fmt: skip


def test_the_hand_is_on_the_thing_that_is_named(told):
    shares, reaches = [], []
    for item in told:
        scene = item.scene
        for text, utterances in sentences(item.narrative):
            assert len(text.split()) <= 16
            match = re.search(rf" a (\w+ \w+ \w+ (?:{SHAPES}))", text)
            places = [i for i, t in enumerate(scene.things) if match and t.name == match[1]]
            if match:
                assert places
            if len(places) != 1 or not item.narrative["traces"]:
                continue
            points = points_during(item.narrative, utterances)
            assert len(points) >= 5
            low, high = np.split(scene.bounds[places[0]] / scene.size, 2)
            margin = 0.3 * (high - low)
            inside = ((points > low - margin) & (points < high + margin)).all(axis=1)
            shares.append(inside.mean())
            reaches.append(np.ptp(points, axis=0).max() / (high - low).max())
    assert np.mean(shares) > 0.95 and np.quantile(shares, 0.05) > 0.7
    assert np.mean(reaches) > 0.6  # it goes over the thing, it does not only touch it


def test_spoken_places_hold(told):
    """Sentences tell the truth about where things are, whoever of that name is meant."""
    third = {"left": (0, 0), "middle": (0, 1), "right": (0, 2), "top": (1, 0), "bottom": (1, 2)}
    checked = 0
    for item in told:
        things = located(item.scene)
        for text, _ in sentences(item.narrative):
            match = re.search(r" a (\w+ \w+ \w+ \w+) (?:at the|on the|in the) ([a-z ]+)$", text)
            if match is None:
                continue
            for word in match[2].split():
                axis, row = third[word]
                places = [t[1 + axis] for t in things if t[0] == match[1]]
                assert any(row / 3 <= at <= (row + 1) / 3 for at in places), text
                checked += 1
    assert checked > 50


def test_traces_are_recorded_as_the_official_ones(told):
    outside = pieces = 0
    for item in told:
        traces = item.narrative["traces"]
        times = [point["t"] for segment in traces for point in segment]
        assert times == sorted(times) and all(segment for segment in traces)
        points = np.array([(p["x"], p["y"]) for segment in traces for p in segment])
        assert not traces or (points.min() >= -0.1 and points.max() <= 1.1)
        outside += bool(traces) and ((points < 0) | (points > 1)).any()
        pieces += len(traces) > 1
    assert 0.2 < outside / SCENES < 0.9 and 0.02 < pieces / SCENES < 0.5
    utterances = [u for item in told for u in item.narrative["timed_caption"]]
    joined = np.mean([" " in u["utterance"] for u in utterances])
    lost = np.mean([u["end_time"] == 0 for u in utterances])
    assert 0.01 < joined < 0.1 and 0.001 < lost < 0.03
    timed = [u for u in utterances if u["end_time"] > 0]
    assert all(0.1 < u["end_time"] - u["start_time"] < 1.5 for u in timed)
