"""PaliGemma: golden outputs of the reference; questions together and alone; FLOPs."""

import dataclasses
import json

import jax
import numpy as np
import paligemma_reference as reference
import pytest
from parity import close, parameters

from regionjax import flops, tables
from regionjax.decode import GenerationConfig
from regionjax.models import paligemma, vit
from regionjax.models.decoder_config import DecoderConfig
from regionjax.models.paligemma import PRESETS, PaliGemma
from regionjax.weights.table import WeightsError
from regionjax.weights.tables import paligemma as paligemma_table


@pytest.fixture(scope="module", params=reference.GOLDEN_MODELS)
def golden(request):
    kept, tensors = reference.read_golden(request.param)
    return kept, *reference.ours(json.loads(str(kept["json"])), tensors)


only_the_second = pytest.mark.parametrize("golden", ["2"], indirect=True)


def test_golden_outputs(golden):
    kept, network, variables = golden
    image, prompt, target = (kept[name] for name in ("image", "prompt", "target"))
    logits, _ = reference.forward(network)(variables, image, prompt, target)
    for i in range(reference.IMAGES * reference.QUESTIONS):
        b, r = divmod(i, reference.QUESTIONS)
        said = (target[b, r] > 0).sum()
        close(logits[b, r, :said], kept[f"logits/{i}"][-said - 1 : -1])
    for method in ("greedy", "beam"):
        config = GenerationConfig(method=method, max_new_tokens=7, beams=3)
        generate = reference.generator(network, config)
        np.testing.assert_array_equal(
            generate(variables, image, prompt, reference.EOS), kept[method]
        )


@only_the_second
def test_questions_together_are_questions_alone_wherever_padding_lies(golden):
    kept, network, variables = golden
    image, prompt, target = (kept[name] for name in ("image", "prompt", "target"))
    run = reference.forward(network)
    together, _ = run(variables, image, prompt, target)
    left = np.stack([np.roll(row, (row == 0).sum()) for row in prompt.reshape(-1, 5)])
    image = np.repeat(image, reference.QUESTIONS, axis=0)
    alone, _ = run(variables, image, left[:, None], target.reshape(-1, 1, target.shape[-1]))
    said = target > 0
    alone = alone.reshape(together.shape)
    np.testing.assert_allclose(together[said], alone[said], atol=1e-5)


@only_the_second
def test_an_answer_of_one_token_needs_no_pass_over_answers(golden):
    kept, network, variables = golden
    image, prompt, target = (kept[name] for name in ("image", "prompt", "target"))
    run = reference.forward(network)
    first, _ = run(variables, image, prompt, target[..., :1])
    whole, _ = run(variables, image, prompt, target)
    np.testing.assert_allclose(first[:, :, 0], whole[:, :, 0], atol=1e-5)


def test_flops_are_those_that_the_compiler_counts():
    config = paligemma.PaliGemmaConfig(
        vit.ViTConfig(32, 8, 128, 2, 4, 256, unroll=2),
        DecoderConfig(500, 192, 2, 4, 2, 48, 384, activation="gelu_tanh", unroll=2),
    )
    network = PaliGemma(config)
    image = np.zeros((2, 32, 32, 3), np.uint8)
    prompt, target = np.ones((2, 3, 6), np.int32), np.ones((2, 3, 9), np.int32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image, prompt, target)
    work = flops.paligemma(config, 32, regions=3, prompt=6, target=9)

    def forward(variables):
        hidden, _ = network.apply(variables, image, prompt, target)
        return network.apply(variables, hidden, method=PaliGemma.logits)

    counted = jax.jit(forward).lower(variables).cost_analysis()["flops"]
    ours = 2 * sum(part.forward for part in work.parts)
    assert ours < counted < 1.03 * ours
    assert work.tokens == {"image": 3 * 16, "prompt": 3 * 6, "text": 3 * 8}
    for path in tables.flatten(variables["params"], "params"):
        owners = [part.name for part in work.parts if path.startswith(part.parameters)]
        last_norm = path.startswith(("params/vit/norm/", "params/decoder/norm/"))
        assert len(owners) == (not last_norm), path


# In transformers' model cards, in billions.
@pytest.mark.parametrize(
    "name, count",
    [
        ("paligemma-3b-224", 2_923_466_480),
        ("paligemma2-3b-224", 3.03),
        ("paligemma2-10b-224", 9.66),
        ("paligemma2-28b-224", 27.7),
    ],
)
def test_parameters_as_published(name, count):
    config = PRESETS[name]
    image = np.zeros((1, 224, 224, 3), np.uint8)
    tokens = np.zeros((1, 1, 2), np.int32)
    shapes = jax.eval_shape(PaliGemma(config).init, jax.random.key(0), image, tokens, tokens)
    size = parameters(shapes)
    digits = len(str(count).partition(".")[2])
    assert size == count if isinstance(count, int) else round(size / 1e9, digits) == count
    found = tables.lookup(
        paligemma.SHARDING_RULES, list(tables.flatten(shapes["params"])), "sharding rules"
    )
    for path, leaf in tables.flatten(shapes["params"]).items():
        assert len(found[path]) in (0, leaf.ndim)


def test_config_json_that_cannot_be_read():
    tower = {"model_type": "siglip_vision_model"}
    with pytest.raises(WeightsError, match="model_type 'llava' is not 'paligemma'"):
        paligemma_table.config_from({"model_type": "llava"})
    with pytest.raises(WeightsError, match="'qwen3'; known: gemma, gemma2"):
        paligemma_table.config_from(
            {"model_type": "paligemma", "text_config": {"model_type": "qwen3"}}
        )
    with pytest.raises(ValueError, match="patches only"):
        paligemma_table.config_from(
            {
                "model_type": "paligemma",
                "text_config": {"model_type": "gemma"},
                "vision_config": tower | {"vision_use_head": True},
            }
        )
    config = PRESETS["paligemma-3b-224"]
    qwen = dataclasses.replace(config.decoder, centred_norms=False, head_norms=True)
    qwen = dataclasses.replace(qwen, scaled_embedding=False, activation="silu")
    with pytest.raises(WeightsError, match="language model of a qwen3"):
        paligemma_table.config_to(dataclasses.replace(config, decoder=qwen))
