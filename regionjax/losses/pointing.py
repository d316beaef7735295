"""Pointing: the heatmap of a text must lie on the box that the text refers to."""

import jax
import jax.numpy as jnp

from regionjax.grid import overlap_weights


def pointing(heat, target_box, grid):
    """Cross-entropy between a heatmap and the box's share of each cell.

    Args:
      heat: f32 [B, R, P], logits over the h·w cells in row-major order.
      target_box: f32 [B, R, 4] xyxy; all zeros where a slot has none, which then weighs 0.
      grid: h = w.

    Returns:
      (sum over slots, number of slots with a box)
    """
    rows = overlap_weights(target_box[..., 1], target_box[..., 3], 1, grid)[..., 0, :]
    columns = overlap_weights(target_box[..., 0], target_box[..., 2], 1, grid)[..., 0, :]
    share = (rows[..., :, None] * columns[..., None, :]).reshape(heat.shape)
    present = has_box(target_box)
    share = share / jnp.maximum(share.sum(-1, keepdims=True), 1e-9)
    each = -(share * jax.nn.log_softmax(heat, axis=-1)).sum(-1)
    return (each * present).sum(), present.sum()


def has_box(target_box):
    """f32 [B, R]: 1 where the slot has a box."""
    return (target_box[..., 2] > target_box[..., 0]).astype(jnp.float32)
