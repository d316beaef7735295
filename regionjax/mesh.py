"""The mesh: which devices form which axis.

Three axes, always present and often of size 1:
  data    copies of the model that share the images out; several slices lie along this axis, as
          only its one gradient sum a step crosses the slow network between slices
  fsdp    shares the images out as well, and keeps a part of every parameter
  tensor  splits heads, hidden units and the vocabulary inside a layer
"""

import dataclasses
import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from regionjax.config import ConfigError

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes; one of them may be -1: whatever the devices leave for it."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise ValueError(f"{axis} = {size}, expected a positive size or -1")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"only one axis may be -1, got {sizes}")


def make_mesh(config, devices=None):
    """Mesh over `devices`.

    Args:
      config: MeshConfig.
      devices: of one kind; default all of this run. Those of a compile-only topology will do.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices, or several slices do not
        fit along `data`.
    """
    devices = list(jax.devices() if devices is None else devices)
    # Auto, as linen layers cannot be traced under Explicit axes.
    grid = arrange(devices, _shape(config, len(devices)))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(devices, shape):
    """Array [data, fsdp, tensor] of devices, neighbours on the network beside each other."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # jax.make_mesh would refuse a shape that splits an axis of the torus, such as 8×2 on 4×4.
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices:
        raise ConfigError(
            f"config.mesh: {slices} slices lie along the data axis, whose size {shape[0]} "
            f"is not a multiple of {slices}"
        )
    inside = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(
        inside, (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def _shape(config, count):
    sizes = {axis: getattr(config, axis) for axis in AXES}
    given = math.prod(size for size in sizes.values() if size != -1)
    told = "×".join(f"{axis}={size}" for axis, size in sizes.items())
    if -1 not in sizes.values():
        if given != count:
            raise ConfigError(f"config.mesh: {told} needs {given} devices, there are {count}")
    elif count % given:
        raise ConfigError(
            f"config.mesh: {told} on {count} devices; {given} does not divide {count}"
        )
    return tuple(count // given if size == -1 else size for size in sizes.values())


def batch_shards(mesh):
    """Into how many parts the images of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(batch_size, microbatches, mesh):
    """Checks that every device gets as many images as any other, in every micro-batch.

    Raises:
      ConfigError: naming both sides and the nearest right sizes; or the processes would have to
        bring copies of each other's images, as happens when `tensor` is wider than one process.
    """
    processes = jax.process_count()
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    by_shard = owners.reshape(batch_shards(mesh), -1)
    if (by_shard != by_shard[:, :1]).any() or batch_shards(mesh) % processes:
        raise ConfigError(
            f"config.mesh: {processes} processes need data × fsdp to be a multiple of {processes} "
            f"and tensor to lie within one process, got {dict(mesh.shape)}"
        )
    unit = batch_shards(mesh) * microbatches
    if batch_size % unit == 0:
        return
    below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
    parts = f"data={mesh.shape['data']} × fsdp={mesh.shape['fsdp']}"
    if microbatches > 1:
        parts += f" × {microbatches} micro-batches"
    raise ConfigError(
        f"config.train.batch_size = {batch_size} is not divisible by {unit} ({parts}); "
        f"use {f'{below} or {above}' if below else above}"
    )
