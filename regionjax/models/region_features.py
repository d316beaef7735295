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
from regionjax.models.windows import overlapping

FOCUS_WIDTHS = 48, 96  # channels of the layers that read the focus
MASS_FLOOR = 1e-6  # in patches; a cell without any mask pools to zero instead of dividing by zero


@dataclasses.dataclass(frozen=True)
class RegionConfig:
    """Sizes of the region side.

    Attributes:
      cells: k of the k×k region tokens.
      prompt_tokens: length of the adaptive soft prompt.
      silhouette: side of the mask crop that describes the shape.
      focus: side of the pixel crop that shows details, a multiple of 4; 0 leaves it out.
      context: upper end of the uniform random alpha while training (0 when evaluating). What lies
        outside a small region outweighs it soon: at alpha = 0.25 a region of a twentieth of the
        image is a sixth of its own z.
    """

    cells: int = 3
    prompt_tokens: int = 2
    silhouette: int = 8
    focus: int = 16
    context: float = 0.05

    @property
    def slots(self):
        """Tokens that a region puts before its text."""
        return self.prompt_tokens + 1 + self.cells**2

    def __post_init__(self):
        if self.focus % 4:
            raise ValueError(f"focus {self.focus} is not a multiple of 4")


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


def crop(values, box, size):
    """Area-averages what lies in a box to size×size.

    Args:
      values: f32 [B, M, M, C], of the image, or [B, R, M, M, C], of each region.
      box: f32 [B, R, 4].

    Returns:
      f32 [B, R, size, size, C]
    """
    whole = values.ndim == 4
    rows = overlap_weights(box[..., 1], box[..., 3], size, values.shape[-2])
    columns = overlap_weights(box[..., 0], box[..., 2], size, values.shape[-2])
    rows, columns = (w / jnp.maximum(w.sum(-1, keepdims=True), MASS_FLOOR) for w in (rows, columns))
    lines = jnp.einsum("brgm,bmnc->brgnc" if whole else "brgm,brmnc->brgnc", rows, values)
    return jnp.einsum("brkn,brgnc->brgkc", columns, lines)


def focus(image, mask, box, alpha, size):
    """The region's own pixels, however small it is, and its mask: f32 [B, R, size, size, 4].

    Dynamic region masking in the image itself, I ⊙ (M + alpha (1 - M)), cropped to the box; the
    focal crop of Describe Anything (Lian et al. 2025) at the price of two small layers.
    """
    pixels = crop(image.astype(jnp.float32) / 127.5 - 1, box, size)
    soft = crop(mask[..., None], box, size)
    pixels = pixels * (soft + alpha[..., None, None, None] * (1 - soft))
    return jnp.concatenate([pixels, soft], axis=-1)


def geometry(mask, box, points, silhouette):
    """What pooling forgets: f32 [B, R, G], G = `geometry_size`.

    Box centre and size, the root of the area, and the K stroke points in time order, each as waves;
    and the mask cropped to its box and averaged to g×g, which is the region's silhouette.
    """
    low, high = box[..., :2], box[..., 2:]
    side = jnp.sqrt(mask.mean((-2, -1)))[..., None]
    place = jnp.concatenate([(low + high) / 2, high - low, side], axis=-1)
    outline = crop(mask[..., None], box, silhouette) * 2 - 1
    stroke = points.reshape(*points.shape[:2], -1)
    return jnp.concatenate(
        [waves(place, 5), waves(stroke, 2), outline.reshape(*stroke.shape[:2], -1)], axis=-1
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
          batch: `image`, `region_mask`, `region_box`, `region_points` of regionjax.batch.
          alpha: f32 [B, R], share of the context that is kept outside the mask.

        Returns:
          tokens [B, R, slots, D]; the region token among them, [B, R, D], which knows everything
          about the region that there is; and z [B, R, Dv], the region's pooled vector.
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
        tokens = nn.gelu(dense(2 * self.width, self.dtype)(name="projection_in")(pooled))
        tokens = dense(self.width, self.dtype)(name="projection_out")(tokens)
        if c.focus:
            # In every token: one that has to be found by attention first is learnt late.
            shape = shape + self._details(focus(batch["image"], mask, box, alpha, c.focus))
        tokens = tokens + cell.astype(self.dtype) + shape[:, :, None]

        # The prompt adapts to the region, the whole image and the geometry.
        image = jnp.broadcast_to(features.mean(1, keepdims=True), z.shape)
        prompt = jnp.concatenate([z, image, shape], axis=-1)
        prompt = nn.gelu(dense(self.width, self.dtype)(name="prompt_in")(prompt))
        prompt = dense((c.prompt_tokens, self.width), self.dtype)(name="prompt_out")(prompt)
        base = self.param(
            "prompt_base", nn.initializers.normal(0.02), (c.prompt_tokens, self.width)
        )
        prompt = prompt + base.astype(self.dtype)
        return jnp.concatenate([prompt, tokens], axis=2), tokens[:, :, 0], z

    def _details(self, pixels):
        """Two layers of overlapping windows, then where what is and how much: → [B, R, D].

        The mean knows textures wherever they lie, the layout knows outlines.
        """
        dense, (images, regions) = layers.dense, pixels.shape[:2]
        x = pixels.reshape(-1, *pixels.shape[2:]).astype(self.dtype)
        x = nn.gelu(dense(FOCUS_WIDTHS[0], self.dtype)(name="focus_in")(overlapping(x, 4, 2)))
        x = nn.gelu(dense(FOCUS_WIDTHS[1], self.dtype)(name="focus_out")(overlapping(x, 4, 2)))
        layout = dense(self.width, self.dtype)(name="focus_layout")(x.reshape(x.shape[0], -1))
        mean = dense(self.width, self.dtype, bias=False)(name="focus_mean")(x.mean((1, 2)))
        return (layout + mean).reshape(images, regions, self.width)
