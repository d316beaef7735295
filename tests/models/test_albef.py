"""ALBEF against what a ViT and a BERT of transformers once said, and what needs no reference."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import close

from regionjax import tables
from regionjax.models import albef
from regionjax.weights import table
from regionjax.weights.table import WeightsError
from regionjax.weights.tables import albef as albef_table


@pytest.fixture(scope="module")
def kept():
    found = golden.read("albef")
    shapes = {name: tensor.shape for name, tensor in found["tensors"].items()}
    found["config"] = albef_table.config_from(shapes, **found["json"])
    found["inputs"] = found["image"], found["tokens"], found["mask"]
    init = albef.Albef(found["config"]).init
    found["shapes"] = jax.eval_shape(init, jax.random.key(0), *found["inputs"])["params"]
    rows = albef_table.rows(found["config"])
    found["params"] = table.to_ours(found["tensors"], rows, found["shapes"])
    return found


def test_golden(kept):
    """Matches, masked words, and the gradients that GradCAM takes."""
    network = albef.Albef(kept["config"])

    def forward(perturbation):
        matches, more = network.apply({"params": kept["params"]}, *kept["inputs"], perturbation)
        return matches[..., 1].sum(), (matches, more)

    _, batch, heads, *pairs = kept["gradients"].shape
    zero = jnp.zeros((2, 2, heads, 3, *pairs))
    gradients, (matches, more) = jax.jit(jax.grad(forward, has_aux=True))(zero)
    close(matches.reshape(kept["matches"].shape), kept["matches"])
    close(more["logits"].reshape(kept["logits"].shape), kept["logits"])
    close(np.moveaxis(gradients, 3, 2).reshape(kept["gradients"].shape), kept["gradients"])
    back = table.to_theirs(kept["params"], albef_table.rows(kept["config"]))
    assert {name: value.tobytes() for name, value in back.items()} == {
        name: value.tobytes() for name, value in kept["tensors"].items()
    }


def test_momentum_copies_and_queues_are_ignored(kept):
    more = {
        "visual_encoder_m.blocks.0.attn.qkv.weight": np.zeros(1),
        "text_encoder_m.bert.encoder.layer.2.crossattention.self.key.bias": np.zeros(1),
        "text_proj_m.weight": np.zeros(1),
        "image_queue": np.zeros(1),
    }
    rows = albef_table.rows(kept["config"])
    again = table.to_ours(kept["tensors"] | more, rows, kept["shapes"])
    jax.tree.map(np.testing.assert_array_equal, again, kept["params"])
    with pytest.raises(WeightsError, match="extra: itm_head_m.weight"):
        table.to_ours(kept["tensors"] | {"itm_head_m.weight": np.zeros(1)}, rows, kept["shapes"])


def test_every_parameter_has_a_sharding_rule(kept):
    leaves = tables.flatten(kept["shapes"])
    found = tables.lookup(albef.sharding_rules(kept["config"]), list(leaves), "sharding rules")
    assert all(len(found[path]) <= len(leaf.shape) for path, leaf in leaves.items())


@pytest.mark.parametrize("value, expected", [(0.07, 0.07), (0.9, 0.5), (-1.0, 0.001)])
def test_the_temperature_stays_in_its_range(kept, value, expected):
    network = albef.Albef(kept["config"])

    def temperature(value):
        params = {**kept["params"], "temperature": value}
        return network.apply({"params": params}, method="clamped_temperature")

    got, slope = jax.value_and_grad(temperature)(jnp.float32(value))
    assert got == pytest.approx(expected) and slope == 1


def test_projections_have_length_one(kept):
    network = jax.jit(albef.Albef(kept["config"]).apply)
    _, more = network({"params": kept["params"]}, *kept["inputs"])
    for name in ("image", "text"):
        np.testing.assert_allclose(np.linalg.norm(more[name], axis=-1), 1, atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: albef.unit(x).sum())(jnp.zeros(3))).all()


def test_towers_that_do_not_fit(kept):
    config = kept["config"]
    with pytest.raises(ValueError, match="fusion.encoder_width is 9, but vit.width 8"):
        fusion = dataclasses.replace(config.fusion, encoder_width=9)
        dataclasses.replace(config, fusion=fusion)
    with pytest.raises(ValueError, match="neither vocabulary nor queries"):
        dataclasses.replace(config, fusion=dataclasses.replace(config.fusion, vocabulary=41))
    with pytest.raises(ValueError, match="cross_every must be 0 in text and 1 in fusion"):
        dataclasses.replace(config, fusion=dataclasses.replace(config.text, head=False))


def test_another_file_is_refused(kept):
    shapes = {name: tensor.shape for name, tensor in kept["tensors"].items()}
    less = {name: shape for name, shape in shapes.items() if "word_embeddings" not in name}
    with pytest.raises(WeightsError, match="it has no tensor 'text_encoder.bert.embeddings.word"):
        albef_table.config_from(less)
    less = {name: shape for name, shape in shapes.items() if "crossattention" not in name}
    with pytest.raises(WeightsError, match="has no crossattention"):
        albef_table.config_from(less)
