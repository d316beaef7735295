"""Swin Transformers of transformers: SwinModel, and SwinForImageClassification without its head."""

from regionjax.models.swin import EPSILON, SwinConfig
from regionjax.weights.table import Row, WeightsError, prefixed

# What a config.json must say, because Swin here has no other form.
FIXED = {
    "hidden_act": "gelu",
    "layer_norm_eps": EPSILON,
    "num_channels": 3,
    "qkv_bias": True,
    "use_absolute_embeddings": False,
}


def rows(config):
    """Table of a SwinModel."""
    table = [
        Row("embeddings.patch_embeddings.projection.weight", "patch_embedding/kernel", "patches"),
        Row("embeddings.patch_embeddings.projection.bias", "patch_embedding/bias"),
        *_norm("embeddings.norm", "embedding_norm"),
        *_norm("layernorm", "norm"),
    ]
    for stage in range(len(config.depths)):
        theirs, ours = f"encoder.layers.{stage}.", f"stage_{stage + 1}/"
        for offset, name in enumerate(("plain", "shifted")):
            block = prefixed(_layer(offset), theirs + "blocks.{i}.", f"{ours}{name}/")
            table += block
        if stage + 1 < len(config.depths):
            merging = f"merging_{stage + 1}/"
            table += _norm(theirs + "downsample.norm", merging + "norm")
            table.append(
                Row(theirs + "downsample.reduction.weight", merging + "reduction/kernel", "linear")
            )
    return tuple(table)


def classifier_rows(config):
    """Table of a SwinForImageClassification; its head has no place here."""
    head = (Row("classifier.weight", None), Row("classifier.bias", None))
    return (*prefixed(rows(config), "swin."), *head)


def _layer(offset):
    pairs = {"step": 2, "offset": offset}
    attention = "attention.self."
    return (
        *_norm("layernorm_before", "attention_norm", **pairs),
        *_linear(attention + "query", "query", **pairs),
        *_linear(attention + "key", "key", **pairs),
        *_linear(attention + "value", "value", **pairs),
        *_linear("attention.output.dense", "attention_out", inputs=2, **pairs),
        Row(attention + "relative_position_bias_table", "relative_position_bias", **pairs),
        Row(attention + "relative_position_index", None),
        *_norm("layernorm_after", "mlp_norm", **pairs),
        *_linear("intermediate.dense", "mlp_up", **pairs),
        *_linear("output.dense", "mlp_out", **pairs),
    )


def _linear(theirs, ours, inputs=1, **more):
    return (
        Row(f"{theirs}.weight", f"{ours}/kernel", "linear", inputs=inputs, **more),
        Row(f"{theirs}.bias", f"{ours}/bias", **more),
    )


def _norm(theirs, ours, **more):
    return (
        Row(f"{theirs}.weight", f"{ours}/scale", **more),
        Row(f"{theirs}.bias", f"{ours}/bias", **more),
    )


def config_from(json):
    """SwinConfig from config.json.

    Raises:
      WeightsError: a setting that Swin here does not have.
    """
    for key, value in FIXED.items():
        if json.get(key, value) != value:
            raise WeightsError(f"config.json: {key} = {json[key]!r}; only {value!r} is known here")
    return SwinConfig(
        image_size=json["image_size"],
        width=json["embed_dim"],
        depths=tuple(json["depths"]),
        heads=tuple(json["num_heads"]),
        window=json["window_size"],
        patch_size=json["patch_size"],
        mlp_ratio=json["mlp_ratio"],
    )


def config_to(config):
    """config.json of a SwinModel."""
    return {
        "architectures": ["SwinModel"],
        "model_type": "swin",
        "image_size": config.image_size,
        "embed_dim": config.width,
        "depths": list(config.depths),
        "num_heads": list(config.heads),
        "window_size": config.window,
        "patch_size": config.patch_size,
        "mlp_ratio": config.mlp_ratio,
        **FIXED,
    }
