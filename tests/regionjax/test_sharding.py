"""Tables of path patterns, shardings of a train state, named activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from regionjax import sharding, tables
from regionjax.config import ConfigError


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    state: dict
    opt_state: object


def mesh_of(data, fsdp, tensor):
    devices = np.array(jax.devices()).reshape(data, fsdp, tensor)
    return Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def toy_state():
    params = {"mlp": {"kernel": shape(8, 6), "bias": shape(6)}, "head": {"kernel": shape(6, 4)}}
    slots = {"mlp": {"kernel": shape(8), "bias": shape(6)}, "head": {"kernel": shape(6, 4)}}
    return State(
        step=shape(),
        params=params,
        state={"queue": {"mlp": {"bias": shape(6)}}},
        opt_state=({"count": shape()}, {"mu": slots}),
    )


RULES = (
    ("mlp/kernel", P("fsdp", "tensor")),
    ("/bias$", P("fsdp")),
    ("/kernel$", P("tensor", "fsdp")),
)


def test_first_match_wins():
    table = (("^params/a/", 1), ("b$", 2), (".*", 3))
    found = tables.lookup(table, ["params/a/b", "params/b", "state/params/a/x"], "t")
    assert found == {"params/a/b": 1, "params/b": 2, "state/params/a/x": 3}


@pytest.mark.parametrize(
    "table, message",
    [
        ((("params/vision/.*", 1),), r"t: no pattern matches params/head; .*params/vision"),
        ((("params/.*", 1), ("params/vison/kernel", 2)), r"'params/vison/kernel' matches nothing"),
        ((("params/.*", 1), ("params/head", 2)), r"'params/head' is never reached; 'params/\.\*'"),
        ((("params/(", 1),), "not a regular expression"),
        ((("params/.*",),), "not a row"),
    ],
)
def test_tables_are_strict(table, message):
    with pytest.raises(ConfigError, match=message):
        tables.lookup(table, ["params/vision/kernel", "params/head"], "t")


def test_closing_everything_else_may_stay_idle():
    tables.lookup((("params/.*", 1), (".*", 2)), ["params/head"], "t")


def test_slots_live_where_their_parameters_live():
    shardings, dropped = sharding.state_shardings(toy_state(), RULES, mesh_of(2, 2, 2))
    spec = lambda leaf: leaf.spec  # noqa: E731
    assert spec(shardings.params["mlp"]["kernel"]) == P("fsdp", "tensor")
    assert spec(shardings.opt_state[1]["mu"]["mlp"]["kernel"]) == P()  # factored: other rank
    assert spec(shardings.opt_state[1]["mu"]["head"]["kernel"]) == P("tensor", "fsdp")
    assert spec(shardings.opt_state[1]["mu"]["mlp"]["bias"]) == P("fsdp")
    assert spec(shardings.state["queue"]["mlp"]["bias"]) == P("fsdp")
    assert spec(shardings.opt_state[0]["count"]) == spec(shardings.step) == P()
    assert not dropped


def test_axis_that_does_not_divide_is_dropped_and_told():
    shardings, dropped = sharding.state_shardings(toy_state(), RULES, mesh_of(1, 2, 4))
    assert dropped == {
        "params/mlp/kernel": [("tensor", 1)],
        "params/head/kernel": [("tensor", 0)],
        "opt_state/1/mu/head/kernel": [("tensor", 0)],
    }
    assert shardings.params["mlp"]["kernel"].spec == P("fsdp", None)


@pytest.mark.parametrize(
    "spec, message",
    [
        (P("fsdp", None, None), r"more entries than params/head/kernel \[6, 4\]"),
        (P("tensr"), r"names mesh axis 'tensr'; did you mean `tensor`"),
    ],
)
def test_rules_that_cannot_hold(spec, message):
    rules = (("params/head/kernel", spec), (".*", P()))
    with pytest.raises(ConfigError, match=message):
        sharding.state_shardings(toy_state(), rules, mesh_of(2, 2, 2))


def test_constrain_shards_inside_a_mesh_and_is_nothing_outside():
    x = jnp.ones((8, 3, 4, 5))
    assert sharding.constrain(x, "heads") is x
    with jax.set_mesh(mesh_of(2, 2, 2)):
        heads = jax.jit(lambda x: sharding.constrain(x, "heads"))(x)
        assert heads.sharding.shard_shape(heads.shape) == (2, 3, 2, 5)
        # One image and three heads: nothing divides, nothing is sharded.
        odd = jax.jit(lambda x: sharding.constrain(x[:1, :, :3], "heads"))(x)
        assert odd.sharding.shard_shape(odd.shape) == (1, 3, 3, 5)


def test_constrain_names_its_mistakes():
    with pytest.raises(ValueError, match="'token'; did you mean `tokens`"):
        sharding.constrain(jnp.ones((2, 3, 4)), "token")
    with pytest.raises(ValueError, match=r"'tokens' has 3 dimensions, got shape \(2, 3\)"):
        sharding.constrain(jnp.ones((2, 3)), "tokens")
