"""TPU slices to compile for: what the compiler needs to be told, and what a chip has room for."""

import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from regionjax.config import ConfigError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    `memory` is what the compiler lets a program use of one JAX device's HBM, in bytes: less than
    the data sheet says. `devices` is the number of JAX devices on a chip. `slices` are customary
    shapes; the compiler knows more.
    """

    memory: float
    devices: int
    slices: tuple[str, ...]


_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
CHIPS = {
    "v4": Chip(30.75 * GIB, 1, _CUBES),
    "v5e": Chip(15.75 * GIB, 1, _SQUARES),
    "v5p": Chip(95.74 * GIB, 1, _CUBES),
    "v6e": Chip(31.25 * GIB, 1, _SQUARES),
    "tpu7x": Chip(94.75 * GIB, 2, _CUBES),
}

# libtpu reads these when it is loaded. Without them it asks Google Cloud for the machine's slice
# and refuses to be loaded by two processes at once; a slice is compiled for, never used.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def open_slice(topology, num_slices=1):
    """The chip and the JAX devices of slices that need not exist.

    Everything else of this process runs on the CPU from now on.

    Args:
      topology: such as "v5e:4x4".
      num_slices: how many of them.

    Returns:
      Chip, and the devices of all slices; programs can be compiled for them but not run.

    Raises:
      ConfigError: libtpu is not installed, or no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"the TPU compiler (libtpu) is not installed; it runs on any Linux machine: "
            f'pip install "jax[tpu]=={jax.__version__}"'
        )
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise ConfigError(f"no TPU slice is called {topology!r}; known: {_known()}")
    options = {}
    if num_slices > 1:
        options["num_slices"] = num_slices
    if name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:{shape}", **options
        )
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"no TPU slice is called {topology!r} ({error}); known: {_known(name)}"
        ) from error
    return CHIPS[name], found.devices


def _known(*names):
    return ", ".join(f"{name}:{shape}" for name in names or CHIPS for shape in CHIPS[name].slices)
