"""Matmul FLOPs by our own count: the compiler counts the body of a scan once, so it cannot say.

A multiply-add is 2 FLOPs. Only matrix products count (projections, attention, MLP, pooling,
vocabulary); attention counts the scores that the mask allows to be computed, not the full square.
"""


def tower(tokens, width, heads, kv_heads, head_width, mlp_width, mlp_products, scores):
    """One transformer layer, forward.

    Args:
      tokens: tokens a layer sees; scores: query-key pairs, summed over queries, a head.
      mlp_products: matrix products of the MLP: 2 plain, 3 gated.
    """
    projections = 2 * tokens * width * head_width * (2 * heads + 2 * kv_heads)
    attention = 2 * 2 * heads * head_width * scores
    mlp = mlp_products * 2 * tokens * width * mlp_width
    return projections + attention + mlp


def regionlm(config, spec):
    """{part: forward matmul FLOPs an image} of systems/regionlm.py.

    Args:
      config: RegionLMConfig; spec: BatchSpec.
    """
    vit, region, decoder = config.vit, config.region, config.decoder
    patches, regions = vit.patches, spec.regions
    length = region.slots + spec.text_length - 1
    tokens = patches + regions * length
    head = vit.width // vit.heads
    pooled = 1 + region.cells**2
    geometry = 5 + 2 * spec.points + region.silhouette**2
    return {
        "vit": vit.depth
        * tower(patches, vit.width, vit.heads, vit.heads, head, vit.mlp_width, 2, patches**2)
        + 2 * patches * vit.patch_size**2 * 3 * vit.width,
        "regions": 2
        * regions
        * (
            pooled * vit.width * (patches + decoder.width)
            + decoder.width * (geometry + decoder.width)
            + decoder.width * (2 * vit.width + decoder.width)
            + decoder.width * region.prompt_tokens * decoder.width
        ),
        "decoder": 2 * patches * vit.width * decoder.width
        + decoder.depth
        * tower(
            tokens,
            decoder.width,
            decoder.heads,
            decoder.kv_heads,
            decoder.head_width,
            decoder.mlp_width,
            3,
            patches**2 + regions * length * (patches + length),
        ),
        "vocabulary": 2 * regions * spec.target_length * decoder.width * decoder.vocabulary,
    }
