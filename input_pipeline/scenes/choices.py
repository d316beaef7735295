"""Questions with four answers and four reasons to choose from, as VCR has them.

Objects are named by their place alone ([2] is the third from the back), so that the answer is seen
where they are or not at all. The wrong texts are drawn as the right one is, and all reasons agree
with the right answer. So the texts tell nothing, neither by what is frequent nor by what they have
in common.

Tokens are words and, for objects, lists of their indices, as in VCR's files.
"""

import dataclasses
import itertools

import numpy as np

from input_pipeline.scenes.scene import FEWEST, LARGE, MOST
from input_pipeline.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS,
    PATTERNS,
    SHAPES,
    article,
)

CHOICES = 4
# attribute: (beginning of the question, the words to answer with, place in Phrases.words)
ATTRIBUTES = {
    "color": (("what", "color", "is"), tuple(COLOURS), 1),
    "pattern": (("what", "pattern", "has"), PATTERNS, 2),
    "shape": (("what", "shape", "is"), SHAPES, 3),
}
NOTHING = "nothing"
# How often the pairs of things that share this are asked about, where a scene has some.
SHARED_WEIGHTS = {"color": 1.93, "pattern": 1.65, "shape": 1.74, NOTHING: 1.0}


@dataclasses.dataclass(frozen=True)
class Choice:
    """A question, its answers and the reasons for the right one, all lists of tokens."""

    question: list
    answers: list
    answer: int
    rationales: list
    rationale: int


def choose(scene, phrases, rng):
    """Two or three Choices: about one thing, about another, about two or about all."""
    count = len(phrases.words)
    things = rng.permutation(count)[:2].tolist()
    kinds = rng.permutation(list(ATTRIBUTES))[:2].tolist()
    found = [_about_one(phrases, *pair, rng) for pair in zip(things, kinds, strict=True)]
    if rng.random() < 0.7:
        found.append(_about_two(phrases, rng))
    else:
        found.append(_about_all(scene.background, count, rng))
    return [choice for choice in found if choice]


def _about_one(phrases, thing, attribute, rng):
    """What color is [2]?  red.  Since [2] is a small red striped circle."""
    begin, known, place = ATTRIBUTES[attribute]
    words = phrases.words[thing]
    answers = _drawn([words[place]], lambda: _any(known, rng))
    names = _drawn([words], lambda: _name(rng, place, words[place]))
    return _choice(
        [*begin, [thing], "?"],
        [[word] for word in answers],
        [[[thing], "is", "a", *name] for name in names],
        rng,
    )


def _about_two(phrases, rng):
    """What do [0] and [2] share?  color.  Since [0] is a red star and [2] is a red circle."""
    pairs = {kind: [] for kind in SHARED_WEIGHTS}
    for one, other in itertools.combinations(range(len(phrases.words)), 2):
        shared = _shared(phrases.words[one], phrases.words[other])
        if len(shared) < 2:
            pairs[shared[0] if shared else NOTHING].append((one, other))
    weights = {kind: SHARED_WEIGHTS[kind] * bool(found) for kind, found in pairs.items()}
    lots = rng.random(2).tolist()
    if not any(weights.values()):
        return None
    borders = np.cumsum(list(weights.values()))
    kind = list(weights)[int(np.searchsorted(borders, lots[0] * borders[-1], side="right"))]
    one, other = pairs[kind][int(lots[1] * len(pairs[kind]))]

    def two():
        while True:
            words = _name(rng)[1:], _name(rng)[1:]
            if _shared(*((None, *name) for name in words)) == ([] if kind == NOTHING else [kind]):
                return words

    truth = phrases.words[one][1:], phrases.words[other][1:]
    rationales = [
        [[one], "is", article(first[0]), *first, "and", [other], "is", article(second[0]), *second]
        for first, second in _drawn([truth], two)
    ]
    answers = [kind, *(word for word in SHARED_WEIGHTS if word != kind)]
    question = ["what", "do", [one, other], "share", "?"]
    return _choice(question, [[word] for word in answers], rationales, rng)


def _shared(one, other):
    """The attributes in which two things are alike; size is not looked at."""
    return [name for name, (_, _, place) in ATTRIBUTES.items() if one[place] == other[place]]


def _about_all(background, count, rng):
    """What does everything lie on?  sand.  Since five objects lie on sand."""
    answers = _drawn([background], lambda: _any(BACKGROUNDS, rng))
    counts = _drawn([count], lambda: int(rng.integers(FEWEST, MOST + 1)))
    return _choice(
        ["what", "does", "everything", "lie", "on", "?"],
        [[word] for word in answers],
        [[NUMBERS[number], "objects", "lie", "on", background] for number in counts],
        rng,
    )


def _choice(question, answers, rationales, rng):
    """A Choice of texts whose first ones are right, in random order."""
    texts = []
    for right_first in (answers, rationales):
        order = rng.permutation(CHOICES).tolist()
        texts += [[right_first[place] for place in order], order.index(0)]
    return Choice(question, *texts)


def _drawn(texts, draw):
    """The text there is and what is drawn, CHOICES different ones in all."""
    while len(texts) < CHOICES:
        text = draw()
        if text not in texts:
            texts.append(text)
    return texts


def _any(words, rng):
    return words[int(rng.random() * len(words))]


def _name(rng, place=None, word=None):
    """(size, color, pattern, shape) drawn as a scene draws them, but for the word at `place`."""
    words = [
        "large" if rng.random() < LARGE else "small",
        _any(tuple(COLOURS), rng),
        _any(PATTERNS, rng),
        _any(SHAPES, rng),
    ]
    if place is not None:
        words[place] = word
    return tuple(words)
