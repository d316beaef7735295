"""Imports a checkpoint and prints how much memory that took: python memory.py SOURCE FOLDER

The peak is of the resident size (VmHWM), above what Python and JAX have taken before.
"""

import pathlib
import sys
import tempfile

import checkpoints
import jax

from regionjax.mesh import MeshConfig, make_mesh
from regionjax.weights import importing


def resident(name):
    """VmRSS or VmHWM of this process, in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main(source, folder):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with tempfile.TemporaryDirectory() as warm:  # loads what is loaded on first use
        checkpoints.write(pathlib.Path(warm) / "theirs")
        importing.import_weights(f"{warm}/theirs", f"{warm}/ours", mesh)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    importing.import_weights(source, folder, mesh)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
