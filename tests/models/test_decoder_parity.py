"""Decoder against transformers' Gemma, Gemma 2, Gemma 3 and Qwen3, on random tiny models."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import decoder_reference as reference  # noqa: E402
import transformers  # noqa: E402
from parity import close, divergence, parameters, saved  # noqa: E402

from regionjax.decode import GenerationConfig  # noqa: E402
from regionjax.models.decoder import Decoder  # noqa: E402
from regionjax.models.decoder_config import PRESETS  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.tables import decoder as decoder_table  # noqa: E402

pytestmark = pytest.mark.torch
# Of a config.json of theirs: no matter of the model, or said in another way (layer_types).
UNSAID = {
    *("architectures", "dtype", "eos_token_id", "pad_token_id", "max_window_layers"),
    *("sliding_window_pattern", "_sliding_window_pattern"),
}


@pytest.fixture(scope="module", params=reference.MODELS)
def pair(request, tmp_path_factory):
    model, values = reference.build(*reference.MODELS[request.param])
    tensors = saved(model, tmp_path_factory.mktemp("model"))
    return model, values, tensors, *reference.ours(values, tensors)


@functools.partial(jax.jit, static_argnums=0)
def forward(network, variables, tokens, mask):
    return network.apply(variables, tokens, mask, True, method=Decoder.read)


one_of_each_kind = pytest.mark.parametrize(
    "pair",
    ["gemma_grouped", "gemma2_alternating", "gemma3_two_bases", "qwen3_untied"],
    indirect=True,
)


@pytest.mark.parametrize("length, side", [(1, "none"), (9, "left"), (9, "right"), (23, "none")])
def test_logits_and_hidden_states(pair, length, side):
    model, _, _, network, variables = pair
    tokens, masks = reference.inputs(length)
    mask = masks[side]
    theirs, layers = reference.torch_forward(model, tokens, mask)
    logits, states = forward(network, variables, tokens, mask)
    close(logits[mask], theirs[mask])
    assert len(states["hidden"]) == len(layers)
    for got, expected in zip(states["hidden"], layers, strict=True):
        close(got[mask], expected[mask])


@one_of_each_kind
def test_far_positions(pair):
    model, _, _, network, variables = pair
    tokens, masks = reference.inputs(150, batch=1)
    theirs, _ = reference.torch_forward(model, tokens, masks["none"])
    close(forward(network, variables, tokens, masks["none"])[0], theirs)


@one_of_each_kind
def test_bfloat16_stays_near(pair):
    model, values, tensors, *_ = pair
    network, variables = reference.ours(values, tensors, jnp.bfloat16)
    tokens, masks = reference.inputs(16)
    theirs, _ = reference.torch_forward(model, tokens, masks["none"])
    ours, _ = forward(network, variables, tokens, masks["none"])
    assert ours.dtype == jnp.float32
    assert divergence(ours, theirs) <= 0.01


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_generated_tokens_are_the_same(pair, method):
    model, _, _, network, variables = pair
    tokens, masks = reference.inputs(8, seed=3, batch=4)
    left = masks["left"]
    closed = np.stack([np.roll(row, -n) for row, n in zip(tokens, (~left).sum(1), strict=True)])
    config = GenerationConfig(method=method, max_new_tokens=9, beams=3)
    generate = reference.generator(network, config)
    beams = {"num_beams": 3} if method == "beam" else {}
    plain = reference.torch_generate(model, tokens, left, 1, 9, **beams)
    # Tokens that these models like to say end them at different steps.
    lengths = set()
    for eos_id in {int(plain[0, 1]), int(plain[1, 4])}:
        theirs = reference.torch_generate(model, tokens, left, eos_id, 9, **beams)
        np.testing.assert_array_equal(generate(variables, tokens, left, eos_id), theirs)
        np.testing.assert_array_equal(generate(variables, closed, masks["right"], eos_id), theirs)
        lengths |= set((theirs > 0).sum(-1).tolist())
    assert len(lengths) > 1


def test_weights_go_back_bit_by_bit(pair):
    _, values, tensors, _, variables = pair
    back = table.to_theirs(
        variables["params"], decoder_table.rows(decoder_table.config_from(values))
    )
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)


def test_config_goes_back_and_transformers_reads_it(pair, tmp_path):
    model, values, *_ = pair
    config = decoder_table.config_from(values)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())  # names of transformers 5
    assert decoder_table.config_from(written) == config
    back = decoder_table.config_to(config)
    assert decoder_table.config_from(back) == config
    theirs = type(model.config)(**back).to_dict()
    for key, value in model.config.to_dict().items():
        if key not in UNSAID:
            assert theirs[key] == value, key


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_as_many_parameters_as_theirs(name):
    config = PRESETS[name]
    values = decoder_table.config_to(config)
    assert decoder_table.config_from(values) == config
    settings = {k: v for k, v in values.items() if k not in ("architectures", "model_type")}
    name = values["architectures"][0]
    their_config = {"Gemma3ForCausalLM": "Gemma3TextConfig"}.get(
        name, name.replace("ForCausalLM", "Config")
    )
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, their_config)(**settings))
    network = Decoder(config)
    tokens = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), tokens, method=Decoder.read))
    assert parameters(shapes) == sum(tensor.numel() for tensor in model.parameters())
