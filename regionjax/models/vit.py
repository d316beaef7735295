"""Vision Transformer (Dosovitskiy et al. 2021): pre-norm blocks over square patches."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from regionjax.models import attention, layers
from regionjax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a ViT.

    `image_size` and `patch_size` are in pixels; `remat` names a policy, `unroll` is the number of
    layers a scan step. With `stem_patch` > 0 there is a stem before the patch embedding: squares of
    `stem_patch` pixels through one shared nonlinear layer of `stem_width`. Small shared filters
    learn edges and textures from fewer images (early convolutions, Xiao et al. 2021); public
    checkpoints have none.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    remat: str = "none"
    unroll: int = 1
    stem_patch: int = 0
    stem_width: int = 0

    def __post_init__(self):
        layers.check_remat(self.remat)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.stem_patch and (self.patch_size % self.stem_patch or self.stem_width < 1):
            raise ValueError(
                f"stem_patch {self.stem_patch} must divide patch_size {self.patch_size}, "
                f"with a stem_width above 0 (now {self.stem_width})"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")

    @property
    def grid(self):
        """Patches a side: h = w."""
        return self.image_size // self.patch_size

    @property
    def patches(self):
        """P"""
        return self.grid**2


class Block(nn.Module):
    """One encoder layer: x += attention(norm(x)); x += mlp(norm(x)), with LayerNorm and GELU."""

    config: ViTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, _):
        c, dense = self.config, layers.dense
        y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        heads = (c.heads, c.width // c.heads)
        q = layers.point(dense(heads, self.dtype)(name="query")(y), "query")
        k = layers.point(dense(heads, self.dtype)(name="key")(y), "key")
        v = layers.point(dense(heads, self.dtype)(name="value")(y), "value")
        y = attention.attend(*(constrain(t, "heads") for t in (q, k, v)))
        y = dense(c.width, self.dtype, inputs=2)(name="attention_out")(y)
        x = constrain(x + layers.point(y, "attention_out"), "tokens")
        y = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
        y = layers.point(dense(c.mlp_width, self.dtype)(name="mlp_up")(y), "mlp_up")
        y = dense(c.width, self.dtype)(name="mlp_out")(nn.gelu(constrain(y, "hidden")))
        return constrain(x + layers.point(y, "mlp_out"), "tokens"), None


def squares(x, size):
    """[B, H, W, C] → [B, H / size, W / size, size·size·C]: pixels of a square side by side."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(batch, height // size, width // size, -1)


class ViT(nn.Module):
    """uint8 image [B, S, S, 3] → features of two levels, patches in row-major order.

    Returns:
      features [B, P, D] after the last layer, and embedding [B, P, D] before the first, both
      normalised. The embedding still knows the colours and textures of its own pixels.
    """

    config: ViTConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image):
        c = self.config
        if image.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"image is {list(image.shape)}, expected [B, {c.image_size}, {c.image_size}, 3]"
            )
        x = image.astype(self.dtype) / 127.5 - 1.0
        if c.stem_patch:
            x = squares(x, c.stem_patch)
            x = nn.gelu(layers.dense(c.stem_width, self.dtype)(name="stem")(x))
        x = squares(x, x.shape[1] // c.grid).reshape(x.shape[0], c.patches, -1)
        x = layers.dense(c.width, self.dtype)(name="patch_embedding")(x)
        position = self.param(
            "position_embedding", nn.initializers.normal(0.02), (c.patches, c.width)
        )
        x = constrain(x + position.astype(self.dtype), "tokens")
        embedding = nn.LayerNorm(dtype=self.dtype, name="embedding_norm")(x)
        x, _ = layers.stack(Block, c.depth, c.remat, broadcast=0, unroll=c.unroll)(
            c, self.dtype, name="layers"
        )(x, None)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x), embedding
