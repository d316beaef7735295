"""The pointer: a heatmap over the image for a text."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from regionjax.models import layers

FINER = 2  # cells of the heatmap along a patch


class Pointer(nn.Module):
    """Where a text points: its query against keys of the image, four a patch.

    The keys come from the vision tower and not from the decoder, so that the loss reaches the tower
    on a short way.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query, features):
        """Query [B, R, D] of a text, features [B, P, Dv] → logits f32 [B, R, 2h, 2w]."""
        dense = functools.partial(layers.dense, dtype=self.dtype)
        hidden = nn.gelu(dense(2 * self.width)(name="query_in")(query))
        query = dense(self.width, bias=False)(name="query_out")(hidden)
        hidden = nn.gelu(dense(2 * self.width)(name="key_in")(features))
        key = dense((FINER, FINER, self.width), bias=False)(name="key_out")(hidden)
        grid = round(key.shape[1] ** 0.5)
        key = key.reshape(-1, grid, grid, FINER, FINER, self.width).swapaxes(2, 3)
        key = key.reshape(-1, grid * FINER, grid * FINER, self.width)
        heat = jnp.einsum("brd,bhwd->brhw", query, key, preferred_element_type=jnp.float32)
        return heat * self.width**-0.5
