"""Region features: dynamic masking, area-normalised pooling, geometry, adaptive soft prompt.

After FineRegion-LM (2024), equations 1-5: masked features F_i = F ⊙ M_i, pooled to z_i, turned into
a prompt. What that paper leaves open is settled here: the mask is soft on the feature grid, the
context outside it is kept by a factor alpha, pooling divides by the mask's mass, and k×k cells of
the region's box keep its layout. The geometry (box, area, stroke, silhouette) is added because
pooling would lose it.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from regionjax.grid import downsample_weights, overlap_weights
from regionjax.models import layers

MASS_FLOOR = 1e-6  # in patches; a cell without any mask pools to zero instead of dividing by zero


@dataclasses.dataclass(frozen=True)
class RegionConfig:
    """Sizes of the region side.

    `cells` is k of the k×k region tokens, `prompt_tokens` the length of the adaptive soft prompt,
    `silhouette` the side of the mask crop that describes the shape, `context` the upper end of the
    uniform random alpha while training (0 when evaluating).
    """

    cells: int = 3
    prompt_tokens: int = 2
    silhouette: int = 8
    context: float = 0.5

    @property
    def slots(self):
        """Tokens that a region puts before its text."""
        return self.prompt_tokens + 1 + self.cells**2


def pooling_weights(mask, box, alpha, grid, cells):
    """Weights that pool the feature grid into one vector and k×k cells a region.

    Args:
      mask: f32 [B, R, M, M] coverage in 0…1; box: f32 [B, R, 4]; alpha: f32 [B, R].

    Returns:
      f32 [B, R, 1 + k², P]; each row sums to 1, or to 0 where the cell holds no mask.
    """
    down = downsample_weights(grid, mask.shape[-1])
    soft = jnp.einsum("hm,brmn,wn->brhw", down, mask, down)
    soft = soft + alpha[..., None, None] * (1 - soft)  # M + alpha (1 - M)
    rows = overlap_weights(box[..., 1], box[..., 3], cells, grid)  # [B, R, k, h]
    columns = overlap_weights(box[..., 0], box[..., 2], cells, grid)  # [B, R, k, w]
    inside = jnp.einsum("brih,brjw,brhw->brijhw", rows, columns, soft)
    weights = jnp.concatenate(
        [
            soft.reshape(*soft.shape[:2], 1, grid * grid),
            inside.reshape(*soft.shape[:2], cells * cells, grid * grid),
        ],
        axis=2,
    )
    mass = weights.sum(-1, keepdims=True)
    return weights / jnp.maximum(mass, MASS_FLOOR)


def geometry(mask, box, points, silhouette):
    """What pooling forgets: f32 [B, R, G], G = `geometry_size`.

    Box centre and size, the root of the area, and the K stroke points in time order, each as waves;
    and the mask cropped to its box and averaged to g×g, which is the region's silhouette.
    """
    low, high = box[..., :2], box[..., 2:]
    side = jnp.sqrt(mask.mean((-2, -1)))[..., None]
    place = jnp.concatenate([(low + high) / 2, high - low, side], axis=-1)
    rows = overlap_weights(box[..., 1], box[..., 3], silhouette, mask.shape[-1])
    columns = overlap_weights(box[..., 0], box[..., 2], silhouette, mask.shape[-1])
    crop = jnp.einsum("brgm,brmn,brkn->brgk", rows, mask, columns)
    mass = rows.sum(-1)[..., :, None] * columns.sum(-1)[..., None, :]
    crop = crop / jnp.maximum(mass, MASS_FLOOR) * 2 - 1
    stroke = points.reshape(*points.shape[:2], -1)
    return jnp.concatenate(
        [waves(place, 5), waves(stroke, 2), crop.reshape(*crop.shape[:2], -1)], axis=-1
    )


def waves(x, octaves):
    """[..., n] in 0…1 → [..., 2·octaves·n]: sines and cosines, so that small differences show."""
    angle = x[..., None] * (np.pi * 2.0 ** np.arange(octaves, dtype=np.float32))
    angle = angle.reshape(*x.shape[:-1], -1)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def geometry_size(points, silhouette):
    """G: numbers that describe a region's geometry."""
    return 2 * 5 * 5 + 2 * 2 * 2 * points + silhouette**2


class RegionEncoder(nn.Module):
    """Features of one image and R regions → R × `slots` tokens of the language model's width."""

    config: RegionConfig
    width: int  # D of the language model
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features, batch, alpha):
        """Encodes the regions of a batch.

        Args:
          features: [B, P, Dv] of the vision tower.
          batch: `region_mask`, `region_box`, `region_points` of regionjax.batch.
          alpha: f32 [B, R], share of the context that is kept outside the mask.

        Returns:
          tokens [B, R, slots, D], and z [B, R, Dv], the region's pooled vector.
        """
        c, dense = self.config, layers.dense
        mask = batch["region_mask"].astype(jnp.float32) / 255.0
        box, points = batch["region_box"], batch["region_points"]
        grid = round(features.shape[1] ** 0.5)
        weights = pooling_weights(mask, box, alpha, grid, c.cells).astype(self.dtype)
        pooled = jnp.einsum("brcp,bpd->brcd", weights, features)  # [B, R, 1 + k², Dv]
        z = pooled[:, :, 0]

        shape = geometry(mask, box, points, c.silhouette).astype(self.dtype)
        shape = nn.gelu(dense(self.width, self.dtype)(name="geometry_in")(shape))
        shape = dense(self.width, self.dtype)(name="geometry_out")(shape)  # [B, R, D]
        cell = self.param(
            "cell_embedding", nn.initializers.normal(0.02), (1 + c.cells**2, self.width)
        )
        tokens = dense(self.width, self.dtype)(name="projection")(pooled)
        tokens = tokens + cell.astype(self.dtype) + shape[:, :, None]

        # The prompt adapts to the region, the whole image and the geometry.
        image = jnp.broadcast_to(features.mean(1, keepdims=True), z.shape)
        prompt = jnp.concatenate([z, image, shape], axis=-1)
        prompt = nn.gelu(dense(self.width, self.dtype)(name="prompt_in")(prompt))
        prompt = dense((c.prompt_tokens, self.width), self.dtype)(name="prompt_out")(prompt)
        base = self.param(
            "prompt_base", nn.initializers.normal(0.02), (c.prompt_tokens, self.width)
        )
        return jnp.concatenate([prompt + base.astype(self.dtype), tokens], axis=2), z
