"""The optimiser against optax's own AdamW, tables, freezing, the schedule."""

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


@pytest.mark.parametrize(
    "tables, message",
    [
        ({"frozen": (("^params/vit/", True),)}, "config.optim.frozen: no pattern matches params/h"),
        ({"frozen": ((".*", True),)}, "freezes every parameter"),
        ({"frozen": ((".*", "no"),)}, "config.optim.frozen: 'no' for params/.*True or False"),
        ({"weight_decay": (("kernle", 0.1), (".*", 0.0))}, "'kernle' matches nothing"),
        ({"weight_decay": ((".*", -0.1),)}, "weight_decay: -0.1 for params/.*at least 0"),
        ({"learning_rate_multipliers": ((".*", 0),)}, "learning_rate_multipliers: 0 for params/"),
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
    with pytest.raises(ValueError, match="clip_norm = 0"):
        OptimConfig(learning_rate=0.1, clip_norm=0)
