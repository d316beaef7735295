"""InstructBLIP without torch: the golden file, regions together and alone, places on a mesh."""

import dataclasses
import functools

import instructblip_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import close

from regionjax import decode, flops, sharding, tables
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.models import instructblip
from regionjax.models.bert import BertConfig
from regionjax.models.t5 import T5Config
from regionjax.models.vit import ViTConfig
from regionjax.weights.tables import instructblip as blip_table

CONFIG = instructblip.InstructBlipConfig(
    vit=ViTConfig(8, 4, width=8, depth=1, heads=2, mlp_width=12, class_token=True),
    qformer=BertConfig(
        **dict(width=8, depth=2, heads=2, mlp_width=12, vocabulary=reference.WORDS),
        **dict(positions=12, queries=4, cross_every=2, encoder_width=8),
    ),
    t5=T5Config(reference.VOCABULARY, 8, 1, 1, heads=2, head_width=4, mlp_width=12),
)


@functools.partial(jax.jit, static_argnums=0)
def logits(network, variables, *arrays):
    hidden, seen = network.apply(variables, *arrays)
    return network.apply(variables, hidden, method="logits"), seen


@pytest.mark.parametrize("kind", reference.GOLDEN_CONFIGS)
def test_golden_outputs_of_transformers(kind):
    golden = np.load(reference.GOLDEN / f"{kind}.npz")
    tensors = {k.removeprefix("tensor/"): golden[k] for k in golden if k.startswith("tensor/")}
    _, settings, _ = reference.GOLDEN_CONFIGS[kind]
    config = blip_table.config_from({"model_type": kind, **settings}, tensors)
    network, variables = reference.ours(config, tensors)
    arrays = [golden.get(name) for name in ("image", "instruction", "prompt", "tokens")]
    got, seen = logits(network, variables, *arrays)
    close(got.reshape(golden["logits"].shape), golden["logits"])
    soft = golden["soft_prompts"]
    every = np.broadcast_to(seen["soft_prompts"], (2, 3, *soft.shape[1:]))
    close(every.reshape(soft.shape), soft)

    @functools.partial(jax.jit, static_argnums=1)
    def generate(variables, generation):
        def advance(cache, token):
            return network.apply(variables, cache, token, method="advance")

        start = network.apply(variables, *arrays[:3], 7, method="prefill")
        rng, eos_id = jax.random.key(0), reference.GOLDEN_EOS
        return decode.generate(*start, advance, rng, eos_id=eos_id, config=generation)

    for method in ("greedy", "beam"):
        got = generate(variables, decode.GenerationConfig(method, max_new_tokens=7, beams=3))
        np.testing.assert_array_equal(got.reshape(golden[method].shape), golden[method])


@pytest.fixture(scope="module")
def model():
    network = instructblip.InstructBlip(CONFIG)
    example = reference.example(CONFIG)
    return network, jax.jit(network.init)(jax.random.key(0), *example)


def test_a_region_does_not_see_the_others(model):
    image, *texts = reference.inputs(CONFIG, (8, 8), images=2, regions=3)
    together, _ = logits(*model, image, *texts)
    for region in range(3):
        alone, _ = logits(*model, image, *(text[:, region : region + 1] for text in texts))
        close(together[:, region], alone[:, 0])


def test_without_instruction_all_regions_have_one_soft_prompt(model):
    image, _, prompt, tokens = reference.inputs(CONFIG, (8, 8), images=2, regions=3)
    got, seen = logits(*model, image, None, prompt, tokens)
    assert seen["soft_prompts"].shape == (2, 1, 4, 8)
    alone, _ = logits(*model, image, None, prompt[:, 2:], tokens[:, 2:])
    close(got[:, 2], alone[:, 0])


@pytest.mark.parametrize("vocabulary", [0, reference.WORDS])
def test_every_parameter_has_a_place_on_a_mesh(vocabulary):
    qformer = dataclasses.replace(CONFIG.qformer, vocabulary=vocabulary)
    config = dataclasses.replace(CONFIG, qformer=qformer)
    network = instructblip.InstructBlip(config)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *reference.example(config))
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))
    _, dropped = sharding.state_shardings(shapes, instructblip.sharding_rules(config), mesh)
    tables = {"params/t5/embedding", "params/t5/output_embedding"}  # of odd length
    assert set(dropped) - {"params/qformer/embedding"} == tables


# Wide for its length, so that products outweigh everything that is not one.
WIDE = instructblip.InstructBlipConfig(
    vit=ViTConfig(32, 8, 128, depth=2, heads=2, mlp_width=256, class_token=True, unroll=2),
    qformer=BertConfig(
        **dict(width=128, depth=4, heads=2, mlp_width=256, vocabulary=300, dropout=0.0),
        **dict(queries=4, cross_every=2, encoder_width=128, unroll=2),
    ),
    t5=T5Config(1000, 128, 2, 2, heads=2, head_width=64, mlp_width=256, unroll=2),
)


@pytest.mark.parametrize("instruction", [6, 0])
def test_the_compiler_counts_the_same_flops(instruction):
    images, regions, lengths = 2, 3, (instruction or 1, 5, 7)
    network = instructblip.InstructBlip(WIDE)
    params = jax.eval_shape(network.init, jax.random.key(0), *reference.example(WIDE))
    arrays = list(reference.inputs(WIDE, (32, 32), lengths=lengths, images=images))
    if not instruction:
        arrays[1] = None
    counted = logits.lower(network, params, *arrays).cost_analysis()["flops"]
    work = flops.instructblip(WIDE, 32, regions, instruction, *lengths[1:])
    ours = images * sum(part.forward for part in work.parts)
    # The compiler adds norms, softmax and the like, which is less than an image seen twice.
    assert ours < counted < 1.05 * ours
    assert work.tokens == {"image": 16, "region": 3 * (instruction + 4), "text": 3 * 12}
    for path in tables.flatten(params):
        counted_in = any(path.startswith(part.parameters) for part in work.parts)
        assert counted_in or "embedding" in path or path.startswith("params/vit/norm/")


def test_parts_that_do_not_fit_are_refused():
    wide = dataclasses.replace(CONFIG.vit, width=12)
    with pytest.raises(ValueError, match=r"qformer.encoder_width 8 is not vit.width 12"):
        dataclasses.replace(CONFIG, vit=wide)
    blind = dataclasses.replace(CONFIG.qformer, cross_every=0, encoder_width=0)
    with pytest.raises(ValueError, match="queries and cross_every must be above 0"):
        dataclasses.replace(CONFIG, qformer=blind)
    with pytest.raises(ValueError, match="positions"):
        long = jnp.zeros((1, 1, 13), jnp.int32)
        image, _, prompt, tokens = reference.example(CONFIG)
        jax.eval_shape(
            instructblip.InstructBlip(CONFIG).init, jax.random.key(0), image, long, prompt, tokens
        )
