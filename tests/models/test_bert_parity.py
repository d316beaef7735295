"""BERT and the Q-Formers against transformers, on random tiny models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity import close, divergence, parameters, randomise, saved  # noqa: E402
from transformers import BertConfig as TheirConfig  # noqa: E402
from transformers import (  # noqa: E402
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InstructBlipQFormerConfig,
)
from transformers.models.instructblip.modeling_instructblip import (  # noqa: E402
    InstructBlipQFormerModel,
)

from regionjax.models import bert  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.tables import bert as bert_table  # noqa: E402

pytestmark = pytest.mark.torch

B, R, P = 2, 3, 11
BERTS = (
    dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=40),
    dict(hidden_size=20, num_attention_heads=5, num_hidden_layers=3, intermediate_size=33),
    dict(
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=4,
        intermediate_size=48,
        max_position_embeddings=16,
        layer_norm_eps=1e-5,
        type_vocab_size=1,
    ),
)
# (settings, number of queries)
QFORMERS = (
    (
        dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=4, intermediate_size=40),
        5,
    ),
    (
        dict(
            hidden_size=20,
            num_attention_heads=5,
            num_hidden_layers=2,
            intermediate_size=33,
            layer_norm_eps=1e-5,
        ),
        1,
    ),
    (
        dict(
            hidden_size=16,
            num_attention_heads=2,
            num_hidden_layers=3,
            intermediate_size=24,
            cross_attention_frequency=1,
        ),
        7,
    ),
)
VOCABULARY = 43
ENCODER_WIDTH = 14


def texts(length, seed=0):
    """Tokens i32 [B, R, T] and masks: none, padding on the right, padding on the left."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (B, R, length), dtype=np.int32)
    real = 1 + np.arange(B * R).reshape(B, R, 1) * (length - 1) // (B * R - 1)
    right = np.arange(length) < real
    return tokens, {"none": None, "right": right, "left": right[..., ::-1]}


def flat(x, kind=torch.long):
    """[B, R, …] → torch [B·R, …]"""
    return None if x is None else torch.from_numpy(x.reshape(-1, *x.shape[2:]).copy()).to(kind)


def imported(config, tensors, rows, *inputs):
    shapes = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), *inputs)["params"]
    return table.to_ours(tensors, rows, shapes)


def apply(config, params, *inputs, dtype=jnp.float32, method=None):
    network = bert.Bert(config, dtype)
    return jax.jit(lambda p, *x: network.apply({"params": p}, *x, method=method))(params, *inputs)


@pytest.fixture(scope="module", params=range(len(BERTS)), ids=["three", "five", "two_heads"])
def masked(request, tmp_path_factory):
    theirs = TheirConfig(vocab_size=VOCABULARY, **BERTS[request.param])
    model = randomise(BertForMaskedLM(theirs))
    tensors = saved(model, tmp_path_factory.mktemp("bert"))
    config = bert_table.config_from(model.config.to_dict() | {"architectures": ["BertForMaskedLM"]})
    params = imported(config, tensors, bert_table.rows(config), texts(2)[0])
    return model, config, tensors, params


@pytest.mark.parametrize("length, side", [(1, "none"), (7, "right"), (16, "left")])
def test_bert(masked, length, side):
    model, config, _, params = masked
    tokens, masks = texts(length)
    with torch.no_grad():
        expected = model(flat(tokens), flat(masks[side]), output_hidden_states=True)
    hidden, intermediates = apply(config, params, tokens, masks[side])
    embedding, *states = (state.numpy() for state in expected.hidden_states)
    close(intermediates["embedding"].reshape(embedding.shape), embedding)
    assert len(states) == len(intermediates["hidden"]) == config.depth
    for got, state in zip(intermediates["hidden"], states, strict=True):
        close(got.reshape(state.shape), state)
    close(hidden.reshape(states[-1].shape), states[-1])
    logits = apply(config, params, hidden, method="logits")
    close(logits.reshape(expected.logits.shape), expected.logits)


def test_bert_in_bfloat16(masked):
    model, config, _, params = masked
    tokens, masks = texts(9)
    with torch.no_grad():
        expected = model(flat(tokens), flat(masks["right"])).logits
    hidden, _ = apply(config, params, tokens, masks["right"], dtype=jnp.bfloat16)
    logits = apply(config, params, hidden, dtype=jnp.bfloat16, method="logits")
    assert logits.dtype == jnp.float32
    assert divergence(logits.reshape(expected.shape), expected) <= 0.01


