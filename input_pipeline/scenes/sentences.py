"""Whole-image captions, and what a speaker says about one object."""

import collections

from input_pipeline.scenes.vocabulary import NUMBERS, plural

FIRST = ("in this image i can see", "here we can see", "this image shows")
NEXT = ("there is", "i can also see", "we can see")
GROUND = ("the background is", "everything lies on")

# third of the image, top to bottom and left to right: how a speaker says where
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
BORDER = 0.04  # nearer to the border of two thirds, a place is in doubt


def captions(scene):
    """Two captions: what shapes there are, and what colours; the largest count first.

    Such as `two circles and one star on sand` and `two red and one blue object on sand`.
    """
    shapes = _counts(thing.shape for thing in scene.things)
    by_shape = " and ".join(f"{NUMBERS[n]} {plural(word) if n > 1 else word}" for word, n in shapes)
    colours = _counts(thing.colour for thing in scene.things)
    by_colour = " and ".join(f"{NUMBERS[n]} {word}" for word, n in colours)
    noun = plural("object") if colours[-1][1] > 1 else "object"
    return [f"{by_shape} on {scene.background}", f"{by_colour} {noun} on {scene.background}"]


def _counts(words):
    return sorted(collections.Counter(words).items(), key=lambda item: (-item[1], item[0]))


def spoken(scene, phrases, index, first, rng):
    """One sentence about thing `index`: its name and, where it is clear, where it is.

    Args:
      first: whether it opens the narrative.
    """
    opening = _pick(FIRST if first else NEXT, rng)
    name = scene.things[index].name
    where = [
        f"{relation} the {' '.join(words)}"
        for relation, anchor in phrases.relations(index)
        for words in phrases.names[anchor]
    ]
    place = _place(scene.centres[index].tolist())
    if not where or (place and rng.random() < 0.5):
        where = [place]
    return " ".join(filter(None, (opening, "a", name, _pick(where, rng))))


def spoken_ground(scene, rng):
    """One sentence about what everything lies on."""
    return f"{_pick(GROUND, rng)} {scene.background}"


def _place(centre):
    """The words for the third of the image that `centre` lies in; None near a border."""
    thirds = [min(int(3 * at), 2) for at in centre]
    if any(abs(at - border / 3) < BORDER for at in centre for border in (1, 2)):
        return None
    column, row = thirds
    return PLACES[row][column]


def _pick(choices, rng):
    return choices[int(rng.random() * len(choices))]
