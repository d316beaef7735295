"""Matmul FLOPs by our own count: the compiler counts the body of a scan once, so it cannot say.

A multiply-add is 2 FLOPs. Only the model's matrix products count (projections, attention, MLP,
pooling, vocabulary); attention counts the scores that the mask allows to be computed, not the full
square. What a backward pass computes a second time (remat) does not count.
"""

import dataclasses
import math

from regionjax import tables
from regionjax.models.region_features import geometry_size


@dataclasses.dataclass(frozen=True)
class Part:
    """Forward FLOPs of one part of a model, for one image.

    Attributes:
      name: for tables.
      parameters: beginnings of the paths of the part's parameters, such as "params/vit/".
      inputs: the same for the parameters that what comes in depends on.
      products: FLOPs of activations times parameters.
      scores: FLOPs of activations times activations.
    """

    name: str
    parameters: tuple[str, ...]
    inputs: tuple[str, ...]
    products: int
    scores: int

    @property
    def forward(self):
        """All FLOPs of the forward pass."""
        return self.products + self.scores

    def training(self, params, frozen):
        """FLOPs of the forward and backward pass.

        A product has two products in its backward pass, one for the gradient of each factor, so
        training costs three times the forward pass. Frozen parameters save theirs; the activations'
        is saved as well where nothing before them is trained.

        Args:
          params: {path: array or ShapeDtypeStruct} of the whole model.
          frozen: {path: bool} of the whole model.
        """
        own = [path for path in params if path.startswith(self.parameters)]
        size = lambda paths: sum(math.prod(params[path].shape) for path in paths)  # noqa: E731
        trained = size(path for path in own if not frozen[path]) / size(own)
        through = trained > 0 or any(
            not frozen[path] for path in params if path.startswith(self.inputs)
        )
        return self.products * (1 + trained + through) + self.scores * (1 + 2 * through)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one image costs.

    Attributes:
      tokens: {kind: tokens in the longest sequence that an image makes}.
      parts: of the model, in the order of the forward pass.
    """

    tokens: dict
    parts: tuple[Part, ...]

    def training(self, params, frozen):
        """{part: FLOPs of the forward and backward pass of one image}.

        Args:
          params: nested dictionary of arrays or ShapeDtypeStructs.
          frozen: {path: bool}, as in optim.Optimizer.
        """
        flat = tables.flatten(params, "params")
        return {part.name: part.training(flat, frozen) for part in self.parts}


def layer(tokens, width, heads, kv_heads, head_width, mlp_width, mlp_products):
    """Products of one transformer layer with its parameters, forward.

    Args:
      tokens: tokens that the layer sees.
      mlp_products: matrix products of the MLP: 2 plain, 3 gated.
    """
    projections = 2 * tokens * width * head_width * (2 * heads + 2 * kv_heads)
    return projections + mlp_products * 2 * tokens * width * mlp_width


def attention(pairs, heads, head_width):
    """Scores and weighted sums of one layer; `pairs` are the query-key pairs a head."""
    return 2 * 2 * heads * head_width * pairs


def embedding(vit):
    """From pixels to patches, in one step or two, forward."""
    if not vit.stem_patch:
        return 2 * vit.image_size**2 * 3 * vit.width
    squares = (vit.image_size // vit.stem_patch) ** 2
    return 2 * (vit.image_size**2 * 3 + squares * vit.width) * vit.stem_width


def regionlm(config, spec):
    """Work of systems/regionlm.py.

    Args:
      config: RegionLMConfig; spec: BatchSpec.
    """
    vit, region, decoder = config.vit, config.region, config.decoder
    patches, regions, width = vit.patches, spec.regions, decoder.width
    length = region.slots + spec.text_length - 1
    levels = 2  # of the vision tower: first and last
    pooled = 1 + region.cells**2
    geometry = geometry_size(spec.points, region.silhouette)
    before = ("params/vit/", "params/region/", "params/connector/")
    return Work(
        tokens={
            "image": patches,
            "region": regions * region.slots,
            "text": regions * (spec.text_length - 1),
        },
        parts=(
            Part(
                "vit",
                ("params/vit/",),
                (),
                products=embedding(vit)
                + vit.depth
                * layer(
                    patches,
                    vit.width,
                    vit.heads,
                    vit.heads,
                    vit.width // vit.heads,
                    vit.mlp_width,
                    2,
                ),
                scores=vit.depth * attention(patches**2, vit.heads, vit.width // vit.heads),
            ),
            Part(
                "regions",
                ("params/region/", "params/connector/"),
                ("params/vit/",),
                products=2 * patches * levels * vit.width * width
                + 2
                * regions
                * width
                * (
                    pooled * 2 * (levels * vit.width + width)
                    + 2 * (region.focus**2 * 3 + width)
                    + (geometry + width)
                    + (2 * levels * vit.width + width)
                    + region.prompt_tokens * width
                ),
                scores=2 * regions * pooled * patches * levels * vit.width,
            ),
            Part(
                "decoder",
                ("params/decoder/layers/",),
                (*before, "params/decoder/embedding"),
                products=decoder.depth
                * layer(
                    patches + regions * length,
                    width,
                    decoder.heads,
                    decoder.kv_heads,
                    decoder.head_width,
                    decoder.mlp_width,
                    3,
                ),
                scores=decoder.depth
                * attention(
                    patches**2 + regions * length * (patches + length),
                    decoder.heads,
                    decoder.head_width,
                ),
            ),
            Part(
                "vocabulary",
                ("params/decoder/embedding",),
                (*before, "params/decoder/"),
                products=2 * regions * spec.target_length * width * decoder.vocabulary,
                scores=0,
            ),
            Part(
                "pointer",
                ("params/pointer_query/", "params/pointer_key/"),
                (*before, "params/decoder/"),
                products=2 * (regions + patches) * width * width,
                scores=2 * regions * patches * width,
            ),
        ),
    )
