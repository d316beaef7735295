"""Language models of transformers: Gemma 1, 2 and 3 (text) and Qwen3 dense, as ForCausalLM."""

import dataclasses

from regionjax.config import nearest
from regionjax.models.decoder_config import DecoderConfig
from regionjax.models.vit import ViTConfig
from regionjax.weights.table import Row, WeightsError, prefixed
from regionjax.weights.tables import vit

# Their names of activations, and ours.
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "silu": "silu"}
KINDS = {"full_attention": "full", "sliding_attention": "local"}
CLASSES = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# What a config.json leaves out has the value of transformers' own defaults.
_BASE = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_GEMMA = {
    **_BASE,
    "vocab_size": 256_000,
    "hidden_size": 3072,
    "intermediate_size": 24_576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
}
_GEMMA2 = {
    **_GEMMA,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
_QWEN3 = {
    **_BASE,
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
DEFAULTS = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": {
        **_GEMMA2,
        "vocab_size": 262_208,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10_000.0,
        "sliding_window_pattern": 6,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    },
    "qwen3": _QWEN3,
}
# What their code does and their config.json does not say.
FORMS = {
    "gemma": {"centred_norms": True, "post_norms": False, "head_norms": False},
    "gemma2": {"centred_norms": True, "post_norms": True, "head_norms": False},
    "gemma3_text": {"centred_norms": True, "post_norms": True, "head_norms": True},
    "qwen3": {"centred_norms": False, "post_norms": False, "head_norms": True},
}
# Of the SigLIP tower beside Gemma 3; its size is of no account, only its tensors' names are.
TOWER = ViTConfig(image_size=14, patch_size=14, width=1, depth=1, heads=1, mlp_width=1)
_PROJECTIONS = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "attention_out",
    "mlp.gate_proj": "mlp_gate",
    "mlp.up_proj": "mlp_up",
    "mlp.down_proj": "mlp_out",
}


def rows(config):
    """Table of a ForCausalLM of `config`, a DecoderConfig."""
    norms = {"input_layernorm": "attention_norm"}
    if config.post_norms:
        norms["post_attention_layernorm"] = "attention_post_norm"
        norms["pre_feedforward_layernorm"] = "mlp_norm"
        norms["post_feedforward_layernorm"] = "mlp_post_norm"
    else:
        norms["post_attention_layernorm"] = "mlp_norm"
    if config.head_norms:
        norms |= {"self_attn.q_norm": "query_norm", "self_attn.k_norm": "key_norm"}
    layer = "model.layers.{i}."
    table, output = "model.embed_tokens.weight", "lm_head.weight"
    return (
        Row(table, "embedding"),
        *(Row(f"{layer}{theirs}.weight", f"layers/{ours}/scale") for theirs, ours in norms.items()),
        *(
            Row(f"{layer}{theirs}.weight", f"layers/{ours}/kernel", "linear", inputs=inputs)
            for theirs, ours in _PROJECTIONS.items()
            for inputs in [2 if ours == "attention_out" else 1]
        ),
        Row("model.norm.weight", "norm/scale"),
        Row(output, None, tied=table) if config.tied else Row(output, "output_embedding"),
    )


def multimodal_rows(config):
    """Table of a Gemma3ForConditionalGeneration, of which only the language model is ours.

    The sizes from 4B on are published in this form alone.
    """
    tower = [row.theirs for row in vit.rows(TOWER, "siglip_vision_model")]
    others = [f"vision_tower.{scope}{name}" for scope in ("", "vision_model.") for name in tower]
    projector = ("mm_input_projection_weight", "mm_soft_emb_norm.weight")
    others += [f"multi_modal_projector.{name}" for name in projector]
    return (*prefixed(rows(config), "language_model."), *(Row(name, None) for name in others))


def config_from(values):
    """DecoderConfig of a config.json, of its text_config where there is one.

    Raises:
      WeightsError: another architecture, or a setting that Decoder does not have.
    """
    if values.get("model_type") == "gemma3":
        values = {"model_type": "gemma3_text", **values["text_config"]}
    model_type = values.get("model_type")
    if model_type not in DEFAULTS:
        raise WeightsError(
            f"config.json: model_type {model_type!r} is no decoder known here"
            f"{nearest(model_type, DEFAULTS)}"
        )
    values = {**DEFAULTS[model_type], **values}
    for key in ("attention_bias", "use_bidirectional_attention"):
        if values.get(key):
            raise WeightsError(f"config.json: {key} = {values[key]!r}; here it is always false")
    kinds = _kinds(values)
    local = "local" in kinds
    return DecoderConfig(
        vocabulary=values["vocab_size"],
        width=values["hidden_size"],
        depth=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        kv_heads=values["num_key_value_heads"],
        head_width=values["head_dim"],
        mlp_width=values["intermediate_size"],
        activation=_activation(values),
        norm_epsilon=values["rms_norm_eps"],
        pattern=_period(kinds),
        window=values["sliding_window"] if local else 0,
        query_divisor=values.get("query_pre_attn_scalar", 0),
        attention_softcap=values.get("attn_logit_softcapping") or 0.0,
        logit_softcap=values.get("final_logit_softcapping") or 0.0,
        scaled_embedding=model_type != "qwen3",
        tied=values["tie_word_embeddings"],
        **_rope(values, local),
        **FORMS[model_type],
    )


