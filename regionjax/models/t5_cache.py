"""What T5's decoder keeps between tokens, layer by layer and laid out as its products want it."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class LayerCache:
    """What one layer needs to go on.

    Attributes:
      own_k, own_v: of the tokens so far, [B·R·W, N, C, H] with room for C.
      cross_k, cross_v: of the encoded inputs, [B·R, N, S, H], shared by the W continuations of one.
      params: the layer's own, kernels in the compute dtype. If the loop over tokens cut them out of
        the stack, all weights would be copied for every token.
    """

    own_k: jax.Array
    own_v: jax.Array
    cross_k: jax.Array
    cross_v: jax.Array
    params: dict

    def write(self, k, v, at):
        """With the new tokens' keys and values [B·R·W, 1, N, H] at place `at`."""

        def grown(old, new):
            return jax.lax.dynamic_update_slice_in_dim(old, _heads_first(new), at, axis=2)

        return self.replace(own_k=grown(self.own_k, k), own_v=grown(self.own_v, v))

    def read(self):
        """Own keys and values [B·R·W, C, N, H], and those of the inputs [B·R, S, N, H]."""
        kept = self.own_k, self.own_v, self.cross_k, self.cross_v
        own_k, own_v, *cross = (_heads_first(t) for t in kept)
        return (own_k, own_v), cross


@flax.struct.dataclass
class Cache:
    """All layers; `mask` bool [B·R, S] of the inputs, or None; `length`, the tokens so far."""

    layers: tuple[LayerCache, ...]
    mask: jax.Array | None
    length: jax.Array

    @property
    def room(self):
        """C, the tokens there are places for."""
        return self.layers[0].own_k.shape[2]

    def take(self, index):
        """The continuations `index` i32 [B, R·W'], of which W' in a row are of the same input."""

        def taken(t):
            by_image = t.reshape(index.shape[0], -1, *t.shape[1:])
            by_image = jnp.take_along_axis(by_image, index[:, :, None, None, None], axis=1)
            return by_image.reshape(-1, *t.shape[1:])

        layers = (t.replace(own_k=taken(t.own_k), own_v=taken(t.own_v)) for t in self.layers)
        return self.replace(layers=tuple(layers))


def start(kept, params, mask, room):
    """A Cache after the first token.

    Args:
      kept: own k, own v [layers, B·R, 1, N, H], cross k, cross v [layers, B·R, S, N, H].
      params: of every layer, see LayerCache.
      mask: see Cache.
      room: how many more tokens a continuation can take.
    """
    own_k, own_v, *cross = (_heads_first(t) for t in kept)
    pad = [(0, 0)] * 3 + [(0, room), (0, 0)]
    layers = zip(jnp.pad(own_k, pad), jnp.pad(own_v, pad), *cross, params, strict=True)
    return Cache(tuple(LayerCache(*layer) for layer in layers), mask, jnp.asarray(1))


def _heads_first(x):
    """[..., T, N, H] ↔ [..., N, T, H]: kept so, nothing is transposed for a token."""
    return jnp.swapaxes(x, -3, -2)
