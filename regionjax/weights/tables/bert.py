"""BERT of transformers, the Q-Formers of BLIP-2 and InstructBLIP, and rows that ALBEF shares."""

from regionjax.models.bert import BertConfig
from regionjax.weights.table import Row, WeightsError, prefixed

# What a config.json must say where it says anything, because BERT here has no other form.
FIXED = {
    "hidden_act": "gelu",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "use_qformer_text_input": False,
}
# What a config.json leaves out has the value of transformers' own defaults.
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "cross_attention_frequency": 2,
    "encoder_hidden_size": 1408,
}
HEADS = ("BertForMaskedLM", "BertForPreTraining")
_KINDS = ("weight", "bias")


def rows(config):
    """Table of a BertModel; with `head`, of a BertForMaskedLM or BertForPreTraining; with queries,
    of a Q-Former, whose query_tokens belong to the model around it.
    """
    if config.queries:
        return _qformer(config)
    model = (
        *embedding_rows(),
        *layer_rows("encoder.layer.{i}.", "layers/plain/"),
        *_ignored("pooler.dense"),
    )
    if config.head:
        head = (*head_rows("embeddings.word_embeddings.weight"), *_ignored("cls.seq_relationship"))
        model = (*prefixed(model, "bert."), *head)
    return (*model, *_old_names(model, config.depth))


def embedding_rows():
    """Words, positions and token types, below their own names."""
    return (
        Row("embeddings.word_embeddings.weight", "embedding"),
        Row("embeddings.position_embeddings.weight", "position_embedding"),
        Row("embeddings.token_type_embeddings.weight", "token_type_embedding"),
        Row("embeddings.position_ids", None),
        *_norm("embeddings.LayerNorm", "embedding_norm"),
    )


def layer_rows(theirs, ours, inner="self", cross=False, mlps=(("", ""),), **numbers):
    """A stack of layers.

    Args:
      theirs, ours: what all names begin with.
      inner: their name for the part of attention before its last projection.
      cross: whether the layers have cross-attention.
      mlps: (suffix of theirs, prefix of ours) of each MLP.
      numbers: step and offset of the layers.
    """
    kinds = {"attention": ("", "attention")}
    if cross:
        kinds["crossattention"] = ("cross_", "cross")
    table = []
    for module, (prefix, name) in kinds.items():
        for projection in ("query", "key", "value"):
            table += _linear(f"{module}.{inner}.{projection}", prefix + projection, **numbers)
        table += _linear(f"{module}.output.dense", f"{name}_out", inputs=2, **numbers)
        table += _norm(f"{module}.output.LayerNorm", f"{name}_norm", **numbers)
    for suffix, prefix in mlps:
        table += _linear(f"intermediate{suffix}.dense", f"{prefix}mlp_up", **numbers)
        table += _linear(f"output{suffix}.dense", f"{prefix}mlp_out", **numbers)
        table += _norm(f"output{suffix}.LayerNorm", f"{prefix}mlp_norm", **numbers)
    return prefixed(table, theirs, ours)


def head_rows(embedding):
    """The masked language head, tied to the table of that name (without "bert.")."""
    theirs = "cls.predictions."
    return (
        *_linear(theirs + "transform.dense", "head/transform"),
        *_norm(theirs + "transform.LayerNorm", "head/norm"),
        Row(theirs + "bias", "head/bias"),
        Row(theirs + "decoder.weight", None, tied="bert." + embedding),
        Row(theirs + "decoder.bias", None, tied=theirs + "bias"),
    )


