"""Where every array lives: parameters by a table of path patterns, activations by name.

Parameters are sharded by a first-match table (regionjax/tables.py) from the system. The path of an
optimiser slot contains its parameter's, so one row places both. Activations are pinned at the few
places where a model calls `constrain(x, name)`; the compiler works out the rest. A mesh axis that
does not divide a dimension is dropped from it, and the parameter table says so.
"""

import math
import re

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from regionjax import tables
from regionjax.config import ConfigError, nearest

BATCH = ("data", "fsdp")  # the mesh axes that share the images out

ACTIVATIONS = {
    "batch": P(BATCH),  # [B, …]: anything whose first dimension is the images
    "image": P(BATCH, None, None, None),  # [B, S, S, 3]
    "tokens": P(BATCH, None, None),  # [B, S, D]
    "embedded": P("data", None, "fsdp"),  # [B, S, D], as it comes out of a table sharded over D
    "heads": P(BATCH, None, "tensor", None),  # [B, S, N, H]
    "hidden": P(BATCH, None, "tensor"),  # [B, S, F], inside an MLP
    "logits": P(BATCH, None, None, "tensor"),  # [B, R, T, V]
}

# The trainer's own numbers; systems need not know of them.
COUNTERS = re.compile(r"^(step|skipped|skipped_in_row)$|^opt_state/.*(count|ns_coeffs)$")


def constrain(x, name):
    """Pins `x` to the sharding of the named activation; without a mesh it returns `x` itself.

    Axes that do not divide a dimension (one KV head on two tensor shards, the one-image batch that
    a model is initialised with) leave it whole.

    Raises:
      ValueError: an unknown name, or an array of another rank than that activation has.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation is called {name!r}{nearest(name, ACTIVATIONS)}")
    spec = ACTIVATIONS[name]
    if name != "batch" and x.ndim != len(spec):
        raise ValueError(f"activation {name!r} has {len(spec)} dimensions, got shape {x.shape}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    # Inside shard_map an axis is Manual: the array is already one shard of it.
    sizes = {
        axis: size
        for axis, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    }
    return jax.lax.with_sharding_constraint(x, fit(spec, x.shape, sizes)[0])


def fit(spec, shape, sizes):
    """Cuts a PartitionSpec down to what divides the shape.

    Args:
      spec: PartitionSpec with at most as many entries as `shape` has dimensions.
      shape: of the array.
      sizes: {mesh axis: size}; axes of the spec that are not in it are dropped.

    Returns:
      The PartitionSpec, and the (axis, dimension) pairs that were dropped although in `sizes`.
    """
    entries, dropped = [], []
    for dimension, entry in enumerate(spec):
        axes = entry if isinstance(entry, tuple) else (entry,) if entry else ()
        kept = []
        for axis in axes:
            if axis not in sizes:
                continue
            if shape[dimension] % (math.prod(sizes[a] for a in kept) * sizes[axis]):
                dropped.append((axis, dimension))
            else:
                kept.append(axis)
        entries.append(tuple(kept) if len(kept) > 1 else kept[0] if kept else None)
    return P(*entries), dropped


def prefixed(rules, scope):
    """The rules of a part of a model, for the parameters below `scope`, such as "vit/"."""
    return tuple((scope + pattern, spec) for pattern, spec in rules)


def batch_sharding(mesh):
    """Images shared out over the `data` and `fsdp` axes, everything else of a batch whole."""
    return NamedSharding(mesh, P(BATCH))


def replicated(mesh):
    """Everything on every device."""
    return NamedSharding(mesh, P())


def placed(arrays, shardings):
    """ShapeDtypeStructs of `arrays` that carry their shardings."""
    return jax.tree.map(
        lambda array, place: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place),
        arrays,
        shardings,
    )


def state_shardings(state, rules, mesh):
    """Shardings of a whole train state, or of a model alone.

    Args:
      state: TrainState of ShapeDtypeStructs, or {"params": …, "state": …} of them.
      rules: the system's ((pattern, PartitionSpec), …) over paths such as
        `params/decoder/embedding`; `opt_state/1/mu/decoder/embedding` finds the same row.
      mesh: Mesh with the axes that the rules name.

    Returns:
      NamedShardings in the structure of `state`, and {path: [(axis, dimension), …]} of the axes
      that were dropped because they do not divide that dimension of that array.

    Raises:
      ConfigError: a path without a rule, a rule without a path, a rule of too high a rank or with
        an axis that the mesh does not have.
    """
    where, sizes = "sharding rules", dict(mesh.shape)
    arrays = tables.flatten(state)
    found = tables.lookup(rules, [path for path in arrays if not COUNTERS.search(path)], where)
    shardings, dropped = [], {}
    for path, array in arrays.items():
        spec, shape = found.get(path, P()), array.shape
        _check_axes(spec, path, sizes, where)
        if len(spec) > len(shape):
            if not path.startswith("opt_state/"):
                raise ConfigError(f"{where}: {spec} has more entries than {path} {list(shape)}")
            spec = P()  # a factored slot does not have its parameter's rank
        spec, lost = fit(spec, shape, sizes)
        shardings.append(NamedSharding(mesh, spec))
        if lost:
            dropped[path] = lost
    return jax.tree.unflatten(jax.tree.structure(state), shardings), dropped


def _check_axes(spec, path, sizes, where):
    for entry in spec:
        for axis in entry if isinstance(entry, tuple) else (entry,):
            if axis is not None and axis not in sizes:
                raise ConfigError(f"{where}: {path} names mesh axis {axis!r}{nearest(axis, sizes)}")
