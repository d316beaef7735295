"""Pointing: the heatmap of a text must peak in the middle of the box that the text refers to."""

import jax
import jax.numpy as jnp

SPREAD = 0.2  # standard deviation of the wanted heat, in sides of the box …
LEAST = 0.5  # … but no less than this, in cells


def pointing(heat, target_box):
    """Cross-entropy between a heatmap and a Gaussian on the box, as wide and as high as the box.

    Even heat all over the box would leave the peak to chance, often in a corner and so beside the
    object (as in CenterNet, Zhou et al. 2019).

    Args:
      heat: f32 [B, R, h, w], logits.
      target_box: f32 [B, R, 4] xyxy; all zeros where a slot has none, which then weighs 0.

    Returns:
      (sum over slots, number of slots with a box)
    """
    height, width = heat.shape[-2:]
    columns, rows = (_bell(target_box[..., axis::2], n) for axis, n in ((0, width), (1, height)))
    share = rows[..., :, None] * columns[..., None, :]
    present = has_box(target_box)
    share = share / share.sum((-2, -1), keepdims=True)
    each = -(share * jax.nn.log_softmax(heat, axis=(-2, -1))).sum((-2, -1))
    return (each * present).sum(), present.sum()


def _bell(interval, cells):
    """f32 [..., 2] low and high in [0, 1] → [..., cells], a Gaussian at the cells' middles."""
    low, high = interval[..., :1] * cells, interval[..., 1:] * cells
    spread = jnp.maximum(SPREAD * (high - low), LEAST)
    return jnp.exp(-0.5 * ((jnp.arange(cells) + 0.5 - (low + high) / 2) / spread) ** 2)


def has_box(target_box):
    """f32 [B, R]: 1 where the slot has a box."""
    return (target_box[..., 2] > target_box[..., 0]).astype(jnp.float32)
