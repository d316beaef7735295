"""Matmul FLOPs by our own count: the compiler counts the body of a scan once, so it cannot say.

A multiply-add is 2 FLOPs. Only the model's matrix products count (projections, attention, MLP,
pooling, vocabulary); attention counts the scores that the mask allows to be computed, not the full
square. What a backward pass computes a second time (remat) does not count.
"""

import dataclasses
import math

from regionjax import tables
from regionjax.models.pointer import FINER
from regionjax.models.region_features import FOCUS_WIDTHS, geometry_size


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


# What a ViT has before its last norm. A frozen tower may have that norm trained, and nothing flows
# back beyond it.
_TOWER = ("patch", "stem", "position", "class_token", "distillation", "pre_norm", "layers/")


def vit(config, image_size, name, scope):
    """The Part that models/vit.py is, without an attention pool.

    Args:
      config: ViTConfig; image_size: of the images, which may differ from the config's.
      name: of the Part; scope: beginning of its parameters' paths.
    """
    parameters = tuple(scope + beginning for beginning in _TOWER)
    c, patches = config, (image_size // config.patch_size) ** 2
    tokens, head_width = patches + len(c.prefix), c.width // c.heads
    pixels = patches * c.patch_size**2 * 3
    if c.stem_width:  # 16 pixels, then 16 places, a window; a half and a quarter of the resolution
        half, quarter = patches * c.patch_size**2 // 4, patches * c.patch_size**2 // 16
        embedding = 2 * half * 16 * 3 * (c.stem_width // 2)
        embedding += 2 * quarter * 16 * (c.stem_width // 2) * c.stem_width
        embedding += (
            2 * patches * (c.patch_size // 4 + 2 * c.patch_border) ** 2 * c.stem_width * c.width
        )
    else:
        embedding = 2 * pixels * c.width
    layers = c.depth * layer(tokens, c.width, c.heads, c.heads, head_width, c.mlp_width, 2)
    scores = c.depth * attention(tokens**2, c.heads, head_width)
    return Part(name, parameters, (), products=embedding + layers, scores=scores)


def decoder(config, tokens, pairs, predicted, scope, before):
    """The two Parts that models/decoder.py is: its layers, and its logits.

    Args:
      config: DecoderConfig; tokens: that the layers see; pairs: query-key pairs a head.
      predicted: tokens that have logits.
      scope: beginning of its parameters' paths; before: of those that what comes in depends on.
    """
    c = config
    products = layer(tokens, c.width, c.heads, c.kv_heads, c.head_width, c.mlp_width, 3)
    table = scope + ("embedding" if c.tied else "output_embedding")
    return (
        Part(
            "decoder",
            (scope + "layers/",),
            (*before, scope + "embedding"),
            products=c.depth * products,
            scores=c.depth * attention(pairs, c.heads, c.head_width),
        ),
        Part(
            "vocabulary",
            (table,),
            (*before, scope),
            products=2 * predicted * c.width * c.vocabulary,
            scores=0,
        ),
    )


def swin(config, image_size, name, parameters):
    """The Part that models/swin.py is, with what windows and merging fill up.

    Args:
      config: SwinConfig; image_size: of square images.
      name, parameters: of the Part.
    """
    c, products, scores = config, 0, 0
    place = c.window**2
    grids = c.grids(image_size, image_size)
    for stage, (depth, width, grid) in enumerate(zip(c.depths, c.widths, grids, strict=True)):
        patches = math.prod(grid)
        if stage:  # from 4 patches of half the width
            products += 2 * patches * (4 * width // 2) * width
        else:
            products += 2 * patches * c.patch_size**2 * 3 * width
        windows = math.prod(-(-side // c.window) for side in grid)
        heads, head_width = c.heads[stage], width // c.heads[stage]
        products += depth * layer(windows * place, width, heads, heads, head_width, 0, 2)
        products += depth * 2 * 2 * patches * width * c.mlp_width(stage)
        scores += depth * attention(windows * place**2, heads, head_width)
    return Part(name, parameters, (), products, scores)


def bert(config, regions, length, encoded, name, parameters, inputs, predicted=0, gathered=False):
    """The Part that models/bert.py is; the image's keys and values count once for all regions.

    Args:
      config: BertConfig.
      regions: texts or sets of queries an image; length: tokens of a text.
      encoded: tokens of the image that cross-attention looks at.
      name, parameters, inputs: of the Part; predicted: tokens that the masked head names.
      gathered: whether the queries alone leave the last layer.
    """
    c, head_width = config, config.width // config.heads
    tokens = regions * (c.queries + length)
    front = regions * (c.queries or length)
    products = c.depth * layer(tokens, c.width, c.heads, c.heads, head_width, c.mlp_width, 2)
    scores = c.depth * attention(tokens * (c.queries + length), c.heads, head_width)
    if c.cross_every:
        looks = c.depth // c.cross_every
        products += looks * 2 * 2 * c.width * (front * c.width + encoded * c.encoder_width)
        scores += looks * attention(front * encoded, c.heads, head_width)
    if gathered:  # without query, output and MLP of the text in one layer
        text = regions * length
        products -= layer(text, c.width, c.heads, 0, head_width, c.mlp_width, 2)
        scores -= attention(text * (c.queries + length), c.heads, head_width)
    products += 2 * predicted * c.width * (c.width + c.vocabulary)
    return Part(name, parameters, inputs, products, scores)


def t5(config, inputs, targets, scope, before, predicted=None):
    """The three Parts that models/t5.py is: encoder, decoder and logits.

    Args:
      config: T5Config.
      inputs: (how many, tokens of each); targets: the same, some of each input.
      scope: beginning of its parameters' paths; before: of those that the inputs depend on.
      predicted: tokens that have logits; those of all targets unless given.
    """
    c, mlp = config, 3 if config.gated else 2
    asks, answers = math.prod(inputs), math.prod(targets)

    def stack(depth, tokens, length, more_products=0, more_pairs=0):
        products = layer(tokens, c.width, c.heads, c.heads, c.head_width, c.mlp_width, mlp)
        scores = attention(tokens * length + more_pairs, c.heads, c.head_width)
        return depth * (products + more_products), depth * scores

    # Queries and outputs of cross-attention; its keys and values, once for all targets of an input.
    looks = 2 * 2 * (answers + asks) * c.width * c.heads * c.head_width
    table = scope + ("embedding" if c.tied else "output_embedding")
    before = (*before, scope + "embedding")
    predicted = answers if predicted is None else predicted
    return (
        Part("encoder", (scope + "encoder/",), before, *stack(c.depth, asks, inputs[1])),
        Part(
            "decoder",
            (scope + "decoder/",),
            (*before, scope + "encoder/"),
            *stack(c.decoder_depth, answers, targets[1], looks, answers * inputs[1]),
        ),
        Part("vocabulary", (table,), (*before, scope), 2 * predicted * c.width * c.vocabulary, 0),
    )


def instructblip(config, image_size, regions, instruction, prompt, target, scope="params/"):
    """Work of models/instructblip.py for one image, which all regions share.

    Args:
      config: InstructBlipConfig.
      regions: of an image; instruction, prompt, target: tokens a region.
      scope: beginning of its parameters' paths.
    """
    tower, former, language = config.vit, config.qformer, config.t5
    patches = (image_size // tower.patch_size) ** 2
    seen, queries = patches + len(tower.prefix), former.queries
    asked = regions if instruction else 1  # without instruction all regions ask the same
    eye, asker, bridge = scope + "vit/", scope + "qformer/", scope + "projection/"
    return Work(
        tokens={
            "image": patches,
            "region": regions * (instruction + queries),
            "text": regions * (prompt + target),
        },
        parts=(
            vit(tower, image_size, "vit", eye),
            bert(former, asked, instruction, seen, "qformer", (asker,), (eye,), gathered=True),
            Part(
                "projection",
                (bridge,),
                (eye, asker),
                products=2 * asked * queries * former.width * language.width,
                scores=0,
            ),
            *t5(
                language,
                inputs=(regions, queries + prompt),
                targets=(regions, target),
                scope=scope + "t5/",
                before=(eye, asker, bridge),
            ),
        ),
    )


def paligemma(config, image_size, regions, prompt, target, scope="params/"):
    """Work of models/paligemma.py for one image, which R questions are asked about.

    Args:
      config: PaliGemmaConfig.
      regions: R; prompt, target: tokens a question.
      scope: beginning of its parameters' paths.
    """
    tower, language = config.vit, config.decoder
    patches = (image_size // tower.patch_size) ** 2
    eye, bridge = scope + "vit/", scope + "projector/"
    prefix, length = patches + prompt, target - 1
    return Work(
        tokens={"image": regions * patches, "prompt": regions * prompt, "text": regions * length},
        parts=(
            vit(tower, image_size, "vit", eye),
            Part(
                "projector",
                (bridge,),
                (eye,),
                products=2 * patches * tower.width * language.width,
                scores=0,
            ),
            *decoder(
                language,
                tokens=regions * (prefix + length),
                pairs=regions * (prefix**2 + length * (prefix + length)),
                predicted=regions * target,
                scope=scope + "decoder/",
                before=(eye, bridge),
            ),
        ),
    )


def details(focus, width):
    """Multiply-adds that read one region's focus, a crop of `focus` pixels a side."""
    first, second = FOCUS_WIDTHS
    half, quarter = (focus // 2) ** 2, (focus // 4) ** 2
    layout = (quarter + (focus > 0)) * second * width
    return half * 16 * 4 * first + quarter * 16 * first * second + layout


def regionlm(config, spec):
    """Work of systems/regionlm.py.

    Args:
      config: RegionLMConfig; spec: BatchSpec.
    """
    tower, region = config.vit, config.region
    patches = (spec.image_size // tower.patch_size) ** 2
    regions, width = spec.regions, config.decoder.width
    length = region.slots + spec.text_length - 1
    levels = 2  # of the vision tower: first and last
    cells = FINER**2  # of the heatmap in a patch
    pooled = 1 + region.cells**2
    geometry = geometry_size(spec.points, region.silhouette)
    before = ("params/vit/", "params/region/", "params/connector/", "params/embedding_norm/")
    return Work(
        tokens={
            "image": patches,
            "region": regions * region.slots,
            "text": regions * (spec.text_length - 1),
        },
        parts=(
            vit(tower, spec.image_size, "vit", "params/vit/"),
            Part(
                "regions",
                ("params/region/", "params/connector/", "params/embedding_norm/"),
                ("params/vit/",),
                products=2 * patches * levels * tower.width * width
                + 2
                * regions
                * width
                * (
                    pooled * 2 * (levels * tower.width + width)
                    + (geometry + width)
                    + (2 * levels * tower.width + width)
                    + region.prompt_tokens * width
                )
                + 2 * regions * details(region.focus, width),
                scores=2 * regions * pooled * patches * levels * tower.width,
            ),
            *decoder(
                config.decoder,
                tokens=patches + regions * length,
                pairs=patches**2 + regions * length * (patches + length),
                predicted=regions * spec.target_length,
                scope="params/decoder/",
                before=before,
            ),
            Part(
                "pointer",
                ("params/pointer/",),
                (*before, "params/decoder/"),
                products=2 * 2 * width * (2 * regions * width)
                + 2 * 2 * width * patches * (levels * tower.width + cells * width),
                scores=2 * regions * patches * cells * width,
            ),
        ),
    )


def regionvlm(config, spec):
    """Work of systems/regionvlm.py: InstructBLIP whose instruction is the trajectory.

    Args:
      config: RegionVLMConfig; spec: BatchSpec.
    """
    return instructblip(
        config.network,
        spec.image_size,
        spec.regions,
        instruction=config.point_tokens(spec.points),
        prompt=spec.prompt_length + 1,  # and eos
        target=spec.target_length,
    )
