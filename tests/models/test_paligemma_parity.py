"""PaliGemma against transformers' PaliGemmaForConditionalGeneration, on random tiny models."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import paligemma_reference as reference
import pytest

torch = pytest.importorskip("torch")

from parity import close, divergence, parameters, saved  # noqa: E402
from transformers import (  # noqa: E402
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from regionjax.decode import GenerationConfig  # noqa: E402
from regionjax.models.paligemma import PRESETS, PaliGemma  # noqa: E402
from regionjax.weights import table  # noqa: E402
from regionjax.weights.tables import paligemma as paligemma_table  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", params=reference.MODELS)
def pair(request, tmp_path_factory):
    model, values = reference.build(*reference.MODELS[request.param])
    tensors = saved(model, tmp_path_factory.mktemp("model"))
    return model, values, tensors, *reference.ours(values, tensors)


def size_of(model):
    return model.config.vision_config.image_size


@pytest.mark.parametrize("prompt, target, side", [(1, 9, "right"), (13, 5, "left")])
def test_logits_and_hidden_states(pair, prompt, target, side):
    model, _, _, network, variables = pair
    image, prompt, target = reference.inputs(size_of(model), prompt, target)
    theirs, layers = reference.torch_forward(model, image, prompt, target, side)
    logits, states = reference.forward(network)(variables, image, prompt, target)
    wide = states["prefix"].shape[1]
    for i, (logit, layer) in enumerate(zip(theirs, layers, strict=True)):
        b, r = divmod(i, reference.QUESTIONS)
        said, asked = (target[b, r] > 0).sum(), (prompt[b, r] > 0).sum()
        real = wide - prompt.shape[-1] + asked  # of image and prompt
        close(logits[b, r, :said], logit[real - 1 : -1])
        hidden = states["hidden"][:, i]
        hidden = np.concatenate([hidden[:, :real], hidden[:, wide : wide + said - 1]], axis=1)
        for got, expected in zip(hidden, layer, strict=True):
            close(got, expected[:-1])


@pytest.mark.parametrize("pair", ["1_grouped", "2_grouped"], indirect=True)
def test_bfloat16_stays_near(pair):
    model, values, tensors, *_ = pair
    network, variables = reference.ours(values, tensors, jnp.bfloat16)
    image, prompt, target = reference.inputs(size_of(model), 6, 5)
    theirs, _ = reference.torch_forward(model, image, prompt, target, "left")
    logits, _ = reference.forward(network)(variables, image, prompt, target)
    said = (target > 0).sum(-1).ravel()
    rows = logits.reshape(len(said), *logits.shape[2:])
    ours = np.concatenate([row[:n] for row, n in zip(rows, said, strict=True)])
    theirs = np.concatenate([row[-n - 1 : -1] for row, n in zip(theirs, said, strict=True)])
    assert divergence(ours, theirs) <= 0.01


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_generated_tokens_are_the_same(pair, method):
    model, _, _, network, variables = pair
    image, prompt, _ = reference.inputs(size_of(model), 7, 1, seed=3)
    config = GenerationConfig(method=method, max_new_tokens=8, beams=3)
    generate = reference.generator(network, config)
    beams = {"num_beams": 3} if method == "beam" else {}
    plain = reference.torch_generate(model, image, prompt, 1, 8, **beams)
    # Tokens that these models like to say end them at different steps.
    for eos_id in {int(plain[0, 1]), int(plain[1, 4])}:
        theirs = reference.torch_generate(model, image, prompt, eos_id, 8, **beams)
        np.testing.assert_array_equal(generate(variables, image, prompt, eos_id), theirs)


def test_weights_go_back_bit_by_bit(pair, tmp_path):
    model, values, tensors, _, variables = pair
    config = paligemma_table.config_from(values)
    back = table.to_theirs(variables["params"], paligemma_table.rows(config))
    public = lambda name: name.replace("vision_tower.", "vision_tower.vision_model.")  # noqa: E731
    assert set(back) == {public(name) for name in tensors}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[public(name)], tensor, strict=True)
    # Under their public names they are read as well, here and there.
    again = table.to_ours(back, paligemma_table.rows(config), variables["params"])
    jax.tree.map(np.testing.assert_array_equal, again, variables["params"])
    from safetensors.numpy import save_file

    save_file(back, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(paligemma_table.config_to(config)))
    loaded, report = PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for (name, theirs), expected in zip(
        loaded.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(theirs, expected), name


def test_config_goes_back(pair, tmp_path):
    model, values, *_ = pair
    config = paligemma_table.config_from(values)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert paligemma_table.config_from(written) == config
    assert paligemma_table.config_from(paligemma_table.config_to(config)) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_as_many_parameters_as_theirs(name):
    config = PRESETS[name]
    values = paligemma_table.config_to(config)
    assert paligemma_table.config_from(values) == config
    assert isinstance(PaliGemmaConfig(**values).vision_config, SiglipVisionConfig)
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**values))
    image = jnp.zeros((1, config.vit.image_size, config.vit.image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, 1, 2), jnp.int32)
    shapes = jax.eval_shape(PaliGemma(config).init, jax.random.key(0), image, tokens, tokens)
    assert parameters(shapes) == sum(tensor.numel() for tensor in model.parameters())
