"""T5 against transformers' T5ForConditionalGeneration, on random tiny models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import t5_reference as reference  # noqa: E402
from parity import close, divergence, parameters  # noqa: E402
from transformers import T5Config as TheirConfig  # noqa: E402
from transformers import T5ForConditionalGeneration  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

from regionjax import decode  # noqa: E402
from regionjax.models import t5  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.tables import t5 as t5_table  # noqa: E402

pytestmark = pytest.mark.torch
NAMES = ("v1_0", "v1_1", "blip_2")


def forward(network):
    """(variables, inputs, decoder inputs, mask) → logits, intermediates; compiled."""

    @jax.jit
    def run(variables, tokens, decoder, mask):
        hidden, states = network.apply(variables, tokens, decoder, mask)
        return network.apply(variables, hidden, method="logits"), states

    return run


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    model, tensors, config = reference.build(request.param)
    network, variables = reference.ours(config, tensors)
    return model, config, tensors, forward(network), variables


@pytest.mark.parametrize(
    "length, target, side",
    [(7, 5, "none"), (7, 5, "right"), (7, 5, "left"), (1, 1, "none"), (40, 33, "left")],
)
def test_logits_and_hidden_states(pair, length, target, side):
    model, _, _, run, variables = pair
    tokens, decoder, masks = reference.inputs(length, target)
    logits, encoder, decoded = reference.torch_forward(model, tokens, decoder, masks[side])
    ours, states = run(variables, tokens, decoder, masks[side])
    close(ours, logits)
    close(states["encoded"], encoder[-1])
    for stack, theirs in {"encoder": encoder, "decoder": decoded}.items():
        assert len(states[stack]) == len(theirs) - 1  # theirs begin with the embedding
        # Their last one is normed already; it is `encoded`, or in the logits.
        for layer, expected in zip(states[stack][:-1], theirs[1:-1], strict=True):
            close(layer, expected)


def test_embeddings_in_place_of_tokens(pair):
    model, config, _, run, variables = pair
    tokens, decoder, masks = reference.inputs(11, 4, seed=1)
    x = np.random.default_rng(2).normal(size=(*tokens.shape, config.width)).astype(np.float32)
    with torch.no_grad():
        theirs = model(
            inputs_embeds=torch.from_numpy(x),
            attention_mask=torch.from_numpy(masks["right"]).long(),
            decoder_input_ids=torch.from_numpy(decoder).long(),
        ).logits.numpy()
    close(run(variables, x, decoder, masks["right"])[0], theirs)


def test_bfloat16_stays_near(pair):
    model, config, tensors, *_ = pair
    network, variables = reference.ours(config, tensors, jnp.bfloat16)
    tokens, decoder, masks = reference.inputs(16, 9)
    theirs, *_ = reference.torch_forward(model, tokens, decoder, masks["right"])
    ours, _ = forward(network)(variables, tokens, decoder, masks["right"])
    assert ours.dtype == jnp.float32
    assert divergence(ours, theirs) <= 0.01


def check_generation(model, network, variables, generation):
    """Tokens of 2 images of 3 regions against theirs, with several tokens as the end."""
    tokens, _, masks = reference.inputs(10, 1, seed=3, batch=6)
    mask, length = masks["left"], generation.max_new_tokens
    beams = dict(num_beams=generation.beams, length_penalty=generation.length_penalty)
    theirs = functools.partial(
        *(reference.torch_generate, model, tokens, mask),
        **(beams if generation.method == "beam" else {}),
        length=length,
    )

    @jax.jit
    def ours(eos_id):
        def advance(cache, token):
            return network.apply(variables, cache, token, method="advance")

        split = lambda t: t.reshape(2, 3, *t.shape[1:])  # noqa: E731
        start = network.apply(variables, split(tokens), split(mask), length, method="prefill")
        rng = jax.random.key(0)
        return decode.generate(*start, advance, rng, eos_id=eos_id, config=generation)

    lengths = set()
    for eos_id in np.unique(theirs(eos_id=1)):  # tokens that this model likes to say
        expected = theirs(eos_id=int(eos_id))
        np.testing.assert_array_equal(ours(int(eos_id)).reshape(expected.shape), expected)
        lengths |= set((expected > 0).sum(-1))
    assert len(lengths) > 1


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_generated_tokens_are_the_same(pair, method):
    model, config, _, _, variables = pair
    generation = decode.GenerationConfig(method=method, max_new_tokens=9)
    check_generation(model, t5.T5(config), variables, generation)


@pytest.mark.parametrize("beams, length_penalty", [(3, 0.0), (5, -1.0), (2, 2.0)])
def test_length_penalties_are_theirs(beams, length_penalty):
    model, tensors, config = reference.build("v1_1", seed=1)
    network, variables = reference.ours(config, tensors)
    generation = decode.GenerationConfig("beam", 9, beams=beams, length_penalty=length_penalty)
    check_generation(model, network, variables, generation)


@pytest.mark.parametrize("count, far", [(32, 128), (8, 20), (6, 50), (4, 3), (64, 256), (34, 1000)])
def test_buckets_are_theirs(count, far):
    distance = np.arange(-3000, 3001)
    for both_ways in (True, False):
        theirs = T5Attention._relative_position_bucket(
            torch.from_numpy(distance), both_ways, count, far
        )
        np.testing.assert_array_equal(t5.buckets(distance, count, far, both_ways), theirs)


def test_weights_go_back_bit_by_bit(pair):
    _, config, tensors, _, variables = pair
    back = table.to_theirs(variables["params"], t5_table.rows(config))
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_config_goes_back_and_transformers_reads_it(name, tmp_path):
    model, names, config = reference.build(name)
    values = t5_table.config_to(config)
    assert t5_table.config_from(values) == config
    assert t5_table.config_from(values, names) == config
    theirs = TheirConfig(**values)
    for key in ("d_kv", "dense_act_fn", "is_gated_act", "scale_decoder_outputs", "num_layers"):
        assert getattr(theirs, key) == getattr(model.config, key)
    model.save_pretrained(tmp_path)
    saved = TheirConfig.from_pretrained(tmp_path).to_dict()
    assert t5_table.config_from(saved, names) == config


@pytest.mark.parametrize("name", t5.PRESETS)
def test_presets_have_as_many_parameters_as_theirs(name):
    config = t5.PRESETS[name]
    with torch.device("meta"):
        model = T5ForConditionalGeneration(TheirConfig(**t5_table.config_to(config)))
    theirs = sum(tensor.numel() for tensor in model.parameters())
    theirs += 0 if config.tied else config.vocabulary * config.width  # theirs ties all
    tokens = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(t5.T5(config).init, jax.random.key(0), tokens, tokens)
    assert parameters(shapes) == theirs
