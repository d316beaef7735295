"""Vision Transformer (Dosovitskiy et al. 2021): pre-norm blocks over square patches.

One file is, by configuration, DeiT and ALBEF's ViT, CLIP, EVA-CLIP as in BLIP-2 and InstructBLIP,
SigLIP and SigLIP 2; `PRESETS` has their published sizes, regionjax/weights/tables/vit.py their
tensors' names.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from regionjax.config import nearest
from regionjax.grid import bicubic_weights, bilinear_weights
from regionjax.models import attention, layers
from regionjax.models.windows import overlapping, squares
from regionjax.sharding import constrain

# Mean and deviation of the pixels in 0…1 that a public tower was trained with.
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
WAVE = 0.5  # height of the waves that positions start as; embedded patches are near 1
INTERPOLATIONS = {"bicubic": bicubic_weights, "bilinear": bilinear_weights}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a ViT.

    Attributes:
      image_size: side in pixels of the images that the position table is made for. What is left
        over beyond whole patches is not seen, as with a strided convolution.
      class_token, distillation_token: tokens before the patches, in this order.
      patch_bias: whether the patch embedding has one.
      pre_norm: a LayerNorm between embedding and layers (CLIP).
      attention_pool: SigLIP's head, one vector an image.
      activation: a key of layers.ACTIVATIONS.
      interpolation: how the position table follows images of another size, square or not. "none":
        they are an error. "bicubic": as torch does it (a = -0.75), what all public towers of one
        size use. "bilinear": averaged over the area when shrinking (SigLIP 2 of any aspect ratio).
      mean, std: of pixels in 0…1.
      remat: a key of layers.REMAT_POLICIES or "none"; unroll: layers a scan step.
      stem_width: with more than 0, two layers of overlapping 4×4 windows, each of half the
        resolution, go before the patch embedding and end in so many channels. Small shared filters
        learn edges and textures from fewer images (early convolutions, Xiao et al. 2021); public
        checkpoints have none.
      patch_border: places of the stem, four pixels each, that a patch sees beyond its sides.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    class_token: bool = False
    distillation_token: bool = False
    patch_bias: bool = True
    pre_norm: bool = False
    attention_pool: bool = False
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    interpolation: str = "none"
    mean: tuple[float, float, float] = HALF["mean"]
    std: tuple[float, float, float] = HALF["std"]
    remat: str = "none"
    unroll: int = 1
    stem_width: int = 0
    patch_border: int = 0

    def __post_init__(self):
        layers.check_remat(self.remat)
        layers.check_activation(self.activation)
        known = ("none", *INTERPOLATIONS)
        if self.interpolation not in known:
            raise ValueError(
                f"interpolation={self.interpolation!r}{nearest(self.interpolation, known)}"
            )
        if self.image_size < self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is less than one patch of {self.patch_size}"
            )
        if self.stem_width and (self.patch_size % 4 or self.stem_width % 2):
            raise ValueError(
                f"stem_width {self.stem_width} must be even, and patch_size {self.patch_size} a "
                "multiple of the stem's 4 pixels"
            )
        if self.patch_border < 0 or self.patch_border > 0 == self.stem_width:
            raise ValueError(
                f"patch_border {self.patch_border} must be at least 0; above, it needs a stem_width"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be three numbers, std > 0")

    @property
    def grid(self):
        """Patches a side in the position table."""
        return self.image_size // self.patch_size

    @property
    def prefix(self):
        """Names of the tokens before the patches."""
        names = ("class_token", "distillation_token")
        return tuple(name for name in names if getattr(self, name))


def _preset(image_size, patch_size, width, depth, heads, mlp_width, **more):
    more = {"interpolation": "bicubic", "activation": "gelu", **more}
    return ViTConfig(image_size, patch_size, width, depth, heads, mlp_width, **more)


_deit = functools.partial(_preset, 224, 16, 768, 12, 12, 3072, class_token=True)
_clip = functools.partial(
    _preset,
    **CLIP,
    class_token=True,
    patch_bias=False,
    pre_norm=True,
    activation="quick_gelu",
    norm_epsilon=1e-5,
)
_so400m = functools.partial(
    _preset,
    patch_size=14,
    width=1152,
    depth=27,
    heads=16,
    mlp_width=4304,
    attention_pool=True,
    activation="gelu_tanh",
)

# By the names of the public checkpoints.
PRESETS = {
    "deit-base-patch16-224": _deit(norm_epsilon=1e-12, **IMAGENET),
    "deit-base-distilled-patch16-224": _deit(
        norm_epsilon=1e-12, distillation_token=True, **IMAGENET
    ),
    "albef-base-patch16-256": dataclasses.replace(_deit(**CLIP), image_size=256),
    "clip-vit-base-patch16": _clip(224, 16, 768, 12, 12, 3072),
    "clip-vit-large-patch14": _clip(224, 14, 1024, 24, 16, 4096),
    "clip-vit-large-patch14-336": _clip(336, 14, 1024, 24, 16, 4096),
    "eva-clip-g-patch14-224": _preset(224, 14, 1408, 39, 16, 6144, class_token=True, **CLIP),
    "siglip-so400m-patch14-224": _so400m(224),
    "siglip-so400m-patch14-384": _so400m(384),
    "siglip2-so400m-patch14-224": _so400m(224),
    "siglip2-so400m-patch14-384": _so400m(384),
}


def interpolate(table, grid, shape, method):
    """Position table f32 [grid², D] → [h·w, D] for the patches of another image."""
    square = table.reshape(grid, grid, -1)
    rows, columns = (INTERPOLATIONS[method](size, grid) for size in shape)
    new = jnp.einsum("hm,mnd,wn->hwd", rows, square, columns, precision="highest")
    return new.reshape(-1, table.shape[-1])


def _waves(prefix, grid, rng, shape, dtype=jnp.float32):
    """Where learnt positions start: sines and cosines of both coordinates; noise for the prefix.

    Wavelengths go from 2 patches to 4 images. From small noise a model learns very late where a
    patch lies: it must tell left from right before it can learn what "left of" means.
    """
    _, width = shape
    quarter = -(-width // 4)
    frequency = 2 * np.pi / np.geomspace(2, 4 * max(grid, 2), quarter)
    angle = (np.arange(grid) + 0.5)[:, None] * frequency
    line = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)  # [grid, 2·quarter]
    table = np.concatenate([np.tile(line, (grid, 1)), np.repeat(line, grid, axis=0)], axis=1)
    noise = nn.initializers.normal(0.02)(rng, (prefix, width), dtype)
    return jnp.concatenate([noise, jnp.asarray(table[:, :width] * WAVE, dtype)])


def _norm(config, dtype, name):
    return nn.LayerNorm(epsilon=config.norm_epsilon, dtype=dtype, name=name)


def _mlp(config, dtype, x):
    """MLP(norm(x)), of the module that calls it."""
    y = _norm(config, dtype, "mlp_norm")(x)
    y = layers.point(layers.dense(config.mlp_width, dtype)(name="mlp_up")(y), "mlp_up")
    y = layers.ACTIVATIONS[config.activation](constrain(y, "hidden"))
    return layers.dense(config.width, dtype)(name="mlp_out")(y)


class Block(nn.Module):
    """One encoder layer: x += attention(norm(x)); x += MLP(norm(x))."""

    config: ViTConfig
    dtype: jnp.dtype
    keep: bool  # whether the hidden states are an output of their own

    @nn.compact
    def __call__(self, x, _):
        c, dense = self.config, layers.dense
        y = _norm(c, self.dtype, "attention_norm")(x)
        heads = (c.heads, c.width // c.heads)
        q = layers.point(dense(heads, self.dtype)(name="query")(y), "query")
        k = layers.point(dense(heads, self.dtype)(name="key")(y), "key")
        v = layers.point(dense(heads, self.dtype)(name="value")(y), "value")
        y = attention.attend(*(constrain(t, "heads") for t in (q, k, v)))
        y = dense(c.width, self.dtype, inputs=2)(name="attention_out")(y)
        x = constrain(x + layers.point(y, "attention_out"), "tokens")
        y = _mlp(c, self.dtype, x)
        x = constrain(x + layers.point(y, "mlp_out"), "tokens")
        return x, x if self.keep else None


class AttentionPool(nn.Module):
    """SigLIP's head: a learnt probe attends to all tokens, then an MLP. [B, S, D] → [B, D]."""

    config: ViTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        c, dense = self.config, layers.dense
        heads = (c.heads, c.width // c.heads)
        probe = self.param("probe", nn.initializers.normal(0.02), (c.width,))
        q = dense(heads, self.dtype)(name="query")(probe[None, None])
        q = jnp.broadcast_to(q, (x.shape[0], *q.shape[1:]))
        k = dense(heads, self.dtype)(name="key")(x)
        v = dense(heads, self.dtype)(name="value")(x)
        y = attention.attend(*(constrain(t, "heads") for t in (q, k, v)))
        x = dense(c.width, self.dtype, inputs=2)(name="attention_out")(y)
        return (x + _mlp(c, self.dtype, x))[:, 0]


class ViT(nn.Module):
    """uint8 image [B, H, W, 3] → (features [B, S, D], intermediates).

    S = tokens before the patches + P patches in row-major order; features are those of the last
    layer, normalised. Of `intermediates`:
      embedding [B, S, D]: what the first layer sees.
      pooled [B, D]: with `attention_pool`.
      hidden [layers, B, S, D]: what each layer returns, when `keep_hidden` asks for it.
    """

    config: ViTConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image, keep_hidden=False):
        c = self.config
        self._check(image)
        tokens = embedding = self._embed(image)
        tokens, hidden = layers.stack(Block, c.depth, c.remat, broadcast=0, unroll=c.unroll)(
            c, self.dtype, keep_hidden, name="layers"
        )(tokens, None)
        features = _norm(c, self.dtype, "norm")(tokens)
        intermediates = {"embedding": embedding}
        if c.attention_pool:
            intermediates["pooled"] = AttentionPool(c, self.dtype, name="pool")(features)
        if keep_hidden:
            intermediates["hidden"] = hidden
        return features, intermediates

    def _embed(self, image):
        """From pixels to tokens with positions: [B, S, D]."""
        c = self.config
        side, shape = c.patch_size, tuple(size // c.patch_size for size in image.shape[1:3])
        image = image[:, : shape[0] * side, : shape[1] * side]
        mean, std = np.float32(c.mean), np.float32(c.std)
        x = (image * (1 / (255 * std)) - mean / std).astype(self.dtype)
        if c.stem_width:
            for name, channels in (("stem_in", c.stem_width // 2), ("stem_out", c.stem_width)):
                x = layers.dense(channels, self.dtype)(name=name)(overlapping(x, 4, 2))
                x = nn.gelu(x)
        side = x.shape[1] // shape[0]
        seen = side + 2 * c.patch_border
        x = squares(x, side) if seen == side else overlapping(x, seen, side)
        x = x.reshape(x.shape[0], shape[0] * shape[1], -1)
        x = layers.dense(c.width, self.dtype, bias=c.patch_bias)(name="patch_embedding")(x)
        for name in reversed(c.prefix):
            token = self.param(name, nn.initializers.normal(0.02), (c.width,))
            token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, c.width))
            x = jnp.concatenate([token, x], axis=1)
        position = self.param(
            "position_embedding",
            functools.partial(_waves, len(c.prefix), c.grid),
            (len(c.prefix) + c.grid**2, c.width),
        )
        if shape != (c.grid, c.grid):
            before, square = jnp.split(position, [len(c.prefix)])
            square = interpolate(square, c.grid, shape, c.interpolation)
            position = jnp.concatenate([before, square])
        x = constrain(x + position.astype(self.dtype), "tokens")
        return _norm(c, self.dtype, "pre_norm")(x) if c.pre_norm else x

    def _check(self, image):
        c = self.config
        height, width, channels = image.shape[1:]
        if c.interpolation == "none" and (height, width, channels) != (*[c.image_size] * 2, 3):
            raise ValueError(
                f"image is {list(image.shape)}, expected [B, {c.image_size}, {c.image_size}, 3]; "
                'interpolation="bicubic" takes other sizes'
            )
        if min(height, width) < c.patch_size or channels != 3:
            raise ValueError(
                f"image is {list(image.shape)}, expected [B, H, W, 3] with sides of at least one "
                f"patch of {c.patch_size}"
            )


# Paths are those of a ViT's own parameters; axis 0 of everything under `layers` is the layer. The
# pool shares the row of the patch embedding, so that a tower without it has no idle row.
SHARDING_RULES = (
    (r"layers/(query|key|value)/kernel", P(None, "fsdp", "tensor", None)),
    (r"layers/(query|key|value)/bias", P(None, "tensor", None)),
    (r"layers/attention_out/kernel", P(None, "tensor", None, "fsdp")),
    (r"layers/mlp_up/kernel", P(None, "fsdp", "tensor")),
    (r"layers/mlp_up/bias", P(None, "tensor")),
    (r"layers/mlp_out/kernel", P(None, "tensor", "fsdp")),
    (r"((stem_in|stem_out|patch_embedding|pool/.*)/kernel|position_embedding)", P(None, "fsdp")),
    (r".*(token|probe|bias|scale)", P()),
)
