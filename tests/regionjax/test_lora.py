"""Adapters: the same as merged kernels, alone in being trained, placed like their kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from test_regionlm import EOS, MODEL, SPEC, make_batch

from regionjax import lora, sharding, step, tables
from regionjax.config import ConfigError
from regionjax.decode import GenerationConfig
from regionjax.mesh import MeshConfig, make_mesh
from regionjax.optim import OptimConfig, make_optimizer
from regionjax.systems import system
from regionjax.tables import flatten

RANKS = (
    ("decoder/layers/(query|attention_out|mlp_up)/", 3),
    ("vit/layers/value/", 2),
    ("connector/", 1),
    (".*", 0),
)
ADAPTED = {
    "decoder/layers/query": ((2, 16, 3), (2, 3, 4, 4)),  # [layers, D, r], [layers, r, N, H]
    "decoder/layers/attention_out": ((2, 4, 4, 3), (2, 3, 16)),
    "decoder/layers/mlp_up": ((2, 16, 3), (2, 3, 32)),
    "vit/layers/value": ((2, 16, 2), (2, 2, 2, 8)),
    "connector": ((32, 1), (1, 16)),
}


def build(ranks=None, alpha=6.0):
    config = {"system": "regionlm", "model": MODEL}
    if ranks is not None:
        config["lora"] = {"ranks": ranks, "alpha": alpha}
    return system.build(ConfigDict(config), SPEC)


@pytest.fixture(scope="module")
def trained():
    """A system with adapters, and parameters in which no adapter is 0."""
    adapted = build(RANKS)
    shapes, _ = jax.eval_shape(adapted.init, jax.random.key(0), make_batch())
    rng = np.random.default_rng(1)
    normal = lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32)  # noqa: E731
    return adapted, jax.tree.map(normal, shapes)


def test_shapes_of_the_adapters(trained):
    pairs = lora.pairs(trained[1])
    assert {path: (a.shape, b.shape) for path, (a, b) in pairs.items()} == ADAPTED


def test_adapters_are_the_same_as_merged_kernels(trained):
    adapted, params = trained
    base, batch = build(), make_batch()
    merged = lora.merge(params, 6.0)
    assert not np.allclose(merged["connector"]["kernel"], params["connector"]["kernel"])
    settings = {"eos_id": EOS, "config": GenerationConfig(max_new_tokens=4)}

    def results(one, weights):
        found = {name: one.predict[name](weights, batch) for name in ("caption_nll", "heatmap")}
        rng = jax.random.key(0)
        return found | {"tokens": one.predict["generate"](weights, batch, rng, **settings)}

    got = jax.jit(lambda: results(adapted, params))()
    wanted = jax.jit(lambda: results(base, merged))()
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=2e-4, atol=2e-5, err_msg=name)


def test_merging_is_the_formula(trained):
    """Against plain matrices: torch's W [out, in] gets alpha / r · B·A."""
    _, params = trained
    merged = flatten(lora.merge(params, 6.0))
    assert not [path for path in merged if "lora" in path]
    for path, (a, b) in lora.pairs(params).items():
        kernel, new = np.asarray(flatten(params)[f"{path}/kernel"]), merged[f"{path}/kernel"]
        rank, stacked = a.shape[-1], "layers" in path
        for i in range(2 if stacked else 1):
            w, down, up, got = (x[i] if stacked else x for x in (kernel, a, b, new))
            down = np.asarray(down).reshape(-1, rank)
            up = np.asarray(up).reshape(rank, -1)
            wanted = w.reshape(len(down), -1) + 6.0 / rank * down @ up
            np.testing.assert_allclose(got.reshape(wanted.shape), wanted, atol=1e-5)


def test_only_adapters_are_trained_on_a_mesh():
    adapted = build(RANKS)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    frozen = (("^params/(vit|decoder|connector)", True), (".*", False))
    model = jax.eval_shape(lambda: step.init_model(adapted, 3, SPEC))
    optimizer = make_optimizer(OptimConfig(0.1, frozen=frozen), 10, model["params"])
    init = lambda: step.init_state(adapted, optimizer, 3, SPEC)  # noqa: E731
    shapes = jax.eval_shape(init)
    places, _ = sharding.state_shardings(shapes, adapted.sharding_rules, mesh)
    specs = {path: place.spec for path, place in flatten(places).items()}
    for root in ("params", "opt_state/1/mu"):
        assert specs[f"{root}/lora/decoder/layers/query/a"] == P(None, "fsdp", None)
        assert specs[f"{root}/lora/decoder/layers/query/b"] == P(None, None, "tensor", None)
        assert specs[f"{root}/lora/decoder/layers/attention_out/a"] == P(None, "tensor", None, None)
        assert specs[f"{root}/lora/decoder/layers/attention_out/b"] == P(None, None, "fsdp")
    batch_place = sharding.batch_sharding(mesh)
    weights = {"caption": 1.0, "grounding": 1.0, "pointing": 1.0}
    with jax.set_mesh(mesh):
        train_step = step.make_train_step(
            adapted, optimizer, weights, seed=3, microbatches=1, shardings=places
        )
        lowered = step.lower_train_step(
            train_step,
            sharding.placed(shapes, places),
            {
                name: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=batch_place)
                for name, field in SPEC.abstract(4).items()
            },
        )
        state = jax.jit(init, out_shardings=places)()
        before = flatten(jax.device_get(state.params))
        state, metrics = lowered.compile()(
            state, jax.device_put(make_batch(batch_size=4), batch_place)
        )
    for path, (a, b) in lora.pairs(tables.nest(before)).items():
        assert a.any() and not b.any(), path  # a new adapter changes nothing
    after = flatten(jax.device_get(state.params))
    assert np.isfinite(metrics["loss"])
    for path, array in after.items():
        held = path.startswith(("vit", "decoder", "connector")) or path.endswith("/a")
        # While b is 0, a has no gradient.
        assert np.array_equal(array, before[path]) == held, path
    trained_slots = {path for path in flatten(state.opt_state[1].mu)}
    assert not {path for path in trained_slots if path.startswith(("vit", "decoder"))}


def test_flops_know_that_gradients_reach_the_adapters():
    base, adapted = build(), build(RANKS)
    batch = make_batch()
    params, _ = jax.eval_shape(lambda: adapted.init(jax.random.key(0), batch))
    frozen = {path: "lora" not in path for path in flatten(params, "params")}
    plain = {name: tree for name, tree in params.items() if name != "lora"}
    nothing = base.flops().training(plain, frozen)
    some = adapted.flops().training(params, frozen)
    assert some["decoder"] == pytest.approx(2 * nothing["decoder"], rel=0.5)
    assert nothing["decoder"] < some["decoder"]
    everything = adapted.flops().training(params, dict.fromkeys(frozen, False))
    assert some["decoder"] < everything["decoder"]


@pytest.mark.parametrize(
    "ranks, message",
    [
        ((("decoder/", 4),), "config.lora.ranks: no pattern matches params/"),
        ((("decodr/", 4), (".*", 0)), "'decodr/' matches nothing"),
        (((".*", 0),), "gives no layer a rank above 0"),
        (((".*", 1.5),), "1.5 for params/.*kernel, expected 0 or a rank"),
        (((".*", -1),), "-1 for params/"),
    ],
)
def test_tables_are_strict(ranks, message):
    with pytest.raises(ConfigError, match=message):
        build(ranks)


def test_kernels_alone_can_be_adapted():
    with pytest.raises(ConfigError, match="'decoder/embedding' matches nothing"):
        build((("decoder/embedding", 4), (".*", 1)))
