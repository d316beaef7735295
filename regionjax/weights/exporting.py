"""From one of our checkpoints back to a directory that transformers loads."""

import pathlib

import jax.numpy as jnp

from regionjax import checkpoint, tables
from regionjax.checkpoint import OnHost
from regionjax.config import nearest
from regionjax.journal import log
from regionjax.weights import architectures, files, table
from regionjax.weights.importing import CHECKPOINTS, origin
from regionjax.weights.table import WeightsError

SHARD_BYTES = 5 * 10**9


def export_weights(folder, out, *, step=None, part="", like=None, shard_bytes=SHARD_BYTES):
    """Writes a new directory `out` with config.json and safetensors.

    Tensors get the dtypes that they were imported with, so import and export give the same bits.

    Args:
      folder: an imported checkpoint, or the folder of a run.
      step: of the checkpoint; default the newest.
      part: scope of the run's parameters, such as "decoder"; "" stands for all.
      like: an imported checkpoint whose architecture and config `part` has; default `folder`.
      shard_bytes: largest size of a file.

    Raises:
      WeightsError: the parameters are not those of the architecture; nothing is written then.
    """
    said = origin_of(like or folder)
    architecture, config = reopened(said)
    params = load_part(folder, step, part, architecture.shapes(config, "float32"))
    write(params, architecture.rows(config), said, out, shard_bytes)
    log.info("%s", out)


def write(params, rows, said, out, shard_bytes):
    """Parameters (numpy) as a directory, `said` being `importing.origin`."""
    leaves = tables.flatten(params)
    pieces = table.by_tensor(table.expand(rows, params))
    headers = {
        name: (group[0].whole_shape, jnp.dtype(said["dtypes"][name]))
        for name, group in pieces.items()
    }

    def produce(name):
        return table.join(pieces[name], lambda path, index: leaves[path][index])

    files.write_directory(out, said["config"], headers, produce, shard_bytes)


def origin_of(folder):
    """`importing.origin`, which must be there."""
    checkpoints = pathlib.Path(folder) / CHECKPOINTS
    step = checkpoint.latest_step(checkpoints)
    if step is None:
        raise WeightsError(f"there is no checkpoint in {checkpoints}")
    said = origin(folder, step)
    if said is None:
        raise WeightsError(
            f"{folder} is a run of our own; --like names the imported checkpoint, and --part the "
            "scope of the run's parameters that has its architecture"
        )
    return said


def reopened(said):
    """(Architecture, config) of an `importing.origin`."""
    architecture = architectures.ARCHITECTURES[said["architecture"]]
    return architecture, architectures.configured(architecture, said["config"], said["dtypes"])


def load_part(folder, step, part, shapes):
    """Parameters of a scope as nested numpy arrays, compared with `shapes` first."""
    checkpoints = pathlib.Path(folder) / CHECKPOINTS
    step = checkpoint.latest_step(checkpoints) if step is None else step
    if step is None:
        raise WeightsError(f"there is no checkpoint in {checkpoints}")
    there = within(checkpoint.params_in(checkpoints, step), part, checkpoints / str(step))
    wanted = tables.flatten(shapes)
    problems = [f"missing: {path}{nearest(path, there)}" for path in wanted if path not in there]
    problems += [f"extra: {path}" for path in there if path not in wanted]
    problems += [
        f"shape: {path} is {list(there[path].shape)}, the config needs {list(leaf.shape)}"
        for path, leaf in wanted.items()
        if path in there and tuple(there[path].shape) != tuple(leaf.shape)
    ]
    if problems:
        raise WeightsError("\n  ".join([f"{folder}, part {part!r}, does not fit:", *problems]))
    prefix = f"{part}/" if part else ""
    wanted = tables.nest(
        {prefix + path: OnHost(tuple(leaf.shape), leaf.dtype) for path, leaf in there.items()}
    )
    params = checkpoint.load_some_params(checkpoints, step, wanted)
    for scope in filter(None, part.split("/")):
        params = params[scope]
    return params


def within(arrays, part, where):
    """The entries of {path: array} in a scope, by their paths in it."""
    prefix = f"{part}/" if part else ""
    found = {path[len(prefix) :]: leaf for path, leaf in arrays.items() if path.startswith(prefix)}
    if not found:
        scopes = sorted({path.split("/")[0] for path in arrays})
        raise WeightsError(f"{where} has no part {part}{nearest(part, scopes)}")
    return found
