"""Vision towers of transformers (CLIP, SigLIP 1 and 2, BLIP-2, ViT, DeiT) and of ALBEF's files.

A tower alone has `rows`; a public CLIP or SigLIP is a pair of towers (`pair_rows`), a public DeiT a
classifier (`classifier_rows`), of which only the vision tower is ours.
"""

import math

from regionjax.config import nearest
from regionjax.models.vit import CLIP, HALF, IMAGENET, ViTConfig
from regionjax.weights.table import Row, WeightsError, prefixed

# Their names of activations, and ours; the first that is ours is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
# What a config.json leaves out has the value of transformers' own defaults.
_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}
_CLIP = {**_BASE, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {
    **_BASE,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
_BLIP = {
    "hidden_size": 1408,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "intermediate_size": 6144,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
_VIT = {**_BASE, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
DEFAULTS = {
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": {**_SIGLIP, "num_patches": 256},
    "blip_2_vision_model": _BLIP,
    "instructblip_vision_model": _BLIP,
    "vit": _VIT,
    "deit": _VIT,
}
# What their code does and their config.json does not say. Pixels are those of the image processor,
# which a preprocessor_config.json may change.
FORMS = {
    "clip_vision_model": {"class_token": True, "patch_bias": False, "pre_norm": True, **CLIP},
    "siglip_vision_model": HALF,
    "siglip2_vision_model": {"interpolation": "bilinear", **HALF},
    "blip_2_vision_model": {"class_token": True, **CLIP},
    "instructblip_vision_model": {"class_token": True, **CLIP},
    "vit": {"class_token": True, **HALF},
    "deit": {"class_token": True, "distillation_token": True, **IMAGENET},
}
CLASSES = {
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    "blip_2_vision_model": "Blip2VisionModel",
    "instructblip_vision_model": "InstructBlipVisionModel",
    "vit": "ViTModel",
    "deit": "DeiTModel",
}
FIXED = {"num_channels": 3, "qkv_bias": True}  # ViT here has no other form

_KINDS = ("weight", "bias")
# A layer's names in each family, and ours; None: queries, keys and values in one tensor.
_SPLIT = {
    "layer_norm1": "attention_norm",
    "layer_norm2": "mlp_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "attention_out",
    "mlp.fc1": "mlp_up",
    "mlp.fc2": "mlp_out",
}
_FUSED = {
    "layer_norm1": "attention_norm",
    "layer_norm2": "mlp_norm",
    "self_attn.qkv": None,
    "self_attn.projection": "attention_out",
    "mlp.fc1": "mlp_up",
    "mlp.fc2": "mlp_out",
}
_OLD = {
    "layernorm_before": "attention_norm",
    "layernorm_after": "mlp_norm",
    "attention.attention.query": "query",
    "attention.attention.key": "key",
    "attention.attention.value": "value",
    "attention.output.dense": "attention_out",
    "intermediate.dense": "mlp_up",
    "output.dense": "mlp_out",
}
_TIMM = {
    "norm1": "attention_norm",
    "norm2": "mlp_norm",
    "attn.qkv": None,
    "attn.proj": "attention_out",
    "mlp.fc1": "mlp_up",
    "mlp.fc2": "mlp_out",
}


def rows(config, model_type):
    """Table of a tower alone.

    Args:
      config: ViTConfig.
      model_type: as in config.json, a key of DEFAULTS; or "albef", for the names in its .pth files.
    """
    if model_type == "albef":
        return _albef(config)
    if model_type in ("vit", "deit"):
        return _vit(config)
    return _clip(config, model_type)


def pair_rows(config, model_type):
    """Table of a CLIPModel or SiglipModel, of `model_type` of its vision tower."""
    text = [row.theirs for row in _layers("encoder.layers.{i}.", _SPLIT)]
    text += [f"embeddings.{kind}_embedding.weight" for kind in ("token", "position")]
    text += ["embeddings.position_ids"]
    text += [f"{name}.{kind}" for name in ("final_layer_norm", "head") for kind in _KINDS]
    others = ("logit_scale", "logit_bias", "visual_projection.weight", "text_projection.weight")
    return (
        *prefixed(rows(config, model_type), "vision_model."),
        *(Row("text_model." + name, None) for name in text),
        *(Row(name, None) for name in others),
    )


def classifier_rows(config, model_type):
    """Table of a ViTForImageClassification or of DeiT's, with or without a teacher."""
    heads = ("classifier", "cls_classifier", "distillation_classifier")
    return (
        *prefixed(rows(config, model_type), f"{model_type}."),
        *(Row(f"{head}.{kind}", None) for head in heads for kind in _KINDS),
    )


def _clip(config, model_type):
    blip = "blip" in model_type
    # A table as a parameter has an axis of its own, as an nn.Embedding it has not.
    position, one = ("", (1, -1, config.width)) if blip else (".weight", None)
    form = "linear" if model_type == "siglip2_vision_model" else "patches"
    table = [
        Row("embeddings.patch_embedding.weight", "patch_embedding/kernel", form),
        Row(f"embeddings.position_embedding{position}", "position_embedding", shape=one),
        Row("embeddings.position_ids", None),
        *_layers("encoder.layers.{i}.", _FUSED if blip else _SPLIT),
        *_norm("post_layernorm", "norm"),
    ]
    if config.patch_bias:
        table.append(Row("embeddings.patch_embedding.bias", "patch_embedding/bias"))
    if config.class_token:
        one = (1, 1, -1) if blip else None
        table.append(Row("embeddings.class_embedding", "class_token", shape=one))
    if config.pre_norm:
        table += _norm("pre_layrnorm", "pre_norm")  # their spelling
    if config.attention_pool:
        table += [
            Row("head.probe", "pool/probe", shape=(1, 1, -1)),
            *_fused("head.attention.in_proj_weight", "head.attention.in_proj_bias", "pool/"),
            *_linear("head.attention.out_proj", "pool/attention_out", inputs=2),
            *_norm("head.layernorm", "pool/mlp_norm"),
            *_linear("head.mlp.fc1", "pool/mlp_up"),
            *_linear("head.mlp.fc2", "pool/mlp_out"),
        ]
    return tuple(table)


def _vit(config):
    tokens = {"cls_token": "class_token", "distillation_token": "distillation_token"}
    return (
        *(
            Row(f"embeddings.{theirs}", ours, shape=(1, 1, -1))
            for theirs, ours in tokens.items()
            if ours in config.prefix
        ),
        Row("embeddings.position_embeddings", "position_embedding", shape=(1, -1, config.width)),
        *_linear("embeddings.patch_embeddings.projection", "patch_embedding", form="patches"),
        *_layers("encoder.layer.{i}.", _OLD),
        *_norm("layernorm", "norm"),
        Row("embeddings.mask_token", None),
        *(Row(f"pooler.dense.{kind}", None) for kind in _KINDS),
    )


def _albef(config):
    return (
        Row("cls_token", "class_token", shape=(1, 1, -1)),
        Row("pos_embed", "position_embedding", shape=(1, -1, config.width)),
        *_linear("patch_embed.proj", "patch_embedding", form="patches"),
        *_layers("blocks.{i}.", _TIMM),
        *_norm("norm", "norm"),
    )


def _layers(block, names):
    """Rows of all layers, whose names begin with `block`."""
    table = []
    for theirs, ours in names.items():
        if ours is None:
            table += _fused(f"{block}{theirs}.weight", f"{block}{theirs}.bias", "layers/")
        elif ours.endswith("norm"):
            table += _norm(block + theirs, f"layers/{ours}")
        else:
            inputs = 2 if ours == "attention_out" else 1
            table += _linear(block + theirs, f"layers/{ours}", inputs=inputs)
    return table


def _fused(weight, bias, scope):
    for j, name in enumerate(("query", "key", "value")):
        yield Row(weight, f"{scope}{name}/kernel", "linear", part=(j, 3))
        yield Row(bias, f"{scope}{name}/bias", part=(j, 3))


def _linear(theirs, ours, inputs=1, form="linear"):
    return (
        Row(f"{theirs}.weight", f"{ours}/kernel", form, inputs=inputs),
        Row(f"{theirs}.bias", f"{ours}/bias"),
    )


def _norm(theirs, ours):
    return Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")


def config_from(values, processor=None):
    """ViTConfig of a config.json.

    Args:
      values: of a tower, or of a CLIP or SigLIP pair: then its vision_config counts.
      processor: of a preprocessor_config.json, for the mean and deviation of pixels.

    Raises:
      WeightsError: another architecture, or a setting that ViT here does not have.
    """
    if values.get("model_type") in ("clip", "siglip", "siglip2"):
        model_type = f"{values['model_type']}_vision_model"
        values = {"model_type": model_type, **values.get("vision_config", {})}
    model_type = values.get("model_type")
    if model_type not in DEFAULTS:
        raise WeightsError(
            f"config.json: model_type {model_type!r} is no vision tower"
            f"{nearest(model_type, DEFAULTS)}"
        )
    for key, value in FIXED.items():
        if values.get(key, value) != value:
            raise WeightsError(f"config.json: {key} = {values[key]!r}; here it is always {value!r}")
    values = {**DEFAULTS[model_type], **values}
    activation = values["hidden_act"]
    if activation not in ACTIVATIONS:
        raise WeightsError(
            f"config.json: hidden_act {activation!r}{nearest(activation, ACTIVATIONS)}"
        )
    form = {"interpolation": "bicubic", **FORMS[model_type]}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if processor and theirs in processor:
            form[ours] = tuple(processor[theirs])
    patch_size = values["patch_size"]
    if model_type == "siglip2_vision_model":
        values["image_size"] = math.isqrt(values["num_patches"]) * patch_size
    for key in ("image_size", "patch_size"):
        if not isinstance(values[key], int):
            raise WeightsError(f"config.json: {key} = {values[key]!r}; here it is one number")
    return ViTConfig(
        image_size=values["image_size"],
        patch_size=patch_size,
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        mlp_width=values["intermediate_size"],
        attention_pool=values.get("vision_use_head", False),
        activation=ACTIVATIONS[activation],
        norm_epsilon=values["layer_norm_eps"],
        **form,
    )


def config_to(config, model_type):
    """The config.json of a tower; the inverse of `config_from` but for remat and unroll."""
    theirs = [name for name, ours in ACTIVATIONS.items() if ours == config.activation]
    values = {
        "architectures": [CLASSES[model_type]],
        "model_type": model_type,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": theirs[0],
        "layer_norm_eps": config.norm_epsilon,
    }
    if "vision_use_head" in DEFAULTS[model_type]:
        values["vision_use_head"] = config.attention_pool
    if model_type == "siglip2_vision_model":
        values["num_patches"] = config.grid**2
        del values["image_size"]
    return values
