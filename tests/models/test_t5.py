"""T5 without torch: the golden file of transformers' outputs, and cached against whole decoding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_reference as reference
from parity import close

from regionjax import decode, sharding
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.models import t5
from regionjax.weights.tables import t5 as t5_table

CONFIG = t5.T5Config(
    **dict(vocabulary=41, width=12, depth=2, decoder_depth=3, heads=3, head_width=4, mlp_width=10),
    **dict(buckets=8, max_distance=12, activation="relu", gated=False, tied=True, scaled=True),
)
B, R, W, S, T = 2, 2, 3, 5, 16  # T: longer than max_distance


@pytest.fixture(scope="module")
def model():
    network = t5.T5(CONFIG)
    tokens = jnp.zeros((1, 2), jnp.int32)
    return network, jax.jit(network.init)(jax.random.key(0), tokens, tokens)


def whole(network, variables, inputs, decoder, mask):
    """Logits and intermediates of whole targets."""

    @jax.jit
    def run(variables):
        hidden, states = network.apply(variables, inputs, decoder, mask)
        return network.apply(variables, hidden, method="logits"), states

    return run(variables)


def test_golden_outputs_of_transformers():
    golden = np.load(reference.GOLDEN)
    tensors = {k.removeprefix("tensor/"): golden[k] for k in golden if k.startswith("tensor/")}
    config = t5_table.config_from(reference.CONFIGS["golden"][0] | reference.HEADER, tensors)
    network, variables = reference.ours(config, tensors)
    mask = golden["mask"]
    logits, states = whole(network, variables, golden["tokens"], golden["decoder"], mask)
    close(logits, golden["logits"])
    close(states["encoded"], golden["encoded"])

    @functools.partial(jax.jit, static_argnums=1)
    def generate(variables, config):
        def advance(cache, token):
            return network.apply(variables, cache, token, method="advance")

        tokens, rng = golden["tokens"][None], jax.random.key(0)
        start = network.apply(variables, tokens, mask[None], 8, method="prefill")
        return decode.generate(*start, advance, rng, eos_id=reference.GOLDEN_EOS, config=config)

    for method in ("greedy", "beam"):
        config = decode.GenerationConfig(method, max_new_tokens=8, beams=3)
        np.testing.assert_array_equal(generate(variables, config)[0], golden[method])


def test_cached_decoding_equals_the_whole_pass(model):
    network, variables = model
    rng = np.random.default_rng(0)
    inputs = rng.integers(1, 41, (B, R, S))
    mask = rng.random((B, R, S)) < 0.7
    mask[..., 0] = True
    tokens = rng.integers(1, 41, (B, R * W, T)).astype(np.int32)
    decoder = t5.shift_right(tokens, CONFIG.start_id).reshape(-1, T)
    # W continuations of every input: whole targets, the inputs encoded once.
    expected, _ = whole(network, variables, inputs.reshape(-1, S), decoder, mask.reshape(-1, S))
    expected = expected.reshape(B, R * W, T, -1)

    step = jax.jit(lambda cache, token: network.apply(variables, cache, token, method="advance"))
    logits, cache = network.apply(variables, inputs, mask, T, method="prefill")
    cache = cache.take(jnp.tile(jnp.arange(R).repeat(W), (B, 1)))
    close(logits.repeat(W, axis=1), expected[:, :, 0])
    for at in range(1, T):
        logits, cache = step(cache, tokens[:, :, at - 1])
        close(logits, expected[:, :, at])
    assert cache.layers[0].cross_k.shape[0] == B * R  # shared, not copied


def test_continuations_change_places(model):
    network, variables = model
    rng = np.random.default_rng(1)
    inputs = rng.integers(1, 41, (B, R, S))
    first = rng.integers(1, 41, (B, R * W)).astype(np.int32)
    second = rng.integers(1, 41, (B, R * W)).astype(np.int32)
    order = np.array([[2, 0, 0, 4, 5, 4], [1, 1, 2, 3, 5, 3]])

    @jax.jit
    def run(first, second, order):
        _, cache = network.apply(variables, inputs, None, 2, method="prefill")
        cache = cache.take(jnp.tile(jnp.arange(R).repeat(W), (B, 1)))
        _, cache = network.apply(variables, cache, first, method="advance")
        return network.apply(variables, cache.take(order), second, method="advance")[0]

    unmoved = np.tile(np.arange(R * W), (B, 1))
    close(run(first, second, order), run(np.take_along_axis(first, order, 1), second, unmoved))


def test_remat_unroll_and_a_mesh_change_nothing(model):
    rng = np.random.default_rng(2)
    inputs, tokens = (rng.integers(1, 41, (4, length)) for length in (S, T))

    def gradient(config, mesh):
        network = t5.T5(config)

        @jax.jit
        def run(variables):
            def loss(variables):
                hidden, _ = network.apply(variables, inputs, tokens)
                return network.apply(variables, hidden, method="logits")[..., 1].var()

            return jax.grad(loss)(variables)

        with jax.set_mesh(mesh):
            return run(model[1])

    one = make_mesh(MeshConfig(), jax.devices()[:1])
    other = dataclasses.replace(CONFIG, remat="matmuls", unroll=2)
    expected = gradient(CONFIG, one)
    got = gradient(other, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    jax.tree.map(close, got, expected)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_a_mesh_generates_the_same(method):
    network = t5.T5(dataclasses.replace(CONFIG, heads=2, mlp_width=8))
    inputs = np.random.default_rng(3).integers(1, 41, (4, R, S))
    generation = decode.GenerationConfig(method, max_new_tokens=6, beams=W)

    @jax.jit
    def generate(variables):
        def advance(cache, token):
            return network.apply(variables, cache, token, method="advance")

        start = network.apply(variables, inputs, None, 6, method="prefill")
        return decode.generate(*start, advance, jax.random.key(0), eos_id=1, config=generation)

    variables = network.init(jax.random.key(1), inputs[:, 0], jnp.zeros((4, 2), jnp.int32))
    expected = generate(variables)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    places, _ = sharding.state_shardings(variables, t5.SHARDING_RULES, mesh)
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(generate(jax.device_put(variables, places)), expected)


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_a_place_on_a_mesh(tied):
    network = t5.T5(dataclasses.replace(CONFIG, tied=tied, gated=not tied, heads=2, mlp_width=8))
    tokens = jnp.zeros((2, 3), jnp.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, tokens)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))
    shardings, dropped = sharding.state_shardings(shapes, t5.SHARDING_RULES, mesh)
    assert set(dropped) == (
        {"params/embedding"} if tied else {"params/embedding", "params/output_embedding"}
    )


def test_settings_that_no_t5_has_are_refused():
    with pytest.raises(ValueError, match="activation='glu'; did you mean `gelu`"):
        dataclasses.replace(CONFIG, activation="glu")
    with pytest.raises(ValueError, match="buckets 7 must be even"):
        dataclasses.replace(CONFIG, buckets=7)
