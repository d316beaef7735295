"""Questions about a scene, for which the picture is needed.

Attributes (`what color is the striped circle?`, also of things told by their place), counts, what
is there, relations, and what everything lies on. From its words alone a question cannot be answered
better than its kind: yes and no are as frequent, colours, patterns, shapes and grounds are, and so
nearly are the numbers from 0 to 4 (COUNT_WEIGHTS). An answer's own words never stand in what the
question names things by, since things of a scene share few colours and shapes.
"""

import collections
import dataclasses

from input_pipeline.scenes.expressions import ANYTHING
from input_pipeline.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    SHAPES,
    article,
    plural,
)

ANNOTATORS = 10
DISSENT = (0.6, 0.9)  # borders of the draws that give 0, 1 or 2 annotators who are wrong

# What is asked: (beginning of the question, the words to answer with, place in Phrases.words).
ATTRIBUTES = {
    "color": ("what color is the", tuple(COLOURS), 1),
    "pattern": ("what pattern has the", PATTERNS, 2),
    "shape": ("what shape is the", SHAPES, 3),
}
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
GROUND = "what does everything lie on"
# Kind of word: how likely the counts 0, 1, 2, 3, 4 are drawn, where a scene has words of them;
# small counts are there in most scenes, large ones in few.
COUNT_WEIGHTS = {
    "color": (1.0, 1.3, 1.7, 4.5, 20.0),
    "pattern": (1.0, 0.7, 0.9, 2.5, 20.0),
    "shape": (1.0, 1.2, 1.7, 4.5, 20.0),
}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, in VQAv2's terms.

    Attributes:
      kind: the words that it begins with, VQAv2's `question_type`.
      answer_type: "yes/no", "number" or "other".
      answers: of the annotators, most of whom say `answer`.
    """

    kind: str
    text: str
    answer: str
    answer_type: str
    answers: tuple


def ask(scene, phrases, rng):
    """Up to seven Questions, one of each kind that the scene allows."""
    found = [
        _attribute(_by_attributes(phrases), rng),
        _attribute(_by_place(phrases), rng),
        _count(phrases, rng),
        _is_there(phrases, rng),
        _relation(phrases, rng),
    ]
    if rng.random() < 0.5:
        found.append((GROUND, f"{GROUND}?", scene.background, BACKGROUNDS))
    return [_answered(*question, rng) for question in found if question]


def _answered(kind, text, answer, words, rng):
    """A Question whose annotators, one or two at most, say another of the possible `words`."""
    lots = rng.random(2).tolist()
    wrong = sum(lots[0] >= border for border in DISSENT)
    others = [word for word in words if word != answer]
    answers = [answer] * ANNOTATORS
    for place in rng.permutation(ANNOTATORS)[:wrong].tolist():
        answers[place] = others[int(lots[1] * len(others))]
    types = {"yes": "yes/no", "no": "yes/no"}
    answer_type = "number" if answer.isdecimal() else types.get(answer, "other")
    return Question(kind, text, answer, answer_type, tuple(answers))


# ---- attributes ---------------------------------------------------------------------------------


def _by_attributes(phrases):
    """{attribute: [(thing, what to call it)]} by phrases that fit the thing alone."""
    found = collections.defaultdict(list)
    for index, words in enumerate(phrases.words):
        alone = [name for name in phrases.names[index] if len(name) == 1]
        for phrase in (*phrases.unique[index], *alone):
            for attribute, (_, _, place) in ATTRIBUTES.items():
                if words[place] not in phrase:
                    found[attribute].append((index, phrase))
    return _named(found, phrases)


def _by_place(phrases):
    """The same of things that are told by where they are, seen from another."""
    found = collections.defaultdict(list)
    for index, words in enumerate(phrases.words):
        for head, relation, name in phrases.related(index):
            for attribute, (_, known, place) in ATTRIBUTES.items():
                # The other thing's attribute would tell which are frequent in this scene, but for
                # the shape that it alone has.
                silent = len(name) == 1 or not set(name) & set(known)
                if silent and words[place] not in head:
                    found[attribute].append((index, (*head, relation, "the", *name)))
    return _named(found, phrases)


def _named(found, phrases):
    """[(attribute, [(answer, words)])] of the attributes that something can be asked about."""
    return [
        (
            attribute,
            [(phrases.words[index][ATTRIBUTES[attribute][2]], words) for index, words in named],
        )
        for attribute, named in found.items()
    ]


def _attribute(askable, rng):
    lots = rng.random(2).tolist()
    if not askable:
        return None
    attribute, named = askable[int(lots[0] * len(askable))]
    answer, words = named[int(lots[1] * len(named))]
    kind, known, _ = ATTRIBUTES[attribute]
    return kind, f"{kind} {' '.join(words)}?", answer, known


# ---- counts and what is there -------------------------------------------------------------------


def _count(phrases, rng):
    lots = rng.random(3).tolist()
    attribute = tuple(ATTRIBUTES)[int(lots[0] * len(ATTRIBUTES))]
    _, known, place = ATTRIBUTES[attribute]
    counts = collections.Counter(words[place] for words in phrases.words)
    by_count = collections.defaultdict(list)
    for word in known:
        by_count[counts[word]].append(word)
    weights = [
        weight * (count in by_count) for count, weight in enumerate(COUNT_WEIGHTS[attribute])
    ]
    count, rest = 0, lots[1] * sum(weights)
    while rest >= weights[count]:
        rest -= weights[count]
        count += 1
    word = by_count[count][int(lots[2] * len(by_count[count]))]
    things = plural(word) if attribute == "shape" else f"{word} {plural(ANYTHING)}"
    near = [str(other) for other in (count - 1, count + 1) if other >= 0]
    return "how many", f"how many {things} are there?", str(count), near


def _is_there(phrases, rng):
    """Is there a thing of two words that the scene has, together or each apart?"""
    lots = rng.random(3).tolist()
    place = 1 + int(lots[0] * 2)  # color or pattern, with the shape
    there = {(words[place], words[3]) for words in phrases.words}
    first, second = ({pair[part] for pair in there} for part in (0, 1))
    yes = lots[1] < 0.5
    pairs = there if yes else {(a, b) for a in first for b in second} - there
    if not pairs:
        return None
    words = sorted(pairs)[int(lots[2] * len(pairs))]
    text = f"is there {article(words[0])} {' '.join(words)}?"
    return "is there a", text, "yes" if yes else "no", ("yes", "no")


def _relation(phrases, rng):
    """Is one thing on that side of another, or on the opposite one?"""
    lots = rng.random(3).tolist()
    found = [
        (name, relation, other)
        for index in range(len(phrases.words))
        for relation, anchor in phrases.relations(index)
        for name in phrases.names[index]
        for other in phrases.names[anchor]
    ]
    if not found:
        return None
    name, relation, other = found[int(lots[0] * len(found))]
    yes = lots[1] < 0.5
    relation = relation if yes else OPPOSITES[relation]
    text = f"is the {' '.join(name)} {relation} the {' '.join(other)}?"
    return "is the", text, "yes" if yes else "no", ("yes", "no")
