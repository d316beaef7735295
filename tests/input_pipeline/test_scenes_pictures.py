"""Scenes as pictures: masks that are what was drawn, and nothing to guess without looking."""

import collections
import dataclasses

import numpy as np
import pytest

from input_pipeline.scenes import vocabulary
from input_pipeline.scenes.drawing import draw
from input_pipeline.scenes.scene import make_scene
from input_pipeline.scenes.shapes import cut_out


def scene_of(seed, size=96):
    return make_scene(np.random.default_rng([3, seed]), size)


def picture(scene):
    return draw(scene, np.random.default_rng(0)).astype(int)


def grown(mask):
    """The mask and its eight neighbours."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any(
        [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0
    )


@pytest.mark.parametrize("seed", range(12))
def test_masks_are_the_pixels_that_change_without_the_thing(seed):
    scene = scene_of(seed, size=(64, 96, 128)[seed % 3])
    whole = picture(scene)
    for index, mask in enumerate(scene.masks):
        others = scene.things[:index] + scene.things[index + 1 :]
        without = picture(dataclasses.replace(scene, things=others))
        changed = (whole != without).any(axis=-1)
        assert changed[mask].mean() > 0.99  # the rest has by chance the colour behind it
        # beyond: its soft edge, one pixel; and what shines through the soft edges before it
        assert (changed & ~grown(mask)).sum() <= 0.02 * mask.sum()


def test_things_can_be_seen():
    for seed in range(60):
        scene = scene_of(seed)
        assert 3 <= len(scene.things) <= 8
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            assert mask.sum() >= 0.55 * thing.cut_out.pixels
            assert thing.cut_out.pixels > (110 if thing.size == "small" else 330)


def test_small_and_large_are_apart():
    things = [thing for seed in range(60) for thing in scene_of(seed).things]
    small = [thing.radius for thing in things if thing.size == "small"]
    large = [thing.radius for thing in things if thing.size == "large"]
    assert max(small) * 1.3 < min(large)


def test_accidents_do_not_rename_a_colour():
    """The main colour on the face of plain things stays nearest to its own word."""
    palette = {word: np.array(main) for word, (main, _) in vocabulary.COLOURS.items()}
    wrong = total = 0
    for seed in range(80):
        scene = scene_of(seed)
        pixels = picture(scene)
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            if thing.pattern != "plain":
                continue
            mean = np.median(pixels[mask], axis=0)
            nearest = min(palette, key=lambda word: np.abs(palette[word] - mean).sum())
            wrong, total = wrong + (nearest != thing.colour), total + 1
    assert total > 80 and wrong == 0


def test_outlines_differ():
    """Every two shapes of one size disagree on much of their pixels, whatever their tilt."""
    solids = {}
    for shape in vocabulary.SHAPES:
        for tilt in (-6, 0, 6):
            solid = cut_out(shape, 22, tilt, 0).solid
            frame = np.zeros((40, 40), bool)
            top, left = (40 - solid.shape[0]) // 2, (40 - solid.shape[1]) // 2
            frame[top : top + solid.shape[0], left : left + solid.shape[1]] = solid
            solids[shape, tilt] = frame
    for (a, _), one in solids.items():
        for (b, _), other in solids.items():
            if a != b:
                assert (one & other).sum() / (one | other).sum() < 0.87, (a, b)


def test_nothing_can_be_guessed_without_the_region():
    """Even who knows all names of an image, but not the region, is right once in four."""
    things = hits = 0
    names = collections.Counter()
    for seed in range(300):
        found = collections.Counter(thing.name for thing in scene_of(seed).things)
        things += found.total()
        hits += max(found.values())
        names += found
    assert hits / things < 0.25
    assert max(names.values()) / things < 0.02
    assert len(names) > 350
    for place, words in enumerate((vocabulary.SIZES, vocabulary.COLOURS, vocabulary.PATTERNS)):
        shares = collections.Counter()
        for name, count in names.items():
            shares[name.split()[place]] += count / things
        assert set(shares) == set(words) and max(shares.values()) < 1.35 / len(words)


def test_shapes_repeat_in_a_scene():
    """So that an expression needs more than the shape."""
    shared = total = 0
    for seed in range(100):
        shapes = collections.Counter(thing.shape for thing in scene_of(seed).things)
        shared += sum(count for count in shapes.values() if count > 1)
        total += shapes.total()
    assert shared / total > 0.6
