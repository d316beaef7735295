"""How intervals of [0, 1] cover the cells of a regular grid; areas instead of sampling."""

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
