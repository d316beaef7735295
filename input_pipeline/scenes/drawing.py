"""From a scene to pixels: the ground, then each object over what lies behind it."""

import math

import numpy as np

from input_pipeline.scenes.backgrounds import ground
from input_pipeline.scenes.vocabulary import COLOURS

RIM = 0.32  # brightness of the rim, of the main colour's

# pattern: length of one period, in radii of the object
PERIODS = {"striped": 0.8, "dotted": 0.74, "checkered": 0.84}


def draw(scene, rng):
    """uint8 [size, size, 3] RGB; `rng` decides the ground alone."""
    canvas = ground(scene.background, scene.size, rng)
    for thing in scene.things:
        height, width = thing.cut_out.solid.shape
        window = canvas[thing.y : thing.y + height, thing.x : thing.x + width]
        surface = _surface(thing)
        surface -= window
        surface *= (thing.cut_out.coverage * np.float32(1 / 255))[:, :, None]
        window += surface
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _surface(thing):
    """f32 [h, w, 3]: the object's colours, as if it filled its cut-out."""
    tint, brightness, light_x, light_y = thing.accidents[:4]
    main, second = np.array(COLOURS[thing.colour], np.float32) * np.float32(1 + 0.09 * brightness)
    main += np.array([7 * tint, -7 * tint, 7 * light_x * tint], np.float32)
    face = thing.cut_out.face * np.float32(1 / 255)
    height, width = face.shape
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    lit = face * (1 + (0.12 * light_x / thing.radius) * x + (0.12 * light_y / thing.radius) * y)
    rim = RIM - RIM * face
    if thing.pattern == "plain":
        return (lit + rim)[:, :, None] * main
    share = lit * _pattern(thing, x, y)
    return (lit - share + rim)[:, :, None] * main + share[:, :, None] * second


def _pattern(thing, x, y):
    """f32 [h, w] in [0, 1]: how much of the second colour a pixel shows; edges one pixel soft."""
    angle, phase_u, phase_v, scale = thing.accidents[4:]
    turn = angle * math.pi / 10 + (math.pi / 4 if thing.pattern == "striped" else 0)
    period = PERIODS[thing.pattern] * thing.radius * (1 + 0.08 * scale)
    across, along = math.cos(turn) / period, math.sin(turn) / period
    u = across * x + along * y + phase_u
    if thing.pattern == "striped":
        return _bars(u, period)
    v = across * y - along * x + phase_v
    if thing.pattern == "checkered":
        u, v = _bars(u, period), _bars(v, period)
        return u + v - 2 * u * v
    u -= np.rint(u)
    v -= np.rint(v)
    return np.clip(0.31 * period + 0.5 - np.sqrt(u * u + v * v) * period, 0, 1)


def _bars(phase, period):
    """Half of each unit of `phase` 1, the other half 0; soft over a pixel of `period` to one."""
    to_edge = 0.25 - np.abs(phase - np.rint(phase))  # 0 at both edges of a bar
    return np.clip(to_edge * period + 0.5, 0, 1)
