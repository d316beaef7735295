"""Referring expressions: each fits exactly one object of its scene, and needs what it says.

Objects are told apart by attributes (`the red circle`), by relation to another object (`the circle
left of the blue square`) or by being farthest to one side (`the leftmost star`). A place is the
middle of the visible bounding box. Spatial words are used only where nobody would argue: what they
hold for must clear a margin, and what they do not hold for must be clearly elsewhere.
"""

import itertools

import numpy as np

CLEAR = 0.1  # the least distance a spatial word stands for, fraction of the image side
DOUBT = 0.03  # what is less far than this in its direction is clearly not meant

# word: (axis, sign) of the direction it names
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
SUPERLATIVES = {"leftmost": (0, -1), "rightmost": (0, 1), "highest": (1, -1), "lowest": (1, 1)}
ANYTHING = "object"


class Phrases:
    """What can be said of the things of a scene; sets of things are the bits of an int.

    Attributes:
      words: per thing, (size, colour, pattern, shape).
      unique: per thing, the shortest phrases (tuples of words) that fit it alone and need each of
        their attributes. A thing whose shape occurs once is an `object` there, since its shape
        would say it all.
      names: per thing, phrases of at most two words that fit it alone, to relate others to it.
    """

    def __init__(self, scene):
        self.words = [(t.size, t.colour, t.pattern, t.shape) for t in scene.things]
        self._fits = {ANYTHING: (1 << len(self.words)) - 1}
        for index, words in enumerate(self.words):
            for word in words:
                self._fits[word] = self._fits.get(word, 0) | 1 << index
        self.unique = [self._unique(index) for index in range(len(self.words))]
        self.names = [
            [words[-1:]]
            if self._fits[words[-1]] == 1 << index
            else [phrase for phrase in self.unique[index] if len(phrase) == 2]
            for index, words in enumerate(self.words)
        ]
        self._centres = scene.centres.tolist()
        offsets = scene.centres[:, None] - scene.centres  # [thing, anchor, xy]
        self._clearly, self._perhaps = {}, {}  # {relation: per anchor, bits of things}
        for relation, (axis, sign) in RELATIONS.items():
            ahead, aside = offsets[..., axis] * sign, np.abs(offsets[..., 1 - axis])
            self._clearly[relation] = _bits((ahead >= CLEAR) & (ahead >= aside))
            self._perhaps[relation] = _bits(ahead > DOUBT)

    def _fitting(self, words):
        bits = self._fits[ANYTHING]
        for word in words:
            bits &= self._fits[word]
        return bits

    def _unique(self, index):
        *attributes, shape = self.words[index]
        alone = 1 << index
        noun = ANYTHING if self._fits[shape] == alone else shape
        found = []
        for count in range(1, len(attributes) + 1):
            for chosen in itertools.combinations(attributes, count):
                needed = not any(set(phrase[:-1]) <= set(chosen) for phrase in found)
                if needed and self._fitting((*chosen, noun)) == alone:
                    found.append((*chosen, noun))
        return found

    def relations(self, index):
        """[(relation, anchor)]: where thing `index` clearly is, seen from others with a name."""
        return [
            (relation, anchor)
            for relation, clearly in self._clearly.items()
            for anchor, bits in enumerate(clearly)
            if bits >> index & 1 and self.names[anchor]
        ]

    def related(self, index):
        """[(head, relation, name of the anchor)] that fit thing `index` alone, as word tuples.

        The head alone fits others too, so that the relation is needed.
        """
        _, colour, _, shape = self.words[index]
        found = []
        for head in ((shape,), (colour, shape), (colour, ANYTHING)):
            rivals = self._fitting(head) & ~(1 << index)
            for relation, anchor in self.relations(index) if rivals else ():
                if not rivals & ~(1 << anchor) & self._perhaps[relation][anchor]:
                    found += [(head, relation, name) for name in self.names[anchor]]
        return found

    def farthest(self, index):
        """[(superlative, head)] such as (leftmost, (star,)) that fit thing `index` alone."""
        _, colour, _, shape = self.words[index]
        found = []
        for head in ((shape,), (colour, ANYTHING)):
            bits = self._fitting(head) & ~(1 << index)
            rivals = [at for other, at in enumerate(self._centres) if bits >> other & 1]
            for word, (axis, sign) in SUPERLATIVES.items() if rivals else ():
                next_best = max(sign * at[axis] for at in rivals)
                if sign * self._centres[index][axis] - next_best >= CLEAR:
                    found.append((word, head))
        return found


def _bits(holds):
    """bool [things, anchors] to one int an anchor."""
    return ((1 << np.arange(len(holds)))[:, None] * holds).sum(axis=0).tolist()


def refer(phrases, rng):
    """Per thing, up to two expressions: one by attributes, one by its place among the others.

    Its place is a relation to another thing or being farthest to a side, drawn evenly.

    Returns:
      list (things) of lists of str; empty where nothing tells a thing from the others.
    """
    told = []
    for index in range(len(phrases.words)):
        kinds = (
            ["the " + " ".join(words) for words in phrases.unique[index]],
            [
                f"the {' '.join(head)} {relation} the {' '.join(name)}"
                for head, relation, name in phrases.related(index)
            ],
            [f"the {word} {' '.join(head)}" for word, head in phrases.farthest(index)],
        )
        by_attribute, *by_place = kinds
        by_place = [kind for kind in by_place if kind]
        which, *lots = rng.random(3).tolist()
        chosen = [by_attribute, by_place[int(which * len(by_place))] if by_place else []]
        told.append(
            [kind[int(lot * len(kind))] for kind, lot in zip(chosen, lots, strict=True) if kind]
        )
    return told
