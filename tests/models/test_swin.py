"""Swin against what transformers once said (golden file), and what needs no reference."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import close

from regionjax import flops, tables
from regionjax.models import swin
from regionjax.weights import table
from regionjax.weights.table import WeightsError
from regionjax.weights.tables import swin as swin_table

TINY = swin.SwinConfig(
    image_size=24, width=6, depths=(2, 4), heads=(1, 3), window=3, patch_size=2, mlp_ratio=2.0
)
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 18, 26, 3), dtype=np.uint8)


def shapes_of(config, image=IMAGE):
    return jax.eval_shape(swin.Swin(config).init, jax.random.key(0), image)


def test_golden():
    kept = golden.read("swin")
    config = swin_table.config_from(kept["json"])
    rows = swin_table.rows(config)
    params = table.to_ours(kept["tensors"], rows, shapes_of(config)["params"])
    features, _ = jax.jit(swin.Swin(config).apply)({"params": params}, kept["image"])
    close(features.reshape(kept["features"].shape), kept["features"])
    back = table.to_theirs(params, rows)
    assert {name: value.tobytes() for name, value in back.items()} == {
        name: value.tobytes() for name, value in kept["tensors"].items()
    }


def test_remat_and_unroll_change_nothing():
    config, image = dataclasses.replace(TINY, depths=(4,), heads=(3,)), IMAGE[:, :10, :14]
    variables = jax.jit(swin.Swin(config).init)(jax.random.key(0), image)

    def gradient(config):
        def loss(variables):
            features, more = swin.Swin(config).apply(variables, image)
            return (features**2).mean() + more["hidden"][0][1].mean()

        return jax.jit(jax.value_and_grad(loss))(variables)

    a, b = gradient(config), gradient(dataclasses.replace(config, remat="minimal", unroll=2))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


def test_every_parameter_has_a_sharding_rule():
    paths = list(tables.flatten(shapes_of(TINY)["params"]))
    found = tables.lookup(swin.SHARDING_RULES, paths, "sharding rules")
    for path, leaf in tables.flatten(shapes_of(TINY)["params"]).items():
        assert len(found[path]) <= len(leaf.shape), path


def test_the_compiler_counts_the_same_flops():
    # Wide, so that products outweigh everything that is not one; 5 and 3 patches a side, windows
    # of 3 that do not fit the first map.
    config = dataclasses.replace(TINY, width=512, heads=(4, 4), depths=(2, 2))
    image = jax.ShapeDtypeStruct((2, 10, 10, 3), np.uint8)
    variables = shapes_of(config, image)

    def forward(variables, image):
        return swin.Swin(config).apply(variables, image)[0]

    counted = jax.jit(forward).lower(variables, image).cost_analysis()["flops"]
    ours = 2 * flops.swin(config, 10, "swin", ("params/swin/",)).forward
    assert ours < counted < 1.02 * ours


def test_places_attend_within_their_piece_of_the_map():
    """4×4 places, windows of 2, shifted by 1: the last window holds the map's four corners."""
    parts = swin.window_parts((4, 4), window=2, shift=1)
    assert parts.shape == (4, 4)
    assert [len(set(window)) for window in parts] == [1, 2, 2, 4]
    assert len(set(parts[0]) & set(parts[3])) == 0


def test_hidden_states_cost_nothing_when_not_asked_for():
    config = dataclasses.replace(TINY, depths=(16, 16))
    variables, image = shapes_of(config), jax.ShapeDtypeStruct((8, 48, 48, 3), np.uint8)

    def memory(pick):
        network = lambda v, image: pick(swin.Swin(config).apply(v, image))  # noqa: E731
        compiled = jax.jit(network).lower(variables, image).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    size = 15 * 8 * 24 * 24 * 6 * 4  # of all layers' outputs in the first stage but one
    assert memory(lambda out: (out[0], jnp.sum(out[1]["hidden"][0]))) > size
    assert memory(lambda out: out[0]) < size


@pytest.mark.parametrize(
    "change, message",
    [
        ({"depths": (2, 3)}, r"depths\[1\] is 3; layers come in pairs"),
        ({"heads": (1, 5)}, r"heads\[1\] is 5, but the width there is 12"),
        ({"heads": (1,)}, "differ in length"),
        ({"remat": "som"}, "remat='som'"),
    ],
)
def test_impossible_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_another_form_is_refused():
    json = swin_table.config_to(TINY) | {"use_absolute_embeddings": True}
    with pytest.raises(WeightsError, match="use_absolute_embeddings = True; only False"):
        swin_table.config_from(json)