def _qformer(config):
    mlps = [("_query", "query_")]
    if config.vocabulary:
        mlps.append(("", ""))
        table = [
            Row("embeddings.word_embeddings.weight", "embedding"),
            Row("embeddings.position_embeddings.weight", "position_embedding"),
            Row("embeddings.position_ids", None),
            *_norm("embeddings.layernorm", "embedding_norm"),
        ]
    else:
        table = [*_norm("layernorm", "embedding_norm")]
    for offset, kind in enumerate(config.kinds):
        table += layer_rows(
            "encoder.layer.{i}.",
            f"layers/{kind}/",
            inner="attention",
            cross=kind == "cross",
            mlps=mlps,
            step=len(config.kinds),
            offset=offset,
        )
    return tuple(table)


def _old_names(table, depth):
    """The first BERTs' files call a norm's scale gamma and its bias beta."""
    for row in table:
        for new, old in (
            ("LayerNorm.weight", "LayerNorm.gamma"),
            ("LayerNorm.bias", "LayerNorm.beta"),
        ):
            if row.theirs.endswith(new):
                for name in dict.fromkeys(row.theirs.replace("{i}", str(i)) for i in range(depth)):
                    yield Row(name.replace(new, old), None, tied=name)


def _linear(theirs, ours, inputs=1, **numbers):
    return (
        Row(f"{theirs}.weight", f"{ours}/kernel", "linear", inputs=inputs, **numbers),
        Row(f"{theirs}.bias", f"{ours}/bias", **numbers),
    )


def _norm(theirs, ours, **numbers):
    return (
        Row(f"{theirs}.weight", f"{ours}/scale", **numbers),
        Row(f"{theirs}.bias", f"{ours}/bias", **numbers),
    )


def _ignored(name):
    return (Row(f"{name}.{kind}", None) for kind in _KINDS)


def config_from(json, queries=0):
    """BertConfig of a BERT's config.json, or of the qformer_config in another's.

    Args:
      json: the dictionary.
      queries: of a Q-Former: num_query_tokens of the model around it.

    Raises:
      WeightsError: a setting that BERT here does not have.
    """
    for key, value in FIXED.items():
        if json.get(key, value) != value:
            raise WeightsError(f"config.json: {key} = {json[key]!r}; here it is always {value!r}")
    json = {**DEFAULTS, **json}
    dropout, other = json["hidden_dropout_prob"], json["attention_probs_dropout_prob"]
    if dropout != other:
        raise WeightsError(
            f"config.json: hidden_dropout_prob = {dropout} and attention_probs_dropout_prob = "
            f"{other}; here they are one"
        )
    sizes = {
        "width": json["hidden_size"],
        "depth": json["num_hidden_layers"],
        "heads": json["num_attention_heads"],
        "mlp_width": json["intermediate_size"],
        "dropout": dropout,
        "epsilon": json["layer_norm_eps"],
    }
    text = {"vocabulary": json["vocab_size"], "positions": json["max_position_embeddings"]}
    if not queries:
        head = bool(set(json.get("architectures") or ()) & set(HEADS))
        return BertConfig(**sizes, **text, token_types=json["type_vocab_size"], head=head)
    frequency = json["cross_attention_frequency"]
    if frequency not in (1, 2):
        raise WeightsError(
            f"config.json: cross_attention_frequency = {frequency}; here it is 1 or 2"
        )
    return BertConfig(
        **sizes,
        **(text if json["model_type"] == "instructblip_qformer" else {}),
        queries=queries,
        cross_every=frequency,
        encoder_width=json["encoder_hidden_size"],
    )


def config_to(config):
    """The config.json of a BertConfig; the inverse of `config_from` but for remat and unroll."""
    json = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.epsilon,
    }
    if config.vocabulary:
        json["vocab_size"] = config.vocabulary
        json["max_position_embeddings"] = config.positions
    if config.queries:
        json["model_type"] = "instructblip_qformer" if config.vocabulary else "blip_2_qformer"
        json["cross_attention_frequency"] = config.cross_every
        json["encoder_hidden_size"] = config.encoder_width
    else:
        json["model_type"] = "bert"
        json["architectures"] = [HEADS[0] if config.head else "BertModel"]
        json["type_vocab_size"] = config.token_types
    return json