def test_bert_there_and_back_is_bit_exact(masked):
    _, config, tensors, params = masked
    back = table.to_theirs(params, bert_table.rows(config))
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape and back[name].tobytes() == tensor.tobytes(), name
    again = bert_table.config_from(bert_table.config_to(config))
    assert again == config


def test_other_berts(tmp_path):
    """With a pooler or another head, under old names, and without any head."""
    theirs = TheirConfig(vocab_size=VOCABULARY, **BERTS[0])
    model = randomise(BertForPreTraining(theirs))
    tensors = saved(model, tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert len(set(old) - set(tensors)) == 2 * (2 + 2 * BERTS[0]["num_hidden_layers"])
    old["bert.embeddings.position_ids"] = np.arange(512)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tokens, _ = texts(5)
    config = bert_table.config_from(theirs.to_dict() | {"architectures": ["BertForPreTraining"]})
    params = imported(config, old, bert_table.rows(config), tokens)
    with torch.no_grad():
        expected = model(flat(tokens)).prediction_logits
    logits = apply(config, params, apply(config, params, tokens)[0], method="logits")
    close(logits.reshape(expected.shape), expected)
    bare = dataclasses.replace(config, head=False)
    tensors = saved(model.bert, tmp_path)
    params = imported(bare, tensors, bert_table.rows(bare), tokens)
    with torch.no_grad():
        expected = model.bert(flat(tokens)).last_hidden_state
    close(apply(bare, params, tokens)[0].reshape(expected.shape), expected)


@pytest.fixture(scope="module", params=range(len(QFORMERS)), ids=["five", "one", "seven_queries"])
def instructed(request, tmp_path_factory):
    settings, queries = QFORMERS[request.param]
    theirs = InstructBlipQFormerConfig(
        vocab_size=VOCABULARY, encoder_hidden_size=ENCODER_WIDTH, **settings
    )
    model = randomise(InstructBlipQFormerModel(theirs))
    return (model, *with_queries(model, queries, tmp_path_factory.mktemp("q"), texts(2)[0]))


def with_queries(model, queries, folder, text):
    """Config, tensors, parameters and what is seen, [B, P, E]."""
    rng = np.random.default_rng(1)
    encoded = rng.normal(size=(B, P, ENCODER_WIDTH)).astype(np.float32)
    config = bert_table.config_from(model.config.to_dict(), queries)
    tensors = saved(model, folder)
    query_tokens = rng.normal(size=(1, queries, config.width)).astype(np.float32)
    rows = (
        *bert_table.rows(config),
        table.Row("query_tokens", "query_tokens", shape=(1, queries, -1)),
    )
    tensors["query_tokens"] = query_tokens
    return config, tensors, imported(config, tensors, rows, text, None, encoded), encoded


@pytest.mark.parametrize("length, side", [(1, "none"), (9, "right"), (6, "left")])
def test_qformer_with_text(instructed, length, side):
    """R sets of queries and texts on one image are R runs of the reference, each with its image."""
    model, config, tensors, params, encoded = instructed
    tokens, masks = texts(length)
    queries = torch.from_numpy(tensors["query_tokens"]).expand(B * R, -1, -1)
    mask = masks[side]
    if mask is not None:
        mask = np.concatenate([np.ones((B, R, config.queries), bool), mask], axis=-1)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(
            flat(tokens),
            attention_mask=flat(mask),
            query_embeds=queries,
            encoder_hidden_states=torch.from_numpy(np.repeat(encoded, R, axis=0)),
            output_hidden_states=True,
            output_attentions=True,
        )
    hidden, intermediates = apply(config, params, tokens, masks[side], encoded)
    embedding, *states = (state.numpy() for state in expected.hidden_states)
    close(intermediates["embedding"].reshape(embedding.shape), embedding)
    assert len(states) == len(intermediates["hidden"]) == config.depth
    for got, state in zip(intermediates["hidden"], states, strict=True):
        close(got.reshape(state.shape), state)
    close(hidden.reshape(states[-1].shape), states[-1])
    seen = intermediates["probabilities"]  # [cross layers, B, N, R, Q, P]
    assert len(seen) == len(expected.cross_attentions) == config.depth // config.cross_every
    for got, attention in zip(seen, expected.cross_attentions, strict=True):
        close(np.moveaxis(got, 2, 1).reshape(attention.shape), attention)


def test_qformer_in_bfloat16(instructed):
    """It has no logits; a random head makes some."""
    model, config, tensors, params, encoded = instructed
    tokens, _ = texts(6)
    with torch.no_grad():
        expected = model(
            flat(tokens),
            query_embeds=torch.from_numpy(tensors["query_tokens"]).expand(B * R, -1, -1),
            encoder_hidden_states=torch.from_numpy(np.repeat(encoded, R, axis=0)),
        ).last_hidden_state.numpy()
    hidden, _ = apply(config, params, tokens, None, encoded, dtype=jnp.bfloat16)
    head = np.random.default_rng(3).normal(size=(config.width, 10)) * 2 * config.width**-0.5
    assert divergence(np.float32(hidden).reshape(expected.shape) @ head, expected @ head) <= 0.01


def test_qformer_there_and_back_is_bit_exact(instructed):
    _, config, tensors, params, _ = instructed
    rows = bert_table.rows(config)
    back = table.to_theirs({k: v for k, v in params.items() if k != "query_tokens"}, rows)
    assert set(back) == set(tensors) - {"query_tokens"}
    for name, tensor in back.items():
        assert tensor.shape == tensors[name].shape
        assert tensor.tobytes() == tensors[name].tobytes(), name
    assert bert_table.config_from(bert_table.config_to(config), config.queries) == config


def test_qformer_without_text(tmp_path):
    """BLIP-2's, which knows no text, and InstructBLIP's when it gets none."""
    settings, queries = QFORMERS[0]
    theirs = Blip2QFormerConfig(encoder_hidden_size=ENCODER_WIDTH, **settings)
    model = randomise(Blip2QFormerModel(theirs))
    config, tensors, params, encoded = with_queries(model, queries, tmp_path, None)
    assert config.vocabulary == 0
    with torch.no_grad():
        expected = model(
            torch.from_numpy(tensors["query_tokens"]).expand(B, -1, -1),
            encoder_hidden_states=torch.from_numpy(encoded),
            output_hidden_states=True,
        )
    hidden, intermediates = apply(config, params, None, None, encoded)
    assert hidden.shape == (B, 1, queries, config.width)
    close(hidden[:, 0], expected.last_hidden_state)
    for got, state in zip(intermediates["hidden"], expected.hidden_states[1:], strict=True):
        close(got[:, 0], state)
    back = table.to_theirs(
        {k: v for k, v in params.items() if k != "query_tokens"}, bert_table.rows(config)
    )
    assert set(back) == set(tensors) - {"query_tokens"}
    assert bert_table.config_from(bert_table.config_to(config), queries) == config


def test_an_instructed_qformer_may_get_no_text(instructed):
    model, config, tensors, params, encoded = instructed
    with torch.no_grad():
        expected = model(
            None,
            query_embeds=torch.from_numpy(tensors["query_tokens"]).expand(B, -1, -1),
            encoder_hidden_states=torch.from_numpy(encoded),
        ).last_hidden_state
    close(apply(config, params, None, None, encoded)[0][:, 0], expected)


@pytest.mark.parametrize(
    "name, build",
    [
        ("bert-base-uncased", BertForMaskedLM),
        ("blip2-qformer", Blip2QFormerModel),
        ("instructblip-qformer", InstructBlipQFormerModel),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, build):
    config = bert.PRESETS[name]
    json = bert_table.config_to(config)
    with torch.device("meta"):
        model = build(build.config_class(**json))
    text = jax.ShapeDtypeStruct((1, 1, 2), np.int32) if config.vocabulary else None
    encoded = jax.ShapeDtypeStruct((1, 2, config.encoder_width), np.float32)
    encoded = encoded if config.cross_every else None
    network = bert.Bert(config)
    shapes = jax.eval_shape(network.init, jax.random.key(0), text, None, encoded)["params"]
    queries = config.queries * config.width  # part of the model around it in theirs
    assert parameters(shapes) - queries == sum(p.numel() for p in model.parameters())


def test_bert_base_is_the_published_size():
    """109,482,240 parameters with the pooler, which is not ours."""
    with torch.device("meta"):
        model = BertModel(TheirConfig())
    config = dataclasses.replace(bert.PRESETS["bert-base-uncased"], head=False)
    text = jax.ShapeDtypeStruct((1, 1, 2), np.int32)
    shapes = jax.eval_shape(bert.Bert(config).init, jax.random.key(0), text)["params"]
    pooler = sum(p.numel() for p in model.pooler.parameters())
    assert parameters(shapes) + pooler == sum(p.numel() for p in model.parameters()) == 109482240
