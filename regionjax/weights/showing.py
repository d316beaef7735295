"""The table of a checkpoint's parameters: names, shapes, counts and bytes, without the values."""

import math
import pathlib

import numpy as np

from regionjax import checkpoint, parameters, tables
from regionjax.weights import architectures, table
from regionjax.weights.importing import CHECKPOINTS


def show(path):
    """Lines about a public checkpoint or about one of ours.

    Args:
      path: a Hugging Face directory, a .pth of ALBEF, an imported checkpoint or a run's folder.
    """
    step = checkpoint.latest_step(pathlib.Path(path) / CHECKPOINTS)
    return _public(path) if step is None else _ours(path, step)


def _public(path):
    found = architectures.identify(path)
    headers, rows = found.tensors.headers, found.architecture.rows(found.config)
    shapes = found.architecture.shapes(found.config, "float32")
    sources, ignored = table.check(headers, rows, shapes, str(path))
    lines = [("parameter", "shape", "dtype", "parameters", "bytes there", "tensor")]
    groups = {}
    for ours, leaf in tables.flatten(shapes).items():
        names = [name for name, _ in sources[ours]]
        dtypes = sorted({str(headers[name][1]) for name in names})
        count = math.prod(leaf.shape)
        size = sum(
            math.prod(piece.part_shape) * headers[name][1].itemsize for name, piece in sources[ours]
        )
        theirs = sources[ours][0][1].row.theirs
        lines.append((ours, _shape(leaf), " ".join(dtypes), f"{count:,}", f"{size:,}", theirs))
        _add(groups, ours, count, size)
    yield f"{path}: {found.architecture.name}"
    yield from parameters.aligned(lines)
    yield ""
    yield from _sums(groups, "bytes there")
    if ignored:
        size = sum(math.prod(headers[name][0]) * headers[name][1].itemsize for name in ignored)
        yield f"ignored: {len(ignored)} tensors, {size:,} bytes: {', '.join(ignored)}"


def _ours(path, step):
    lines, groups = [("parameter", "shape", "dtype", "parameters", "bytes")], {}
    for ours, leaf in checkpoint.params_in(pathlib.Path(path) / CHECKPOINTS, step).items():
        count = math.prod(leaf.shape)
        size = count * np.dtype(leaf.dtype).itemsize
        lines.append((ours, _shape(leaf), str(leaf.dtype), f"{count:,}", f"{size:,}"))
        _add(groups, ours, count, size)
    yield f"{path}: step {step}"
    yield from parameters.aligned(lines)
    yield ""
    yield from _sums(groups, "bytes")


def _shape(leaf):
    return "×".join(map(str, leaf.shape)) or "1"


def _add(groups, path, count, size):
    part = path.split("/")[0] if "/" in path else "(top)"
    for name in (part, "all"):
        before = groups.get(name, (0, 0))
        groups[name] = before[0] + count, before[1] + size


def _sums(groups, what):
    everything = groups.pop("all")
    rows = [("part", "parameters", what)]
    rows += [(name, f"{c:,}", f"{b:,}") for name, (c, b) in (*groups.items(), ("all", everything))]
    return parameters.aligned(rows)
