"""Mesh shapes and the batch sizes that fit them."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from regionjax import mesh
from regionjax.config import ConfigError, build
from regionjax.mesh import MeshConfig


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 1, "fsdp": -1}, (1, 8, 1)),
        ({"data": 2, "fsdp": 4, "tensor": 1}, (2, 4, 1)),
    ],
)
def test_shapes(sizes, shape):
    made = mesh.make_mesh(MeshConfig(**sizes))
    assert tuple(made.shape.values()) == shape
    assert made.axis_names == ("data", "fsdp", "tensor")
    assert set(made.axis_types) == {AxisType.Auto}
    assert set(made.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": 4}, "data=4×fsdp=1×tensor=1 needs 4 devices, there are 8"),
        ({"fsdp": 3}, "data=-1×fsdp=3×tensor=1 on 8 devices; 3 does not divide 8"),
        ({"fsdp": -1}, "config.mesh: only one axis may be -1"),
        ({"tensor": 0}, "config.mesh: tensor = 0"),
        ({"tensr": 2}, "config.mesh.tensr is not a setting; did you mean `tensor`"),
    ],
)
def test_impossible_meshes(sizes, message):
    with pytest.raises(ConfigError, match=message):
        mesh.make_mesh(build(MeshConfig, sizes, "config.mesh"))


def test_slices_lie_along_data():
    devices = [
        types.SimpleNamespace(
            id=i, slice_index=i // 4, process_index=i // 4, platform="cpu", device_kind="fake"
        )
        for i in range(8)
    ]
    grid = mesh.arrange(devices, (4, 1, 2))
    slices = np.vectorize(lambda device: device.slice_index)(grid)
    assert (slices == np.array([0, 0, 1, 1])[:, None, None]).all()
    with pytest.raises(ConfigError, match="2 slices lie along the data axis, whose size 1"):
        mesh.arrange(devices, (1, 4, 2))


def test_batch_sizes():
    made = mesh.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    mesh.check_batch_size(24, 3, made)
    with pytest.raises(ConfigError, match=r"batch_size = 10 is not .* by 4 .* use 8 or 12"):
        mesh.check_batch_size(10, 1, made)
    with pytest.raises(ConfigError, match=r"3 is not .* 8 \(data=2 × fsdp=2 × 2 micro.*use 8$"):
        mesh.check_batch_size(3, 2, made)
