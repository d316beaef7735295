"""From a public checkpoint to one of ours, one tensor at a time.

A parameter is allocated where it will lie, filled from one tensor after the other, and never
copied: on a CPU the peak is the size of the imported parameters plus one tensor of the source.
"""

import collections
import json
import math
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np

from regionjax import checkpoint, sharding, tables
from regionjax.config import nearest
from regionjax.journal import log
from regionjax.weights import architectures, table
from regionjax.weights.table import WeightsError

CHECKPOINTS = "checkpoints"  # the folder of checkpoints, as in a run's folder
DTYPES = ("float32", "bfloat16")


def import_weights(source, folder, mesh, *, dtype="float32"):
    """Writes `folder`/checkpoints/0, which regionjax/checkpoint.py loads on any mesh.

    Args:
      source: a Hugging Face directory or an ALBEF .pth.
      folder: to be made; one that a killed import left behind is used again.
      mesh: Mesh that the parameters are laid out on.
      dtype: of the parameters, a name out of DTYPES.

    Raises:
      WeightsError: the source cannot be read or does not fit its config; nothing is written then.
    """
    if dtype not in DTYPES:
        raise WeightsError(f"parameters of {dtype!r}{nearest(dtype, DTYPES)}")
    folder = pathlib.Path(folder)
    if checkpoint.latest_step(folder / CHECKPOINTS) is not None:
        raise WeightsError(f"{folder} holds a checkpoint; name a new folder")
    found = architectures.identify(source)
    shapes = found.architecture.shapes(found.config, dtype)
    rows = found.architecture.rows(found.config)
    headers, read = found.tensors.headers, found.tensors.read
    sources, ignored = table.check(headers, rows, shapes, str(source))
    table.check_ties(read, headers, rows)
    rules = found.architecture.sharding_rules(found.config)
    places, _ = sharding.state_shardings({"params": shapes}, rules, mesh)
    places = tables.flatten(places["params"])
    leaves = tables.flatten(shapes)
    for line in describe(leaves, ignored):
        log.info("%s", line)
    params = {
        path: _placed(read, sources[path], leaf, places[path]) for path, leaf in leaves.items()
    }
    meta = {"step": 0, "weights": json.dumps(_origin(found, source, sources))}
    _save(folder, {"params": tables.nest(params)}, meta)
    log.info("%s", folder)


def describe(leaves, ignored):
    """A few lines on what is imported."""
    count = sum(math.prod(leaf.shape) for leaf in leaves.values())
    size = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves.values())
    yield f"{count:,} parameters in {len(leaves)} arrays, {size / 2**20:,.0f} MiB"
    if ignored:
        yield f"ignored: {', '.join(ignored[:8])}" + (", …" if len(ignored) > 8 else "")


def origin(folder, step=0):
    """What an imported checkpoint says about where it comes from, or None.

    Returns:
      {"architecture", "source": its path, "values" and "processor" (architectures.Description),
      "tensors": {name: [dtype, shape]} of those that became parameters}.
    """
    said = checkpoint.load_meta(pathlib.Path(folder) / CHECKPOINTS, step).get("weights")
    return said and json.loads(said)


def reopened(said):
    """(Architecture, config) of an `origin`."""
    architecture = architectures.ARCHITECTURES[said["architecture"]]
    shapes = {name: tuple(shape) for name, (_, shape) in said["tensors"].items()}
    description = architectures.Description(said["values"], shapes, said["processor"])
    return architecture, architecture.config(description)


def load(folder, mesh, *, dtype="float32"):
    """The module of an imported checkpoint and its parameters.

    Args:
      folder: that `import_weights` wrote.
      mesh: Mesh that the parameters are laid out on.
      dtype: of the computation; parameters keep the one that they were imported in.

    Returns:
      nn.Module, {"params": nested parameters}.

    Raises:
      WeightsError: no imported checkpoint.
    """
    directory = pathlib.Path(folder) / CHECKPOINTS
    said = origin(folder) if (directory / "0").is_dir() else None
    if said is None:
        raise WeightsError(f"{folder} was not made by `python -m regionjax.weights import`")
    architecture, config = reopened(said)
    kept = next(iter(checkpoint.params_in(directory, 0).values())).dtype
    shapes, rules = architecture.shapes(config, kept), architecture.sharding_rules(config)
    places, _ = sharding.state_shardings({"params": shapes}, rules, mesh)
    placed = sharding.placed(shapes, places["params"])
    params = checkpoint.load_params(directory, 0, placed)
    return architecture.module(config, jnp.dtype(dtype)), {"params": params}


def _origin(found, source, sources):
    """For export: with it, what comes out is what went in."""
    names = {piece.theirs: name for pieces in sources.values() for name, piece in pieces}
    headers = found.tensors.headers
    return {
        "architecture": found.architecture.name,
        "source": str(source),
        "values": found.description.values,
        "processor": found.description.processor,
        "tensors": {
            theirs: [headers[name][1].name, list(headers[name][0])]
            for theirs, name in names.items()
        },
    }


def _placed(read, sources, leaf, place):
    """One parameter as a jax array, its blocks filled where they lie."""
    devices = collections.defaultdict(list)
    for device, index in place.addressable_devices_indices_map(leaf.shape).items():
        bounds = [part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True)]
        devices[tuple(bounds)].append(device)
    blocks = {
        bounds: (
            tuple(slice(*bound) for bound in bounds),
            _aligned([stop - start for start, stop in bounds], leaf.dtype),
        )
        for bounds in devices
    }
    table.fill_blocks(read, sources, list(blocks.values()))
    parts = [
        jax.device_put(block, device, may_alias=True)
        for bounds, (_, block) in blocks.items()
        for device in devices[bounds]
    ]
    return jax.block_until_ready(jax.make_array_from_single_device_arrays(leaf.shape, place, parts))


def _aligned(shape, dtype):
    """An empty array where JAX takes it over on a CPU, instead of copying it."""
    size, alignment = math.prod(shape) * np.dtype(dtype).itemsize, 64
    raw = np.empty(size + alignment, np.uint8)
    begin = -raw.ctypes.data % alignment
    return raw[begin : begin + size].view(dtype).reshape(shape)


def _save(folder, state, meta):
    made = folder if not folder.exists() else folder / CHECKPOINTS
    try:
        checkpoints = checkpoint.Checkpoints(folder / CHECKPOINTS)
        try:
            checkpoints.save(0, state, 0, meta)  # no input was read
        finally:
            checkpoints.close()
    except BaseException:
        _remove(made)
        raise


def _remove(folder):
    """Removes what was written, until nothing comes after.

    Where one array could not be written Orbax does not wait for the others: they still make files,
    and the folder again, while it is being removed or after.
    """
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
        if not folder.exists():
            return
    log.warning("%s is of the import that failed, and could not be removed", folder)
