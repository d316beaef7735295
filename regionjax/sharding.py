"""Where every array lives: parameters by a table of path patterns, activations by name.

Parameters are sharded by a first-match table (regionjax/tables.py) from the system. An optimiser
slot lives where its parameter lives. Activations are pinned at the few places where a model calls
`constrain(x, name)`; the compiler works out the rest. A mesh axis that does not divide a dimension
is dropped from it, and the parameter table says so.
"""

import math

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
    "heads": P(BATCH, None, "tensor", None),  # [B, S, N, H]
    "hidden": P(BATCH, None, "tensor"),  # [B, S, F], inside an MLP
    "logits": P(BATCH, None, None, "tensor"),  # [B, R, T, V]
}


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


def batch_sharding(mesh):
    """Images shared out over the `data` and `fsdp` axes, everything else of a batch whole."""
    return NamedSharding(mesh, P(BATCH))


def state_shardings(state, rules, mesh):
    """Shardings of a whole train state.

    Args:
      state: TrainState of ShapeDtypeStructs (regionjax/step.py).
      rules: ((pattern, PartitionSpec), …) over `params/…` and `state/…` paths.
      mesh: Mesh with the axes that the rules name.

    Returns:
      A TrainState of NamedShardings, and {path: [(axis, dimension), …]} of the axes that were
      dropped because they do not divide that dimension of that array.

    Raises:
      ConfigError: a path without a rule, a rule without a path, a rule of too high a rank or with
        an axis that the mesh does not have.
    """
    where = "sharding rules"
    arrays = tables.flatten(state.params, "params") | tables.flatten(state.state, "state")
    dropped, specs = {}, {}
    sizes = dict(mesh.shape)
    for path, spec in tables.lookup(rules, arrays, where).items():
        shape = arrays[path].shape
        _check(spec, path, shape, sizes, where)
        specs[path], lost = fit(spec, shape, sizes)
        if lost:
            dropped[path] = lost

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = specs[name] if name in specs else _slot_spec(name, leaf, arrays, specs)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, state), dropped


def _slot_spec(name, leaf, arrays, specs):
    """The spec of the parameter whose path ends `name`; whole for counters and odd-shaped slots.

    `opt_state/mu/decoder/embedding` is a slot of `params/decoder/embedding`. Factored slots do not
    have their parameter's shape, so its spec would not fit them.
    """
    parts = name.split("/")
    for start in range(1, len(parts)):
        owner = "/".join(["params", *parts[start:]])
        if owner in specs:
            return specs[owner] if arrays[owner].shape == leaf.shape else P()
    return P()


def _check(spec, path, shape, sizes, where):
    if len(spec) > len(shape):
        raise ConfigError(f"{where}: {spec} has more entries than {path} {list(shape)}")
    for entry in spec:
        for axis in entry if isinstance(entry, tuple) else (entry,):
            if axis is not None and axis not in sizes:
                raise ConfigError(f"{where}: {path} names mesh axis {axis!r}{nearest(axis, sizes)}")
