"""The table of parameters: what each is, where it lives and how it is trained."""

import itertools
import math

import numpy as np

from regionjax import tables

# Arrays of a parameter's own size that the optimiser keeps: AdamW's two moments, Muon's one.
SLOTS = {"": 2, "muon": 1, "frozen": 0}


def describe(params, shardings, optimizer, dropped):
    """One line a parameter, for the log file.

    Args:
      params, shardings: nested dictionaries of ShapeDtypeStructs and NamedShardings.
      optimizer: Optimizer, whose tables are shown.
      dropped: {path: [(axis, dimension), …]} from sharding.state_shardings.
    """
    places = tables.flatten(shardings, "params")
    header = ("path", "shape", "dtype", "sharding", "rate ×", "decay", "")
    rows = [header]
    for path, array in tables.flatten(params, "params").items():
        note = _treatment(optimizer, path)
        if note == "muon":
            note += f" {optimizer.muon[path]}"
        for axis, dimension in dropped.get(path, ()):
            note += f" {axis} does not divide {array.shape[dimension]}: left whole"
        rows.append(
            (
                path,
                "×".join(map(str, array.shape)),
                str(array.dtype),
                _spec(places[path]),
                f"{optimizer.multipliers[path]:g}",
                f"{optimizer.decay[path]:g}",
                note.strip(),
            )
        )
    return aligned(rows)


def summarize(params, shardings, optimizer, dropped):
    """A few lines for the console: parameters of one part with one treatment share a line."""
    places = tables.flatten(shardings, "params")
    groups = {}
    for path, array in tables.flatten(params, "params").items():
        treatment = (
            path.split("/")[1],
            _treatment(optimizer, path),
            f"{optimizer.multipliers[path]:g}",
            f"{optimizer.decay[path]:g}",
        )
        group = groups.setdefault(treatment, {"count": 0, "bytes": 0, "slots": 0, "whole": 0})
        size = shard_bytes(array, places[path])
        group["count"] += math.prod(array.shape)
        group["bytes"] += size
        group["slots"] += size * SLOTS[_treatment(optimizer, path)]
        group["whole"] += path in dropped
    rows = [("part", "parameters", "MiB a device", "slots, MiB", "rate ×", "decay", "")]
    for (part, treatment, rate, decay), group in groups.items():
        whole = f"{group['whole']} less sharded than the rules say" if group["whole"] else ""
        note = ", ".join(filter(None, (treatment, whole)))
        sizes = [f"{group[kind] / 2**20:.2f}" for kind in ("bytes", "slots")]
        rows.append((part, f"{group['count']:,}", *sizes, rate, decay, note))
    return aligned(rows)


def _treatment(optimizer, path):
    if optimizer.frozen[path]:
        return "frozen"
    return "muon" if optimizer.muon[path] else ""


def shard_bytes(array, sharding):
    """Bytes of one array on one device."""
    return math.prod(sharding.shard_shape(array.shape)) * np.dtype(array.dtype).itemsize


def _spec(sharding):
    return "(" + ", ".join("-" if entry is None else str(entry) for entry in sharding.spec) + ")"


def aligned(rows):
    """Rows of texts as lines, in columns of one width each."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