def config_to(config):
    """The config.json of a DecoderConfig; the inverse of `config_from` but for remat and unroll.

    Raises:
      WeightsError: no public architecture has this combination.
    """
    form = {key: getattr(config, key) for key in FORMS["gemma"]}
    found = [model_type for model_type, other in FORMS.items() if other == form]
    if not found:
        raise WeightsError(f"no public decoder has {form}; known: {FORMS}")
    (model_type,) = found
    theirs = {ours: name for name, ours in (*ACTIVATIONS.items(), *KINDS.items())}
    act = "hidden_activation" if model_type in ("gemma2", "gemma3_text") else "hidden_act"
    values = {
        "architectures": [CLASSES[model_type]],
        "model_type": model_type,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        act: theirs[config.activation],
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,
        "tie_word_embeddings": config.tied,
    }
    if "sliding_window" in DEFAULTS[model_type]:
        values["layer_types"] = [theirs[kind] for kind in config.kinds]
        if config.window:
            values["sliding_window"] = config.window
    if model_type == "qwen3":
        values["use_sliding_window"] = config.window > 0
    if "query_pre_attn_scalar" in DEFAULTS[model_type]:
        values |= {
            "query_pre_attn_scalar": config.query_divisor or config.head_width,
            "attn_logit_softcapping": config.attention_softcap or None,
            "final_logit_softcapping": config.logit_softcap or None,
        }
    if model_type == "gemma3_text":
        values["rope_local_base_freq"] = config.local_rope_base
        if config.rope_factor != 1:
            values["rope_scaling"] = {"rope_type": "linear", "factor": config.rope_factor}
    _check_inverse(config, values)
    return values


def _check_inverse(config, values):
    back = dataclasses.asdict(config_from(values))
    for key, value in dataclasses.asdict(config).items():
        if key == "pattern":  # the same layers may have a shorter period
            value = _period(config.kinds)
        if key == "query_divisor" and values.get("query_pre_attn_scalar"):
            value = value or config.head_width
        if key not in ("remat", "unroll") and back[key] != value:
            raise WeightsError(
                f"a public {values['model_type']} has {key} = {back[key]!r}, not {value!r}"
            )


def _activation(values):
    if values["model_type"] == "gemma":
        # Files of Gemma 1 say "gelu" and mean its tanh form.
        name = values.get("hidden_activation") or values["hidden_act"]
        name = "gelu_pytorch_tanh" if name == "gelu" else name
    elif "hidden_activation" in values:
        name = values["hidden_activation"]
    else:
        name = values["hidden_act"]
    if name not in ACTIVATIONS:
        raise WeightsError(f"config.json: activation {name!r}{nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _kinds(values):
    """The kind of every layer."""
    model_type, depth = values["model_type"], values["num_hidden_layers"]
    if model_type == "gemma" or (model_type == "qwen3" and not values["use_sliding_window"]):
        return ("full",) * depth
    named = values.get("layer_types")
    if named is not None:
        for name in named:
            if name not in KINDS:
                raise WeightsError(f"config.json: layer_types has {name!r}{nearest(name, KINDS)}")
        return tuple(KINDS[name] for name in named)
    if model_type == "qwen3":
        return tuple("local" if i >= values["max_window_layers"] else "full" for i in range(depth))
    every = 2 if model_type == "gemma2" else values["sliding_window_pattern"]
    return tuple("local" if (i + 1) % every else "full" for i in range(depth))


def _period(kinds):
    """The shortest beginning that repeats to `kinds`."""
    count = range(1, len(kinds) + 1)
    return next(kinds[:n] for n in count if all(k == kinds[i % n] for i, k in enumerate(kinds)))


def _rope(values, local):
    """Settings of rotary positions, from the names of transformers 4 or 5."""
    given = values.get("rope_parameters") or {}
    full = given.get("full_attention", {} if "sliding_attention" in given else given)
    near = given.get("sliding_attention", {})
    scaling = {**(values.get("rope_scaling") or {}), **full}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    linear = kind == "linear" and values["model_type"] == "gemma3_text"
    if not (kind == "default" or linear) or near.get("rope_type", "default") != "default":
        raise WeightsError(f"config.json: rotary positions of type {kind!r} are not known here")
    base = float(scaling.get("rope_theta", values["rope_theta"]))
    settings = {"rope_base": base, "rope_factor": float(scaling["factor"]) if linear else 1.0}
    if local:
        near_base = near.get("rope_theta", values.get("rope_local_base_freq", base))
        settings["local_rope_base"] = float(near_base)
    return settings
