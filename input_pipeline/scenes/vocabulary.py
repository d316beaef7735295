"""The words of the built-in world and what they look like.

Every object is named by four words in fixed order, such as `small red striped circle`; each such
name is a COCO category. Sentences add the small closed set of words in `expressions`, `sentences`
and here; the whole vocabulary stays under 120 words.
"""

import itertools

SIZES = ("small", "large")
PATTERNS = ("plain", "striped", "dotted", "checkered")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart")
BACKGROUNDS = ("sand", "grass", "water", "stone", "wood")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")

# word: (main colour, second colour of its patterns), RGB 0…255. The second one is far in
# brightness, so that a pattern shows at three pixels, and near white or dark, so that it does not
# change the name of the colour.
COLOURS = {
    "red": ((206, 36, 42), (250, 214, 208)),
    "orange": ((246, 136, 28), (112, 52, 8)),
    "yellow": ((248, 220, 52), (122, 98, 10)),
    "green": ((46, 160, 62), (216, 244, 206)),
    "blue": ((40, 82, 204), (208, 224, 252)),
    "purple": ((128, 48, 172), (236, 212, 248)),
    "pink": ((248, 142, 190), (132, 40, 84)),
    "white": ((244, 244, 240), (92, 94, 104)),
}

NAMES = tuple(
    " ".join(words) for words in itertools.product(SIZES, COLOURS, PATTERNS, SHAPES)
)  # fmt: skip
CATEGORY_IDS = {name: place + 1 for place, name in enumerate(NAMES)}


def categories():
    """COCO `categories`: one a name, the shape as supercategory."""
    return [
        {"id": CATEGORY_IDS[name], "name": name, "supercategory": name.split()[-1]}
        for name in NAMES
    ]


def plural(shape):
    """The plural of a shape or of `object`: `crosses`, `circles`."""
    return shape + ("es" if shape.endswith("s") else "s")


def article(word):
    """The article before a word: `an orange`, `a red`."""
    return "an" if word[0] in "aeiou" else "a"
