"""Regular grids: how intervals of [0, 1] cover their cells, and from one size to another."""

import jax.numpy as jnp
import numpy as np


def overlap_weights(low, high, cells, bins):
    """How much of each bin of [0, 1] lies in each cell of the interval [low, high].

    Args:
      low, high: f32 [...], an interval in [0, 1]; it is cut into `cells` equal cells.

    Returns:
      f32 [..., cells, bins]: covered share of the bin, 0…1.
    """
    edges = low[..., None] + (high - low)[..., None] * np.linspace(
        0, 1, cells + 1, dtype=np.float32
    )
    start, end = edges[..., :-1, None] * bins, edges[..., 1:, None] * bins
    bin_start = np.arange(bins, dtype=np.float32)
    return jnp.clip(jnp.minimum(end, bin_start + 1) - jnp.maximum(start, bin_start), 0, 1)


def downsample_weights(grid, size):
    """Area-average matrix, numpy f32 [grid, size]: each row sums to 1."""
    edges = np.linspace(0, size, grid + 1)
    pixel = np.arange(size)
    weights = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(weights, 0, 1)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def bicubic_weights(size, bins):
    """Sampling matrix along one axis, numpy f32 [size, bins]; each row sums to 1.

    PyTorch's `interpolate(mode="bicubic", align_corners=False)`: the cubic kernel with a = -0.75
    (Keys' own, which jax.image.resize uses, has -0.5) and edges repeated beyond the grid.
    """
    a = -0.75
    centre = (np.arange(size) + 0.5) * (bins / size) - 0.5
    nearest = np.floor(centre).astype(int)
    weights = np.zeros((size, bins))
    for step in (-1, 0, 1, 2):
        x = np.abs(centre - (nearest + step))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        index = np.clip(nearest + step, 0, bins - 1)
        weights[np.arange(size), index] += np.where(x <= 1, near, far)
    return weights.astype(np.float32)


def bilinear_weights(size, bins):
    """The same for `interpolate(mode="bilinear", antialias=True)`: wider when shrinking."""
    scale = bins / size
    centre = (np.arange(size) + 0.5) * scale - 0.5
    distance = np.abs(centre[:, None] - np.arange(bins)) / max(scale, 1)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
