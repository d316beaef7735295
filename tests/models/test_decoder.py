"""Decoder: golden outputs of the reference, caches, prefixes and padding against plain passes."""

import dataclasses
import functools
import json

import decoder_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import close, parameters

from regionjax import tables
from regionjax.decode import GenerationConfig
from regionjax.models.decoder import SHARDING_RULES, Decoder
from regionjax.models.decoder_config import PRESETS, DecoderConfig
from regionjax.weights import table
from regionjax.weights.table import WeightsError
from regionjax.weights.tables import decoder as decoder_table

B, P, R, L = 2, 5, 3, 4
CONFIG = DecoderConfig(
    vocabulary=40,
    width=16,
    depth=3,
    heads=4,
    kv_heads=2,
    head_width=6,
    mlp_width=24,
    activation="gelu_tanh",
    centred_norms=True,
    post_norms=True,
    head_norms=True,
    pattern=("local", "full"),
    window=4,
    local_rope_base=100.0,
    attention_softcap=2.0,
    tied=False,
)


def shapes_of(config):
    """Variables of a Decoder, nothing allocated."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    init = lambda: Decoder(config).init(jax.random.key(0), tokens, method=Decoder.read)  # noqa: E731
    return jax.eval_shape(init)


@pytest.fixture(scope="module")
def model():
    """A decoder of all variants, with parameters off their initial values."""
    rng = np.random.default_rng(0)
    draw = lambda x: np.float32(0.3 * rng.normal(size=x.shape))  # noqa: E731
    return Decoder(CONFIG), jax.tree.map(draw, shapes_of(CONFIG))


def run(network, variables, *arguments, **settings):
    """network.apply, compiled once for all tests; masks aside, `settings` are no arrays."""
    masks = {name: settings.pop(name) for name in list(settings) if name.endswith("mask")}
    return compiled(network, **settings)(variables, *arguments, **masks)


@functools.cache
def compiled(network, **settings):
    return jax.jit(functools.partial(network.apply, **settings))


def texts(seed=0):
    """A prefix f32 [B, P, D] and segments [B, R, L, D]."""
    rng = np.random.default_rng(seed)
    shapes = ((B, P, CONFIG.width), (B, R, L, CONFIG.width))
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize("name", reference.GOLDEN_MODELS)
def test_golden_outputs(name):
    with np.load(reference.GOLDEN) as file:
        kept = {key[len(name) + 1 :]: file[key] for key in file if key.startswith(f"{name}/")}
    tensors = {key[7:]: kept[key] for key in kept if key.startswith("tensor/")}
    network, variables = reference.ours(json.loads(str(kept["config"])), tensors)
    tokens, mask = kept["tokens"], kept["mask"]
    logits, states = run(*(network, variables, tokens, mask), keep_hidden=True, method=Decoder.read)
    close(logits[mask], kept["logits"][mask])
    for got, expected in zip(states["hidden"], kept["hidden"], strict=True):
        close(got[mask], expected[mask])
    for method in ("greedy", "beam"):
        config = GenerationConfig(method=method, max_new_tokens=8, beams=3)
        generate = reference.generator(network, config)
        np.testing.assert_array_equal(
            generate(variables, tokens, mask, reference.EOS), kept[method]
        )


def test_packed_segments_are_texts_of_their_own(model):
    network, variables = model
    prefix, segments = texts()
    _, together, _ = run(network, variables, prefix, segments)
    one = jax.jit(lambda v, r: network.apply(v, prefix, jnp.asarray(segments)[:, r][:, None])[1])
    for r in range(R):
        np.testing.assert_allclose(together[:, r], one(variables, r)[:, 0], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side):
    network, variables = model
    prefix, segments = texts()

    def pad(x, axis, count, value):
        width = [(0, 0)] * x.ndim
        width[axis] = (count, 0) if side == "left" else (0, count)
        return np.pad(x, width, constant_values=value)

    masks = pad(np.ones((B, P), bool), 1, 3, False), pad(np.ones((B, R, L), bool), 2, 2, False)
    plain = run(network, variables, prefix, segments)[:2]
    got = run(network, variables, pad(prefix, 1, 3, 9), pad(segments, 2, 2, 9), *masks)[:2]
    for hidden, expected, mask in zip(got, plain, masks, strict=True):
        np.testing.assert_allclose(hidden[mask], expected.reshape(-1, CONFIG.width), atol=1e-5)


@pytest.mark.parametrize("prefix_length, prompt", [(0, 3), (P, 0), (P, 3)])
def test_one_token_at_a_time_equals_the_whole_pass(model, prefix_length, prompt):
    """Also for prompts of different lengths, some padded, and for segments that are repeated."""
    network, variables = model
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, CONFIG.vocabulary, (B, R, 8))
    lengths = np.minimum(prompt, [[0, 1, 3], [3, 2, 1]])
    if not prefix_length:
        lengths = np.maximum(lengths, 1)
    prefix = texts()[0][:, :prefix_length]
    prefix_mask = np.arange(prefix_length) >= np.array([[0], [2]])
    embed = lambda t: run(network, variables, t, method=Decoder.embed)  # noqa: E731
    mask = np.arange(prompt) < lengths[..., None]
    _, _, cache = run(
        *(network, variables, prefix, embed(tokens)[:, :, :prompt]),
        **dict(room=5, prefix_mask=prefix_mask, mask=mask, method=Decoder.prefill),
    )
    swap = np.array([[2, 0, 1, 1], [0, 1, 2, 0]])
    cache = cache.take(swap)
    advance = jax.jit(lambda c, t: network.apply(variables, c, t, method=Decoder.advance))
    for step in range(5):
        said = np.take_along_axis(tokens, lengths[..., None] + step, axis=2)[..., 0]
        logits, cache = advance(cache, np.take_along_axis(said, swap, axis=1))
    # The whole pass: what was real of the prompt, then the five tokens.
    whole = run(network, variables, prefix, embed(tokens), prefix_mask)[1]
    last = np.take_along_axis(np.asarray(whole), (lengths + 4)[..., None, None], axis=2)[:, :, 0]
    expected = run(network, variables, last, method=Decoder.logits)
    expected = np.take_along_axis(np.asarray(expected), swap[..., None], axis=1)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_windows_hide_what_lies_before_them(model):
    """Only local layers: after depth · (window - 1) tokens nothing of the first one is left."""
    _, variables = model
    network = Decoder(dataclasses.replace(CONFIG, pattern=("local",)))
    tokens = np.random.default_rng(2).integers(0, CONFIG.vocabulary, (1, 16))
    other = tokens.copy()
    other[0, 0] += 1
    both = run(network, variables, np.concatenate([tokens, other]), method=Decoder.read)[0]
    a, b = np.split(np.asarray(both), 2)
    reach = CONFIG.depth * (CONFIG.window - 1)
    assert np.abs(a - b)[0, : reach + 1].max(-1).min() > 0
    np.testing.assert_array_equal(a[0, reach + 1 :], b[0, reach + 1 :])


def test_hidden_states_are_kept_only_on_request(model):
    network, variables = model
    prefix, segments = texts()
    *_, states = jax.eval_shape(network.apply, variables, prefix, segments)
    assert set(states) == {"kept"}
    *_, states = jax.eval_shape(
        functools.partial(network.apply, keep_hidden=True), variables, prefix, segments
    )
    assert states["hidden"].shape == (CONFIG.depth, B, P + R * L, CONFIG.width)


def test_remat_and_unroll_change_nothing(model):
    network, variables = model
    prefix, segments = texts()
    other = Decoder(dataclasses.replace(CONFIG, remat="minimal", unroll=3))

    def total(network):
        return lambda v: sum((h**2).sum() for h in network.apply(v, prefix, segments)[:2])

    ours, theirs = (jax.jit(jax.grad(total(n)))(variables) for n in (network, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), ours, theirs)


def test_every_parameter_has_a_place(model):
    """Of models with all tensors and with the fewest; no rule is idle in either."""
    small = dataclasses.replace(CONFIG, post_norms=False, head_norms=False, tied=True)
    for config in (CONFIG, small):
        leaves = tables.flatten(shapes_of(config)["params"])
        found = tables.lookup(SHARDING_RULES, list(leaves), "rules")
        for path, leaf in leaves.items():
            assert len(found[path]) in (0, leaf.ndim)


# Parameters but the tables': of Gemma as its reports print them (2403.08295, 2408.00118, and in
# millions 2503.19786), of Qwen3 as its model cards do, in units of what they round to.
@pytest.mark.parametrize(
    "name, count, unit",
    [
        ("gemma-2b", 1_981_884_416, 1),
        ("gemma-7b", 7_751_248_896, 1),
        ("gemma-2-2b", 2_024_517_888, 1),
        ("gemma-2-9b", 8_324_201_984, 1),
        ("gemma-2-27b", 26_047_480_320, 1),
        ("gemma-3-1b", 698, 1e6),
        ("gemma-3-4b", 3209, 1e6),
        ("gemma-3-12b", 10_759, 1e6),
        ("gemma-3-27b", 25_600, 1e6),
        ("qwen3-0.6b", 4.4, 1e8),
        ("qwen3-1.7b", 14, 1e8),
        ("qwen3-4b", 36, 1e8),
        ("qwen3-8b", 69.5, 1e8),
        ("qwen3-14b", 132, 1e8),
        ("qwen3-32b", 312, 1e8),
    ],
)
def test_parameters_as_published(name, count, unit):
    shapes = shapes_of(PRESETS[name])["params"]
    layers = parameters({key: value for key, value in shapes.items() if "embedding" not in key})
    digits = len(str(count).partition(".")[2])
    assert round(layers / unit, digits) == count


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kv_heads": 3}, "kv_heads 3 does not divide heads 4"),
        ({"head_width": 5}, "head_width 5 is odd"),
        ({"activation": "gelu_tan"}, "did you mean `gelu_tanh`"),
        ({"pattern": ("locl", "full")}, "'locl'; did you mean `local`"),
        ({"pattern": ()}, "pattern is empty"),
        ({"pattern": ("full",)}, "window 4 disagree"),
        ({"window": 0}, "window 0 disagree"),
    ],
)
def test_configs_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "gemma5"}, "model_type 'gemma5'.*did you mean `gemma`"),
        ({"attention_bias": True}, "attention_bias = True; here it is always false"),
        ({"hidden_activation": "relu2"}, "activation 'relu2'"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "type 'yarn'"),
    ],
)
def test_config_json_that_cannot_be_read(changes, message):
    values = {"model_type": "gemma3_text", "num_hidden_layers": 2, **changes}
    with pytest.raises(WeightsError, match=message):
        decoder_table.config_from(values)


def test_variants_that_are_nowhere_public_have_no_config_json():
    with pytest.raises(WeightsError, match="no public decoder has"):
        decoder_table.config_to(dataclasses.replace(CONFIG, centred_norms=False))
    with pytest.raises(WeightsError, match="public gemma has rope_factor = 1.0, not 2.0"):
        decoder_table.config_to(dataclasses.replace(PRESETS["gemma-2b"], rope_factor=2.0))


def test_gemma_3_beside_a_vision_tower():
    """The language model of a file that holds a tower too: its other tensors are left out."""
    values = {"hidden_size": 6, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4}
    values |= {"num_hidden_layers": 2, "intermediate_size": 8, "vocab_size": 11}
    config = decoder_table.config_from({"model_type": "gemma3", "text_config": values})
    shapes = shapes_of(config)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), shapes)
    rows = decoder_table.multimodal_rows(config)
    tensors = table.to_theirs(params, rows)
    assert "language_model.model.layers.1.self_attn.q_norm.weight" in tensors
    one = np.ones(1, np.float32)
    tensors["vision_tower.vision_model.encoder.layers.3.mlp.fc1.bias"] = one
    tensors["vision_tower.vision_model.embeddings.patch_embedding.weight"] = one
    tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = one
    back = table.to_ours(tensors, rows, shapes)
    jax.tree.map(np.testing.assert_array_equal, back, params)
