"""What is kept, what comes back, and what is said when it does not fit."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from regionjax import checkpoint, sharding
from regionjax.checkpoint import CheckpointError
from regionjax.step import TrainState
from regionjax.tables import flatten

PARAMS = {
    "vit": {"kernel": jnp.arange(64.0).reshape(8, 8)},
    "norm": {"scale": jnp.linspace(0, 1, 3, dtype=jnp.bfloat16)},
}
MOMENTS = optax.scale_by_adam()


def mesh_of(*sizes):
    devices = np.array(jax.devices()).reshape(sizes)
    return Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def state_at(step, params=PARAMS):
    return TrainState(
        step=jnp.int32(step),
        params=params,
        state={},
        opt_state=MOMENTS.init(params),
        skipped=jnp.int32(1),
        skipped_in_row=jnp.int32(0),
    )


RULES = (("kernel", P("fsdp", "tensor")), (".*", P()))


def placed(mesh, params=PARAMS):
    shapes = jax.eval_shape(lambda: state_at(0, params))
    return sharding.placed(shapes, sharding.state_shardings(shapes, RULES, mesh)[0])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of the steps 1 to 6, of which two newest and every third are kept."""
    directory = tmp_path_factory.mktemp("saved")
    places = jax.tree.map(lambda shape: shape.sharding, placed(mesh_of(1, 4, 2)))
    writer = checkpoint.Checkpoints(directory, keep_latest=2, keep_every=3)
    for step in range(1, 7):
        state = jax.device_put(state_at(step), places)
        writer.save(step, state, {"next": step * 8}, {"step": step, "config": {"table": ((1, 2),)}})
    writer.close()
    return directory


def test_keeps_the_newest_and_every_so_many(saved):
    assert sorted(os.listdir(saved)) == ["3", "5", "6"]
    assert checkpoint.latest_step(saved) == 6


def test_nothing_there(tmp_path):
    assert checkpoint.latest_step(tmp_path / "none") is None
    with pytest.raises(CheckpointError, match="there is no checkpoint .*none/4"):
        checkpoint.load_meta(tmp_path / "none", 4)


@pytest.mark.parametrize("sizes", [(1, 4, 2), (1, 2, 4), (8, 1, 1)], ids=str)
def test_comes_back_bit_for_bit_on_any_mesh(saved, sizes):
    wanted = placed(mesh_of(*sizes))
    state, position = checkpoint.load(saved, 5, wanted)
    assert position == {"next": 40}
    found, shapes = flatten(state), flatten(wanted)
    for path, array in flatten(state_at(5)).items():
        assert found[path].sharding == shapes[path].sharding
        assert found[path].dtype == array.dtype
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_meta_comes_back_as_json(saved):
    assert checkpoint.load_meta(saved, 6) == {"step": 6, "config": {"table": [[1, 2]]}}


def test_params_alone(saved):
    params = checkpoint.load_params(saved, 6, placed(mesh_of(8, 1, 1)).params)
    for path, array in flatten(PARAMS).items():
        np.testing.assert_array_equal(flatten(params)[path], array)


@pytest.mark.parametrize(
    "params, message",
    [
        (PARAMS | {"vot": PARAMS["vit"]}, "has no params/vot/kernel; did you mean `params/vit/ker"),
        ({"vit": PARAMS["vit"]}, "6: .*norm/scale is unknown to this run"),
        (PARAMS | {"vit": {"kernel": jnp.ones((8, 4))}}, r"float32\[8, 8\], .* float32\[8, 4\]"),
        (PARAMS | {"norm": {"scale": jnp.ones(3)}}, r"scale is bfloat16\[3\], .* float32\[3\]"),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_another_model(saved, params, message):
    wanted = placed(mesh_of(1, 4, 2), params)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(saved, 6, wanted)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_params(saved, 6, wanted.params)
