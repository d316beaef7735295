"""The .pth files of `model_pretrain` in the ALBEF repository: of ALBEF, AMC and what came after."""

import dataclasses
import math
import re

from regionjax.models import vit
from regionjax.models.albef import AlbefConfig
from regionjax.models.bert import BertConfig
from regionjax.weights.table import Row, WeightsError, prefixed
from regionjax.weights.tables import bert as bert_table
from regionjax.weights.tables import vit as vit_table

HEAD_WIDTH = 64  # of all published sizes; the files do not say how many heads there are


def rows(config):
    """Table of an AlbefConfig.

    The momentum copies start as what they copy, and the queues fill themselves; both are ignored.
    """
    text = (
        *prefixed(bert_table.embedding_rows(), "bert."),
        *bert_table.layer_rows("bert.encoder.layer.{i}.", "layers/plain/"),
        *bert_table.head_rows("embeddings.word_embeddings.weight"),
    )
    fusion = bert_table.layer_rows(
        "bert.encoder.layer.{i}.", "layers/cross/", cross=True, offset=config.text.depth
    )
    towers = (
        *prefixed(vit_table.rows(config.vit, "albef"), "visual_encoder.", "vit/"),
        *prefixed(text, "text_encoder.", "text/"),
        *prefixed(fusion, "text_encoder.", "fusion/"),
        *_linear("vision_proj", "vision_projection"),
        *_linear("text_proj", "text_projection"),
    )
    return (
        *towers,
        *_linear("itm_head", "match_head"),
        Row("temp", "temperature"),
        *(Row(_momentum(row.theirs), None) for row in towers),
        *(Row(name, None) for name in ("image_queue", "text_queue", "queue_ptr")),
    )


def _momentum(name):
    tower, rest = name.split(".", 1)
    return f"{tower}_m.{rest}"


def _linear(theirs, ours):
    return Row(f"{theirs}.weight", f"{ours}/kernel", "linear"), Row(
        f"{theirs}.bias", f"{ours}/bias"
    )


def config_from(shapes, head_width=HEAD_WIDTH):
    """AlbefConfig of a .pth, which holds no sizes but those of its tensors.

    Args:
      shapes: {name: shape}.
      head_width: H of all towers.

    Raises:
      WeightsError: these are not the tensors of a model_pretrain.
    """
    vision, text = "visual_encoder.", "text_encoder.bert."
    layer = text + "encoder.layer."
    try:
        width, _, patch_size, _ = shapes[vision + "patch_embed.proj.weight"]
        places = shapes[vision + "pos_embed"][1] - 1
        mlp_width = shapes[vision + "blocks.0.mlp.fc1.weight"][0]
        vocabulary, text_width = shapes[text + "embeddings.word_embeddings.weight"]
        positions = shapes[text + "embeddings.position_embeddings.weight"][0]
        token_types = shapes[text + "embeddings.token_type_embeddings.weight"][0]
        text_mlp_width = shapes[layer + "0.intermediate.dense.weight"][0]
        projection = shapes["text_proj.weight"][0]
    except KeyError as error:
        raise WeightsError(f"no ALBEF model_pretrain: it has no tensor {error}") from error
    fused = _numbers(shapes, layer, "crossattention.self.query.weight")
    depth = len(_numbers(shapes, layer, "attention.self.query.weight"))
    if not fused:
        raise WeightsError(f"no ALBEF model_pretrain: {layer}{{i}} has no crossattention")
    base = vit.PRESETS["albef-base-patch16-256"]
    text_config = BertConfig(
        width=text_width,
        depth=min(fused),
        heads=text_width // head_width,
        mlp_width=text_mlp_width,
        vocabulary=vocabulary,
        positions=positions,
        token_types=token_types,
        head=True,
    )
    return AlbefConfig(
        vit=dataclasses.replace(
            base,
            image_size=math.isqrt(places) * patch_size,
            patch_size=patch_size,
            width=width,
            depth=len(_numbers(shapes, vision + "blocks.", "norm1.weight")),
            heads=width // head_width,
            mlp_width=mlp_width,
        ),
        text=text_config,
        fusion=dataclasses.replace(
            text_config,
            depth=depth - min(fused),
            vocabulary=0,
            token_types=0,
            head=False,
            cross_every=1,
            encoder_width=shapes[f"{layer}{min(fused)}.crossattention.self.key.weight"][1],
        ),
        projection=projection,
    )


def _numbers(shapes, before, after):
    """Which {i} there are of `before`{i}.`after`."""
    pattern = re.compile(re.escape(before) + r"(\d+)\." + re.escape(after))
    return [int(found[1]) for found in map(pattern.fullmatch, shapes) if found]
