"""BLIP-2 and InstructBLIP against transformers, on random tiny models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import instructblip_reference as reference  # noqa: E402
import transformers  # noqa: E402
from parity import close, divergence, parameters  # noqa: E402

from regionjax import decode  # noqa: E402
from regionjax.models import instructblip  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.table import WeightsError  # noqa: E402
from regionjax.weights.tables import instructblip as blip_table  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", params=reference.CONFIGS)
def pair(request):
    model, tensors, config = reference.build(*reference.CONFIGS[request.param])
    sides, lengths = reference.SHOWN[request.param]
    shown = tuple(side * config.vit.image_size for side in sides), lengths
    return model, config, tensors, *reference.ours(config, tensors), shown


@functools.partial(jax.jit, static_argnums=0)
def forward(network, variables, *arrays):
    hidden, intermediates = network.apply(variables, *arrays, keep_hidden=True)
    return network.apply(variables, hidden, method="logits"), intermediates


def flat(t):
    """[B, R, …] → [B·R, …], as theirs."""
    return t.reshape(-1, *t.shape[2:])


def test_logits_and_hidden_states(pair):
    model, config, _, network, variables, (size, lengths) = pair
    arrays = reference.inputs(config, size, lengths=lengths)
    logits, theirs = reference.torch_forward(model, config, *arrays)
    got, ours = forward(network, variables, *arrays)
    close(flat(got), logits)
    close(ours["features"].repeat(3, axis=0), theirs["features"])
    for layer, expected in zip(ours["vit"]["hidden"], theirs["vit"], strict=True):
        close(layer.repeat(3, axis=0), expected)
    soft, regions = ours["soft_prompts"], arrays[2].shape[1]
    assert soft.shape[1] == (regions if config.qformer.vocabulary else 1)
    every = lambda t: flat(jnp.broadcast_to(t, (2, regions, *t.shape[2:])))  # noqa: E731
    close(every(soft), theirs["encoder"][0][:, : config.qformer.queries])
    for layer, expected in zip(ours["qformer"]["hidden"], theirs["qformer"], strict=True):
        close(every(layer), expected)
    for stack in ("encoder", "decoder"):  # theirs: the embedding first, the last one normed
        for layer, expected in zip(ours["t5"][stack][:-1], theirs[stack][1:-1], strict=True):
            close(layer, expected)
    close(ours["t5"]["encoded"], theirs["encoder"][-1])


@pytest.mark.parametrize("pair", ["instructblip", "blip_2"], indirect=True)
def test_bfloat16_stays_near(pair):
    model, config, tensors, *_ = pair
    arrays = reference.inputs(config, (config.vit.image_size,) * 2, seed=1)
    logits, _ = reference.torch_forward(model, config, *arrays)
    got, _ = forward(*reference.ours(config, tensors, jnp.bfloat16), *arrays)
    assert divergence(flat(got), logits) <= 0.01


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_generated_tokens_are_the_same(pair, method):
    model, config, _, network, variables, _ = pair
    *arrays, _ = reference.inputs(config, (config.vit.image_size,) * 2, seed=2)
    generation = decode.GenerationConfig(method, max_new_tokens=7, beams=3)
    theirs = functools.partial(
        *(reference.torch_generate, model, config, *arrays),
        **({"num_beams": 3} if method == "beam" else {}),
        length=7,
    )

    @jax.jit
    def ours(variables, eos_id):
        def advance(cache, token):
            return network.apply(variables, cache, token, method="advance")

        start = network.apply(variables, *arrays, 7, method="prefill")
        rng = jax.random.key(0)
        return decode.generate(*start, advance, rng, eos_id=eos_id, config=generation)

    for eos_id in np.unique(theirs(eos_id=1))[:4]:  # tokens that this model likes to say
        expected = theirs(eos_id=int(eos_id))
        np.testing.assert_array_equal(flat(ours(variables, int(eos_id))), expected)


def test_weights_go_back_bit_by_bit(pair):
    _, config, tensors, _, variables, _ = pair
    back = table.to_theirs(variables["params"], blip_table.rows(config))
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)


def test_config_goes_back_and_transformers_reads_it(pair):
    model, config, tensors, *_ = pair
    values = blip_table.config_to(config)
    assert blip_table.config_from(values, tensors) == config
    theirs = getattr(transformers, type(model.config).__name__)(**values)
    assert blip_table.config_from(theirs.to_dict(), tensors) == config
    assert theirs.image_token_index == model.config.image_token_index


def test_other_models_are_refused():
    values = blip_table.config_to(instructblip.PRESETS["instructblip-flan-t5-xl"])
    with pytest.raises(
        WeightsError, match="model_type 'instruct-blip'; did you mean `instructblip"
    ):
        blip_table.config_from({**values, "model_type": "instruct-blip"})
    with pytest.raises(WeightsError, match=r"text_config.model_type is 'llama'.* is a t5"):
        blip_table.config_from({**values, "text_config": {"model_type": "llama"}})


@pytest.mark.parametrize("name", instructblip.PRESETS)
def test_presets_have_as_many_parameters_as_theirs(name):
    config = instructblip.PRESETS[name]
    values = blip_table.config_to(config)
    kind = values["architectures"][0]
    theirs = getattr(transformers, kind.replace("ForConditionalGeneration", "Config"))(**values)
    with torch.device("meta"):
        model = getattr(transformers, kind)(theirs)
    count = sum(tensor.numel() for tensor in model.parameters())
    count += config.t5.vocabulary * config.t5.width  # their lm_head is tied until it is loaded
    network = instructblip.InstructBlip(config)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *reference.example(config))
    assert parameters(shapes) == count
