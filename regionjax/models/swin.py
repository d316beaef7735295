"""Swin Transformer, version 1 (Liu et al. 2021): attention in windows, every second time shifted.

Four stages; between two of them 2×2 patches are merged into one of twice the width, so the last
map is at 1/32 of the image. What a window does not divide is filled up with zeros below and to the
right, and these zeros are attended to, as in the reference.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from regionjax.models import attention, layers
from regionjax.models.vit import IMAGENET
from regionjax.models.windows import squares
from regionjax.sharding import constrain

EPSILON = 1e-5  # of every LayerNorm


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin Transformer.

    Attributes:
      image_size: what the public weights were trained at; images of any size go in.
      width: D of the first stage, doubled by every further one.
      depths: layers of each stage, even: they come in pairs, one plain and one shifted.
      heads: attention heads of each stage.
      window: side of a window, in patches.
      always_shift: whether windows also shift where the map is no larger than one window (detection
        backbones) or not (classifiers, whose weights are the public ones).
      mean, std: of the pixels, in 0…1, that the weights expect to be normalised.
    """

    image_size: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    patch_size: int = 4
    mlp_ratio: float = 4.0
    always_shift: bool = False
    mean: tuple[float, float, float] = IMAGENET["mean"]
    std: tuple[float, float, float] = IMAGENET["std"]
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        layers.check_remat(self.remat)
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {self.depths} and heads {self.heads} differ in length")
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if depth % 2:
                raise ValueError(f"depths[{stage}] is {depth}; layers come in pairs")
            if self.widths[stage] % heads:
                raise ValueError(
                    f"heads[{stage}] is {heads}, but the width there is {self.widths[stage]}"
                )

    @property
    def widths(self):
        """D of each stage."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))

    def mlp_width(self, stage):
        """Hidden units of an MLP in that stage."""
        return int(self.mlp_ratio * self.widths[stage])

    def grids(self, height, width):
        """(h, w) of each stage's map for an image of that many pixels."""
        grid = -(-height // self.patch_size), -(-width // self.patch_size)
        grids = [grid]
        for _ in self.depths[1:]:
            grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2
            grids.append(grid)
        return tuple(grids)


def _preset(size, window, width, depths, heads):
    return SwinConfig(image_size=size, width=width, depths=depths, heads=heads, window=window)


PRESETS = {
    "swin-tiny-patch4-window7-224": _preset(224, 7, 96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin-small-patch4-window7-224": _preset(224, 7, 96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin-base-patch4-window7-224": _preset(224, 7, 128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin-base-patch4-window12-384": _preset(384, 12, 128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin-large-patch4-window7-224": _preset(224, 7, 192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "swin-large-patch4-window12-384": _preset(384, 12, 192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def relative_index(window):
    """Row of the bias table for every pair of places in a window: i32 [w², w²] in 0…(2w-1)²-1."""
    place = np.stack(np.divmod(np.arange(window**2), window), -1)
    offset = place[:, None] - place[None, :] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def window_parts(grid, window, shift):
    """Which part of the map each place of each window comes from: i32 [windows, w²].

    After the shift the last windows of a row and of a column hold pieces from both ends of the map;
    places attend to each other within a piece only.
    """
    rows, columns = (np.arange(size) for size in grid)
    part = lambda at, size: (at >= size - window).astype(int) + (at >= size - shift)  # noqa: E731
    parts = part(rows, grid[0])[:, None] * 3 + part(columns, grid[1])[None, :]
    return np.asarray(squares(parts[None, :, :, None], window)).reshape(-1, window**2)


def _pad(x, multiple):
    """[B, h, w, C] with zeros below and to the right, up to a multiple of that many."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, -x.shape[2] % multiple), (0, 0)))


class Layer(nn.Module):
    """x += attention in windows(norm(x)); x += mlp(norm(x)). x is [B, h·w, D]."""

    config: SwinConfig
    stage: int
    grid: tuple[int, int]  # h, w
    shifted: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        c, dense = self.config, layers.dense
        y = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="attention_norm")(x)
        x = constrain(x + layers.point(self._attend(y), "attention_out"), "tokens")
        y = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="mlp_norm")(x)
        y = layers.point(dense(c.mlp_width(self.stage), self.dtype)(name="mlp_up")(y), "mlp_up")
        y = nn.gelu(constrain(y, "hidden"), approximate=False)
        y = dense(x.shape[-1], self.dtype)(name="mlp_out")(y)
        return constrain(x + layers.point(y, "mlp_out"), "tokens")

    def _attend(self, y):
        """[B, h·w, D] → [B, h·w, D]"""
        c, dense = self.config, layers.dense
        batch, _, width = y.shape
        heads, window = c.heads[self.stage], c.window
        alone = not c.always_shift and min(self.grid) <= window
        shift = window // 2 if self.shifted and not alone else 0

        y = _pad(y.reshape(batch, *self.grid, width), window)
        padded = y.shape[1:3]
        y = squares(jnp.roll(y, (-shift, -shift), (1, 2)), window)  # [B, h/w, w/w, w²·D]
        y = y.reshape(-1, window**2, width)  # windows of an image side by side: [B·W, w², D]
        split = (heads, width // heads)
        q = constrain(layers.point(dense(split, self.dtype)(name="query")(y), "query"), "heads")
        k = constrain(layers.point(dense(split, self.dtype)(name="key")(y), "key"), "heads")
        v = constrain(layers.point(dense(split, self.dtype)(name="value")(y), "value"), "heads")

        init = nn.initializers.truncated_normal(0.02)
        table = self.param("relative_position_bias", init, ((2 * window - 1) ** 2, heads))
        bias = jnp.moveaxis(table[relative_index(window)], -1, 0)  # [N, w², w²]
        mask = None
        if shift:
            parts = jnp.asarray(window_parts(padded, window, shift))  # [W, w²]
            mask = parts[:, :, None] == parts[:, None, :]
            mask = jnp.broadcast_to(mask, (batch, *mask.shape)).reshape(-1, *mask.shape[1:])
        y = attention.attend(q, k, v, mask, bias)
        y = dense(width, self.dtype, inputs=2)(name="attention_out")(y)

        rows, columns = (size // window for size in padded)
        y = y.reshape(batch, rows, columns, window, window, width).swapaxes(2, 3)
        y = jnp.roll(y.reshape(batch, *padded, width), (shift, shift), (1, 2))
        return y[:, : self.grid[0], : self.grid[1]].reshape(batch, -1, width)


class Pair(nn.Module):
    """A plain and a shifted layer, and what comes out of each: [2, B, h·w, D]."""

    config: SwinConfig
    stage: int
    grid: tuple[int, int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, _):
        first = Layer(self.config, self.stage, self.grid, False, self.dtype, name="plain")(x)
        second = Layer(self.config, self.stage, self.grid, True, self.dtype, name="shifted")(first)
        return second, jnp.stack([first, second])


class Merging(nn.Module):
    """2×2 patches side by side, normalised, to one of twice the width: [B, h/2, w/2, 2·D]."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        batch, _, _, width = x.shape
        x = _pad(x, 2)
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        # Columns before rows, as the public weights have it.
        x = x.reshape(batch, rows, 2, columns, 2, width).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, rows * columns, 4 * width)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        x = layers.dense(2 * width, self.dtype, bias=False)(name="reduction")(x)
        return constrain(x, "tokens").reshape(batch, rows, columns, -1)


class Swin(nn.Module):
    """uint8 image [B, H, W, 3] → feature maps; h and w of each stage: SwinConfig.grids.

    Returns:
      features [B, h, w, D] of the last stage, normalised, and a dictionary:
        embedding [B, h, w, D]: what goes into the first stage;
        stages: one map [B, h, w, D] a stage, before the merging that follows it;
        hidden: one [layers, B, h, w, D] a stage, what each layer returns.
    """

    config: SwinConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image):
        c = self.config
        mean, std = np.float32(c.mean), np.float32(c.std)
        x = (image * (1 / (255 * std)) - mean / std).astype(self.dtype)
        x = squares(_pad(x, c.patch_size), c.patch_size)
        x = layers.dense(c.width, self.dtype)(name="patch_embedding")(x)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="embedding_norm")(x)
        intermediates = {"embedding": x, "stages": [], "hidden": []}
        grids = c.grids(*image.shape[1:3])
        for stage, (depth, grid) in enumerate(zip(c.depths, grids, strict=True)):
            if stage:
                x = Merging(self.dtype, name=f"merging_{stage}")(x)
            shape = x.shape
            pairs = layers.stack(Pair, depth // 2, c.remat, broadcast=0, unroll=c.unroll)(
                c, stage, grid, self.dtype, name=f"stage_{stage + 1}"
            )
            x, hidden = pairs(constrain(x.reshape(shape[0], -1, shape[-1]), "tokens"), None)
            x = x.reshape(shape)
            intermediates["stages"].append(x)
            intermediates["hidden"].append(hidden.reshape(depth, *shape))
        norm = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")
        return norm(x), intermediates


# Axis 0 of everything under a stage is the pair of layers.
SHARDING_RULES = (
    (r"stage_\d/\w+/(query|key|value)/kernel", P(None, "fsdp", "tensor", None)),
    (r"stage_\d/\w+/(query|key|value)/bias", P(None, "tensor", None)),
    (r"stage_\d/\w+/attention_out/kernel", P(None, "tensor", None, "fsdp")),
    (r"stage_\d/\w+/mlp_up/kernel", P(None, "fsdp", "tensor")),
    (r"stage_\d/\w+/mlp_up/bias", P(None, "tensor")),
    (r"stage_\d/\w+/mlp_out/kernel", P(None, "tensor", "fsdp")),
    (r"stage_\d/\w+/relative_position_bias", P(None, None, "tensor")),
    (r"stage_\d/.*(bias|scale)", P()),
    (r"merging_\d/reduction/kernel", P("fsdp", None)),
    (r"patch_embedding/kernel", P(None, "fsdp")),
    (r"(merging_\d/norm|patch_embedding|embedding_norm|norm)/(bias|scale)", P()),
)
