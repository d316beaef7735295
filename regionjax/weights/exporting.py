"""From one of our checkpoints back to files that transformers, PEFT or ALBEF's code load."""

import dataclasses
import pathlib

import jax.numpy as jnp

from regionjax import checkpoint, lora, tables
from regionjax.checkpoint import OnHost
from regionjax.config import nearest
from regionjax.journal import log
from regionjax.weights import adapters, architectures, files, table
from regionjax.weights.importing import CHECKPOINTS, origin, reopened
from regionjax.weights.table import WeightsError

SHARD_BYTES = 5 * 10**9
LORA = ("merge", "peft")


def export_weights(
    folder, out, *, step=None, part="", like=None, lora_as="merge", shard_bytes=SHARD_BYTES
):
    """Writes `out`: a new directory that transformers loads, or for ALBEF a .pth.

    Tensors get the dtypes that they were imported with, so import and export give the same bits.
    Where a run has given a language model more words, config.json says how many there are now.

    Args:
      folder: an imported checkpoint, or the folder of a run.
      step: of the checkpoint; default the newest.
      part: scope of the run's parameters, such as "decoder"; "" stands for all.
      like: an imported checkpoint whose architecture and config `part` has; default `folder`.
      lora_as: what becomes of adapters: "merge" adds them to the kernels, "peft" writes them alone
        in PEFT's format.
      shard_bytes: largest size of a file.

    Raises:
      WeightsError: the parameters are not those of the architecture; nothing is written then.
    """
    if lora_as not in LORA:
        raise WeightsError(f"adapters as {lora_as!r}{nearest(lora_as, LORA)}")
    if not shard_bytes > 0:
        raise WeightsError(f"files of at most {shard_bytes} bytes; expected a number above 0")
    files.must_be_new(out)
    said = _origin_of(like or folder)
    architecture, config = reopened(said)
    directory, step = _newest(folder, step)
    there = within(checkpoint.params_in(directory, step), part, directory / str(step))
    said, config = _as_many_words(said, config, there)
    params = _load(directory, step, part, there, architecture.shapes(config, "float32"))
    dtypes = _dtypes(architecture.rows(config), said, params)
    values = said["values"]
    if architecture.tower:  # of a larger model, this part alone is ours
        values = architecture.tower(config)
        architecture = architectures.known(values, "the exported config")
    rows = architecture.rows(config)
    if lora_as == "peft":
        if lora.SCOPE not in params:
            raise WeightsError(f"{folder} has no adapters there; export without --lora peft")
        adapters.write(params, _alpha(directory, step), rows, out, base=said["source"])
    else:
        if lora.SCOPE in params:
            params = lora.merge(params, _alpha(directory, step))
        headers, produce = _theirs(params, rows, dtypes)
        if architecture.name == "ALBEF":
            files.write_torch(out, headers, produce)
        else:
            files.write_directory(out, values, headers, produce, shard_bytes)
    log.info("%s", out)


def _dtypes(rows, said, params):
    """{(path of ours, index): dtype that its tensor was imported with}."""
    base = {name: tree for name, tree in params.items() if name != lora.SCOPE}
    return {
        (piece.ours, piece.index): said["tensors"][piece.theirs][0]
        for piece in table.expand(rows, base)
    }


def _theirs(params, rows, dtypes):
    """{name: (shape, dtype)} of the tensors to write, and name → numpy array."""
    pieces = table.by_tensor(table.expand(rows, params))
    headers = {
        name: (group[0].whole_shape, jnp.dtype(dtypes[group[0].ours, group[0].index]))
        for name, group in pieces.items()
    }
    leaves = tables.flatten(params)

    def produce(name):
        return table.join(pieces[name], lambda path, index: leaves[path][index])

    return headers, produce


def _origin_of(folder):
    """`importing.origin`, which must be there."""
    said = origin(folder, _newest(folder, None)[1])
    if said is None:
        raise WeightsError(
            f"{folder} is a run of our own; --like names the imported checkpoint, and --part the "
            "scope of the run's parameters that has its architecture"
        )
    return said


def _newest(folder, step):
    """(folder of the checkpoints, step)."""
    directory = pathlib.Path(folder) / CHECKPOINTS
    step = checkpoint.latest_step(directory) if step is None else step
    if step is None or not (directory / str(step)).is_dir():
        which = "checkpoint" if step is None else f"checkpoint {step}"
        raise WeightsError(f"there is no {which} in {directory}")
    return directory, step


def _alpha(directory, step):
    return checkpoint.load_meta(directory, step)["config"]["lora"]["alpha"]


def _as_many_words(said, config, there):
    """Origin and config of a language model whose vocabulary a run may have extended."""
    table = there.get("embedding")
    if table is None or table.shape[0] == getattr(config, "vocabulary", table.shape[0]):
        return said, config
    count = table.shape[0]
    values = {**said["values"], "vocab_size": count}
    return {**said, "values": values}, dataclasses.replace(config, vocabulary=count)


def _load(directory, step, part, there, shapes):
    """Parameters of a scope, {path: metadata} `there`, as nested numpy arrays.

    They are compared with `shapes` first. Adapters of that scope are in it as `lora`.
    """
    wanted = tables.flatten(shapes)
    problems = [f"missing: {path}{nearest(path, there)}" for path in wanted if path not in there]
    for path, leaf in there.items():
        if path not in wanted:
            problems.append(f"extra: {path}{nearest(path, wanted)}")
        elif tuple(leaf.shape) != wanted[path].shape:
            shape = list(wanted[path].shape)
            problems.append(f"shape: {path} is {list(leaf.shape)}, the config needs {shape}")
    if problems:
        what = f"{directory / str(step)}" + (f", part {part}" if part else "")
        raise WeightsError("\n  ".join([f"{what} does not fit the config:", *problems]))
    found = _read(directory, step, part, there)
    scope = f"{lora.SCOPE}/{part}".rstrip("/")
    if adapted := within(checkpoint.params_in(directory, step), scope, None):
        found[lora.SCOPE] = _read(directory, step, scope, adapted)
    return found


def _read(directory, step, scope, arrays):
    prefix = f"{scope}/" if scope else ""
    wanted = {prefix + path: OnHost(tuple(x.shape), x.dtype) for path, x in arrays.items()}
    found = checkpoint.load_some_params(directory, step, tables.nest(wanted))
    for name in filter(None, scope.split("/")):
        found = found[name]
    return found


def within(arrays, part, where):
    """The entries of {path: array} in a scope, by their paths in it.

    Raises:
      WeightsError: there are none, unless `where` is None.
    """
    prefix = f"{part}/" if part else ""
    found = {path[len(prefix) :]: leaf for path, leaf in arrays.items() if path.startswith(prefix)}
    if not part:  # adapters are no part of the model itself
        found = {path: x for path, x in found.items() if not path.startswith(f"{lora.SCOPE}/")}
    if not found and where is not None:
        scopes = sorted({path.split("/")[0] for path in arrays})
        raise WeightsError(f"{where} has no part {part}{nearest(part, scopes)}")
    return found
