"""T5, T5 v1.1 and Flan-T5: `T5ForConditionalGeneration` of transformers (model_type t5)."""

from regionjax.config import nearest
from regionjax.models.t5 import T5Config
from regionjax.weights.table import Row, WeightsError

# Their names of activations, and ours.
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh"}


def rows(config):
    """The table of a T5Config."""
    embedding = "shared.weight"
    mlp = {"wi_0": "mlp_gate", "wi_1": "mlp_up"} if config.gated else {"wi": "mlp_up"}
    return (
        Row(embedding, "embedding"),
        Row("encoder.embed_tokens.weight", None, tied=embedding),
        Row("decoder.embed_tokens.weight", None, tied=embedding),
        Row("lm_head.weight", None, tied=embedding)
        if config.tied
        else Row("lm_head.weight", "output_embedding"),
        *_stack("encoder", mlp, "1"),
        *_stack("decoder", mlp, "2"),
        *_attention("decoder", "1", "EncDecAttention", "cross_", "cross"),
        # Early checkpoints hold a bias of the cross-attention that the model never had.
        Row("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None),
    )


def _stack(stack, mlp, last):
    """One stack without cross-attention; `last` is the number of the MLP in a block."""
    block, ours = f"{stack}.block.{{i}}.layer.", f"{stack}/layers/"
    return (
        Row(
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            f"{stack}/relative_position_bias",
        ),
        *_attention(stack, "0", "SelfAttention", "", "attention"),
        *(
            Row(f"{block}{last}.DenseReluDense.{theirs}.weight", f"{ours}{name}/kernel", "linear")
            for theirs, name in {**mlp, "wo": "mlp_out"}.items()
        ),
        Row(f"{block}{last}.layer_norm.weight", f"{ours}mlp_norm/scale"),
        Row(f"{stack}.final_layer_norm.weight", f"{stack}/norm/scale"),
    )


def _attention(stack, number, module, prefix, name):
    block, ours = f"{stack}.block.{{i}}.layer.{number}.", f"{stack}/layers/"
    inner = {"q": f"{prefix}query", "k": f"{prefix}key", "v": f"{prefix}value"}
    return (
        *(
            Row(f"{block}{module}.{theirs}.weight", f"{ours}{path}/kernel", "linear")
            for theirs, path in inner.items()
        ),
        Row(f"{block}{module}.o.weight", f"{ours}{name}_out/kernel", "linear", inputs=2),
        Row(f"{block}layer_norm.weight", f"{ours}{name}_norm/scale"),
    )


def config_from(values, names=()):
    """T5Config of a config.json.

    Args:
      values: the dictionary in it.
      names: of the checkpoint's tensors, if known. Version 5 of transformers writes
        tie_word_embeddings for every T5; only the tensors tell the ones whose lm_head is their own.

    Raises:
      WeightsError: an activation that no T5 has.
    """
    projection = values.get("feed_forward_proj", "relu")
    gated = projection.startswith("gated-")
    activation = values.get("dense_act_fn") or projection.removeprefix("gated-")
    if projection == "gated-gelu" and "dense_act_fn" not in values:
        activation = "gelu_new"
    if activation not in ACTIVATIONS:
        raise WeightsError(f"dense_act_fn {activation!r}{nearest(activation, ACTIVATIONS)}")
    tied = values.get("tie_word_embeddings", True)
    scaled = values.get("scale_decoder_outputs", tied)
    if names:
        tied = scaled or not {"shared.weight", "lm_head.weight"} <= set(names)
    return T5Config(
        vocabulary=values["vocab_size"],
        width=values["d_model"],
        depth=values["num_layers"],
        decoder_depth=values.get("num_decoder_layers") or values["num_layers"],
        heads=values["num_heads"],
        head_width=values["d_kv"],
        mlp_width=values["d_ff"],
        activation=ACTIVATIONS[activation],
        gated=gated,
        tied=tied,
        scaled=scaled,
        buckets=values.get("relative_attention_num_buckets", 32),
        max_distance=values.get("relative_attention_max_distance", 128),
        epsilon=values.get("layer_norm_epsilon", 1e-6),
        start_id=values.get("decoder_start_token_id", 0),
    )


def config_to(config):
    """The config.json of a T5Config; the inverse of `config_from` but for remat and unroll."""
    theirs = {ours: name for name, ours in ACTIVATIONS.items()}[config.activation]
    plain = "gelu" if theirs == "gelu_new" else theirs
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": config.vocabulary,
        "d_model": config.width,
        "num_layers": config.depth,
        "num_decoder_layers": config.decoder_depth,
        "num_heads": config.heads,
        "d_kv": config.head_width,
        "d_ff": config.mlp_width,
        "feed_forward_proj": f"gated-{plain}" if config.gated else plain,
        "dense_act_fn": theirs,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": config.scaled,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.max_distance,
        "layer_norm_epsilon": config.epsilon,
        "is_encoder_decoder": True,
        "decoder_start_token_id": config.start_id,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
