"""Textured grounds that objects lie on: sand, grass, water, stone and wood.

A texture is made once for each process from fixed seeds and large enough to crop from; each scene
takes another crop, mirrored, tinted and lit differently. Noise is grown by Pillow's integer
resampling, so that the same world comes out on every machine.
"""

import functools

import numpy as np
from PIL import Image

TEXTURE = 384  # pixels a side; scenes crop from it

# word: main RGB, kept dull so that no object has a ground's colour
TONES = {
    "sand": (196, 172, 132),
    "grass": (84, 112, 62),
    "water": (88, 128, 152),
    "stone": (132, 130, 128),
    "wood": (134, 98, 70),
}

# word: (cells across, cells down, strength in brightness levels) of each layer of noise
LAYERS = {
    "sand": ((384, 384, 26), (96, 96, 12), (12, 12, 14)),
    "grass": ((192, 40, 40), (384, 96, 30), (14, 14, 22)),
    "water": ((20, 96, 34), (44, 192, 22), (8, 12, 18)),
    "stone": ((40, 40, 40), (110, 110, 26), (384, 384, 14)),
    "wood": ((6, 110, 42), (14, 220, 26), (384, 384, 10)),
}


@functools.cache
def _texture(kind):
    """f32 [TEXTURE, TEXTURE], brightness levels around 0."""
    rng = np.random.default_rng([20170, *kind.encode()])
    total = np.zeros((TEXTURE, TEXTURE), np.float32)
    for across, down, strength in LAYERS[kind]:
        noise = Image.fromarray(rng.integers(0, 256, (down, across), dtype=np.uint8))
        grown = noise.resize((TEXTURE, TEXTURE), Image.Resampling.BICUBIC)
        total += (np.asarray(grown, np.float32) - 127.5) / 127.5 * strength
    return total


def ground(kind, size, rng):
    """f32 [size, size, 3] RGB, about 0…255.

    Args:
      kind: one of the words in TONES.
      size: pixels a side, at most TEXTURE.
    """
    x, y = rng.integers(0, TEXTURE - size + 1, 2).tolist()
    light = rng.uniform(-1, 1, 8).astype(np.float32)
    texture = _texture(kind)[y : y + size, x : x + size]
    texture = texture[:, ::-1] if light[0] > 0 else texture
    ramp = np.linspace(-14, 14, size, dtype=np.float32)
    brightness = texture * (0.9 + 0.2 * light[1])
    brightness += light[2] * ramp + (light[3] * ramp)[:, None]
    tone = np.array(TONES[kind], np.float32) * (1 + 0.08 * light[4]) + 9 * light[5:]
    return brightness[:, :, None] + tone
