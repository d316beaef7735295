"""The optimiser against optax's own AdamW and Muon written out; tables, freezing, schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from regionjax.config import ConfigError
from regionjax.optim import OptimConfig, make_optimizer
from regionjax.tables import flatten

PARAMS = {
    "vit": {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4), "bias": jnp.zeros(4)},
    "head": {"kernel": jnp.linspace(1, 2, 8).reshape(4, 2)},
}


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)


def test_equals_optax_adamw():
    config = OptimConfig(
        learning_rate=0.1,
        weight_decay=(("bias", 0.0), (".*", 0.3)),
        learning_rate_multipliers=(("^params/head", 0.5), (".*", 1.0)),
        clip_norm=2.0,
        b2=0.97,
    )
    optimizer = make_optimizer(config, 10, PARAMS)

    def reference(scale):
        return optax.adamw(
            lambda count: scale * optimizer.schedule(count),
            b1=0.9,
            b2=0.97,
            weight_decay=0.3,
            mask=lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree),
        )

    expected = optax.chain(
        optax.clip_by_global_norm(2.0),
        optax.partition(
            {"vit": reference(1.0), "head": reference(0.5)},
            {"vit": "vit", "head": "head"},
        ),
    )
    update, expect = jax.jit(optimizer.update), jax.jit(expected.update)
    mine, theirs = PARAMS, PARAMS
    slots, states = optimizer.init(PARAMS), expected.init(PARAMS)
    for step in range(4):
        mine, slots = update(gradients(step), slots, mine, step)
        updates, states = expect(gradients(step), states, theirs)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mine, theirs)


def test_frozen_parameters_have_no_slots():
    config = OptimConfig(learning_rate=0.1, frozen=(("^params/vit/", True), (".*", False)))
    optimizer = make_optimizer(config, 10, PARAMS)
    trainable, frozen = optimizer.split(PARAMS)
    assert set(flatten(trainable)) == {"head/kernel"}
    assert set(flatten(frozen)) == {"vit/kernel", "vit/bias"}
    assert optimizer.merge(trainable, frozen) == PARAMS
    slots = flatten(optimizer.init(PARAMS))
    assert sorted(slots) == ["1/count", "1/mu/head/kernel", "1/nu/head/kernel"]


def orthogonal(momentum, iterations):
    """Muon's quintic steps in numpy for one matrix; its singular values end near 1."""
    x = momentum / np.linalg.norm(momentum)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if x.shape == momentum.shape else x.T


@pytest.mark.parametrize("iterations", [3, 5])
@pytest.mark.parametrize(
    "axes, matrices",  # of a kernel [L=2, D=3, N=2, H=4]
    [
        ("bioo", [((i,), (3, 8)) for i in range(2)]),
        ("biio", [((i,), (6, 4)) for i in range(2)]),
        ("bibo", [((i, slice(None), n), (3, 4)) for i in range(2) for n in range(2)]),
    ],
)
def test_muon_makes_each_matrix_orthogonal(axes, matrices, iterations):
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(3, 2, 3, 2, 4)).astype(np.float32)
    params = {"query": {"kernel": jnp.asarray(kernels[0]), "bias": jnp.zeros(3)}}
    config = OptimConfig(
        learning_rate=0.1,
        muon=(("kernel", axes), (".*", "")),
        muon_momentum=0.9,
        muon_iterations=iterations,
        weight_decay=(("kernel", 0.5), (".*", 0.0)),
        clip_norm=1e6,
    )
    optimizer = make_optimizer(config, 10, params)
    slots = optimizer.init(params)
    sizes = {path: np.size(slot) for path, slot in flatten(slots).items()}
    assert sizes["1/inner_states/muon/inner_state/0/mu/query/kernel"] == 48
    assert not any("adam" in path and "kernel" in path for path in sizes)
    expected, first, trained = kernels[0], 0, params
    for step, gradient in enumerate(kernels[1:]):
        first = 0.9 * first + 0.1 * gradient
        ahead = 0.9 * first / (1 - 0.9 ** (step + 2)) + 0.1 * gradient / (1 - 0.9 ** (step + 1))
        direction = np.zeros_like(expected)
        for place, shape in matrices:
            one = orthogonal(ahead[place].reshape(shape), iterations) * 0.2 * np.sqrt(max(shape))
            direction[place] = one.reshape(direction[place].shape)
        rate = float(optimizer.schedule(step))
        expected = expected - rate * (direction + 0.5 * expected)
        grads = {"query": {"kernel": jnp.asarray(gradient), "bias": jnp.ones(3)}}
        trained, slots = optimizer.update(grads, slots, trained, step)
        np.testing.assert_allclose(trained["query"]["kernel"], expected, rtol=1e-4, atol=1e-5)
    assert (np.asarray(trained["query"]["bias"]) < 0).all()  # Adam's


def test_muon_leaves_frozen_kernels_alone():
    config = OptimConfig(
        learning_rate=0.1,
        muon=(("kernel", "io"), (".*", "")),
        frozen=(("^params/vit/", True), (".*", False)),
    )
    slots = flatten(make_optimizer(config, 10, PARAMS).init(PARAMS))
    assert not any("vit" in path for path in slots)
    assert any(path.endswith("mu/head/kernel") for path in slots)


@pytest.mark.parametrize(
    "tables, message",
    [
        ({"frozen": (("^params/vit/", True),)}, "config.optim.frozen: no pattern matches params/h"),
        ({"frozen": ((".*", True),)}, "freezes every parameter"),
        ({"frozen": ((".*", "no"),)}, "config.optim.frozen: 'no' for params/.*True or False"),
        ({"weight_decay": (("kernle", 0.1), (".*", 0.0))}, "'kernle' matches nothing"),
        ({"weight_decay": ((".*", -0.1),)}, "weight_decay: -0.1 for params/.*at least 0"),
        ({"learning_rate_multipliers": ((".*", 0),)}, "learning_rate_multipliers: 0 for params/"),
        ({"muon": ((".*", "io"),)}, r"muon: 'io' for params/vit/bias of shape \[4\], expected one"),
        ({"muon": (("kernel", "bo"), (".*", ""))}, "'bo' for params/.*one letter an axis: i and o"),
        ({"muon": (("kernel", True), (".*", ""))}, "muon: True for params/.*letters b, i and o"),
    ],
)
def test_tables_are_strict(tables, message):
    with pytest.raises(ConfigError, match=message):
        make_optimizer(OptimConfig(learning_rate=0.1, **tables), 10, PARAMS)


def test_schedule():
    config = OptimConfig(learning_rate=2.0, warmup_fraction=0.1, final_fraction=0.25)
    rate = make_optimizer(config, 100, PARAMS).schedule
    assert rate(0) == pytest.approx(0.2)  # the first step moves
    assert rate(9) == rate(10) == pytest.approx(2.0)
    assert rate(55) == pytest.approx(2.0 * (0.25 + 0.75 / 2))  # halfway down
    assert rate(100) == pytest.approx(0.5)
    # Runs too short for a warm-up train at the peak.
    assert make_optimizer(OptimConfig(learning_rate=2.0), 1, PARAMS).schedule(0) == 2.0


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="warmup_fraction = 2"):
        OptimConfig(learning_rate=0.1, warmup_fraction=2)
    with pytest.raises(ValueError, match="muon_iterations = 0"):
        OptimConfig(learning_rate=0.1, muon_iterations=0)
    with pytest.raises(ValueError, match="clip_norm = 0"):
        OptimConfig(learning_rate=0.1, clip_norm=0)
