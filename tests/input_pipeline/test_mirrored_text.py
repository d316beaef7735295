"""Texts about mirrored images: left and right change places where they mean sides."""

import pytest

from input_pipeline.mirrored_text import mirrored_text

# Each is the other's text.
PAIRS = [
    ("man on the left", "man on the right"),
    ("Left guy", "Right guy"),
    ("RIGHT", "LEFT"),
    ("leftmost zebra, left of the tree", "rightmost zebra, right of the tree"),
    ("on the left-hand side", "on the right-hand side"),
    ("a right-handed batter raises his right arm", "a left-handed batter raises his left arm"),
    ("topleft corner or bottom right", "topright corner or bottom left"),
    ("guy on right in blue", "guy on left in blue"),
    ("from left to right", "from right to left"),
    ("is the cat right of the dog?", "is the cat left of the dog?"),
    ("the chairs are left of [0] and [12]", "the chairs are right of [0] and [12]"),
    ("turning clockwise", "turning counterclockwise"),
    ("lhs", "rhs"),
    ("facing left; a bright, upright copyright", "facing right; a bright, upright copyright"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_sides_change_places(one, other):
    assert mirrored_text(one) == other
    assert mirrored_text(other) == one


@pytest.mark.parametrize("text", ["Anti-clockwise", "Counter-clockwise", "Anticlockwise"])
def test_the_other_turns(text):
    assert mirrored_text(text) == "Clockwise"


@pytest.mark.parametrize("text", ["", "a red box", "naïve café 左"])
def test_texts_without_sides_stay(text):
    assert mirrored_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "nothing is left",
        "what is left on the plate",
        "how many slices are left?",
        "they left the room",
        "right behind the bus",
        "he is right",
        "turn at the right time",
        "all right",
        "at a right angle on the left",
        "leftovers",
        "lefty on the left",
        "l side",
        "top R",
        "player 23",
        "7:45 on the clock",
        "three o'clock",
        'a sign with "stop"',
        "what does the sign say",
        "the word on the left",
        "a ship to starboard",
    ],
)
def test_what_cannot_be_said_safely(text):
    assert mirrored_text(text) is None
