"""How a new run begins: which parameters come from a checkpoint, and the rest at random.

    "init_from": {
        "vit": {"path": "weights/siglip-so400m", "leave": ("/pool/",)},
        "decoder": {"path": "weights/gemma-2b", "extend": ("/embedding$",)},
    }

A key is the scope of the parameters here ("all": every parameter). `path` is an imported checkpoint
(python -m regionjax.weights import) or the folder of another run. Every parameter of the scope must
be in the checkpoint and the other way round, or a pattern says why not; what is in no scope begins
as in a new model, and so does what a system carries without training it.
"""

import dataclasses
import functools
import pathlib
import re

import jax
import numpy as np

from regionjax import checkpoint, sharding, tables
from regionjax.config import ConfigError, build, nearest
from regionjax.journal import log

ALL = "all"


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """Where the parameters of one scope come from.

    Patterns are searched for in whole paths, as in all tables; `params/pool/probe` is the path of
    a parameter of an imported tower, `params/vit/norm/scale` that of one here.

    Attributes:
      path: folder with `checkpoints/`.
      part: scope in the checkpoint; "" is all of it.
      step: of the checkpoint; -1 is the newest.
      leave: patterns of parameters there that are not taken.
      fresh: patterns of parameters here that are not there and begin at random.
      extend: patterns of parameters here that have more rows (axis 0) than there, as a vocabulary
        with new tokens has; the rows beyond begin at random.
      swap: two rows of `extend` that change places, as when id 0 becomes the padding.
    """

    path: str
    part: str = ""
    step: int = -1
    leave: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    extend: tuple[str, ...] = ()
    swap: tuple[int, ...] = ()

    def __post_init__(self):
        if len(self.swap) not in (0, 2):
            raise ValueError(f"swap = {self.swap}, expected the numbers of two rows")
        if self.swap and not self.extend:
            raise ValueError("swap needs extend, which names the tables whose rows change places")


@dataclasses.dataclass(frozen=True)
class Source:
    """One parameter's origin: `path` in the checkpoint `step` of `directory`.

    `scope` is ours; `rows` is None, or how many of ours are there; `swap` as in InitFrom.
    """

    directory: pathlib.Path
    step: int
    scope: str
    path: str
    rows: int | None
    swap: tuple


@dataclasses.dataclass(frozen=True)
class Start:
    """What `plan` found: {path of ours without `params/`: Source}, and a line a scope to log."""

    sources: dict
    told: tuple[str, ...]


def plan(sections, params):
    """Compares what is asked for with what the checkpoints have; reads no values.

    Args:
      sections: config.init_from.
      params: nested dictionary of ShapeDtypeStructs, those of the system.

    Raises:
      ConfigError: a scope, checkpoint or pattern that is not there, or one list of all parameters
        that do not fit.
    """
    ours, sources, told = tables.flatten(params), {}, []
    for key, section in sections.items():
        where = f"config.init_from.{key}"
        c = build(InitFrom, section, where)
        found, line = _of_scope(c, "" if key == ALL else key, ours, where)
        told.append(line)
        for path in found:
            if path in sources:
                raise ConfigError(f"{where}: {path} comes from {sources[path].directory} already")
        sources |= found
    return Start(sources, tuple(told))


def _of_scope(c, scope, ours, where):
    directory, step = _checkpoint(c, where)
    here = _within(ours, scope, f"{where}: this system")
    there = _within(checkpoint.params_in(directory, step), c.part, f"{where}.part: {directory}")
    prefix, part = (f"{name}/" if name else "" for name in (scope, c.part))
    leave = _matching(c.leave, there, part, f"{where}.leave")
    there = {name: array for name, array in there.items() if name not in leave}
    fresh = _matching(c.fresh, here, prefix, f"{where}.fresh")
    extend = _matching(c.extend, here, prefix, f"{where}.extend")
    here = {name: array for name, array in here.items() if name not in fresh}
    sources, problems = {}, []
    for name, array in here.items():
        if name not in there:
            problems.append(f"not there: {name}{_near(name, there)} (or name it in `fresh`)")
            continue
        shape = tuple(there[name].shape)
        longer = name in extend and len(shape) > 0 and shape[0] <= array.shape[0]
        if shape != array.shape and not (longer and shape[1:] == array.shape[1:]):
            hint = " (see `extend`)" if shape[1:] == array.shape[1:] else ""
            problems.append(f"shape: {name} is {list(shape)}, here {list(array.shape)}{hint}")
        if name in extend and any(row >= shape[0] for row in c.swap):
            problems.append(f"swap: {name} has {shape[0]} rows, swap = {c.swap}")
        rows = shape[0] if name in extend else None
        sources[prefix + name] = Source(directory, step, scope, part + name, rows, c.swap)
    for name in there:
        if name not in here:
            problems.append(f"not here: {name}{_near(name, here)} (or name it in `leave`)")
    if problems:
        problems.insert(0, f"{where}: {directory / str(step)} does not fit")
        raise ConfigError("\n  ".join(problems))
    taken = sum(ours[path].size for path in sources)
    origin = f"{c.path}, step {step}" + (f", part {c.part}" if c.part else "")
    told = f"{scope or ALL}: {taken:,} parameters in {len(sources)} arrays from {origin}"
    for what, names in (("left there", leave), ("at random here", fresh), ("extended", extend)):
        told += f"; {what}: {', '.join(sorted(names))}" if names else ""
    return sources, told


def _checkpoint(c, where):
    directory = pathlib.Path(c.path) / "checkpoints"
    step = checkpoint.latest_step(directory) if c.step == -1 else c.step
    if step is None or not (directory / str(step)).is_dir():
        number = "" if step is None else f" {step}"
        raise ConfigError(
            f"{where}: there is no checkpoint{number} in {directory}; "
            "`python -m regionjax.weights import` makes one of public weights"
        )
    return directory, step


def _within(arrays, scope, where):
    """The entries of {path: array} below a scope, by their paths below it."""
    prefix = f"{scope}/" if scope else ""
    found = {path[len(prefix) :]: leaf for path, leaf in arrays.items() if path.startswith(prefix)}
    if not found:
        scopes = dict.fromkeys(path.split("/")[0] for path in arrays)
        raise ConfigError(f"{where} has no parameters {prefix}…{nearest(scope, scopes)}")
    return found


def _matching(patterns, arrays, prefix, where):
    """Names whose whole path one of the patterns is found in; a pattern without any is an error."""
    found = set()
    for pattern in patterns:
        try:
            hits = {name for name in arrays if re.search(pattern, f"params/{prefix}{name}")}
        except re.error as error:
            raise ConfigError(f"{where}: {pattern!r} is no regular expression: {error}") from error
        if not hits:
            raise ConfigError(f"{where}: pattern {pattern!r} matches nothing")
        found |= hits
    return found


def _near(name, candidates):
    hint = nearest(name, candidates)  # all of them would bury the message
    return hint if hint.startswith("; did you mean") else ""


def begin(init, shapes, places, start):
    """The state of a new run, every array made where it belongs.

    What is read is not initialised first, so that no more lies on the devices than in any run.

    Args:
      init: () → TrainState.
      shapes, places: TrainState of ShapeDtypeStructs and of NamedShardings.
      start: from `plan`.
    """
    sources = start.sources
    for line in start.told:
        log.info("%s", line)
    whole = {path for path, source in sources.items() if source.rows is None}

    def new(state):
        rest = {path: x for path, x in tables.flatten(state.params).items() if path not in whole}
        return state.replace(params=tables.nest(rest))

    state = jax.jit(lambda: new(init()), out_shardings=new(places))()
    params = tables.flatten(state.params)
    arrays, spots = tables.flatten(shapes.params), tables.flatten(places.params)
    for path, value in _read(sources, arrays, spots).items():
        if sources[path].rows is not None:
            swap = sources[path].swap
            put = functools.partial(jax.jit, donate_argnums=0, out_shardings=spots[path])
            value = put(functools.partial(_put_rows, swap=swap))(params[path], value)
        params[path] = value
    for path in sorted(set(arrays) - set(sources)):
        log.debug("at random: params/%s", path)
    return state.replace(params=tables.nest(params))


def _put_rows(table, rows, swap):
    if swap:
        there = np.array(swap)
        rows = rows.at[there].set(rows[there[::-1]])
    return table.at[: rows.shape[0]].set(rows)


def _read(sources, arrays, places):
    """{path of ours: array}, one scope after the other."""
    scopes, found = {}, {}
    for path, source in sources.items():
        scopes.setdefault((source.directory, source.step, source.scope), []).append(path)
    for (directory, step, _), paths in scopes.items():
        wanted = {}
        for path in paths:
            shape, place, rows = arrays[path].shape, places[path], sources[path].rows
            if rows is not None:
                shape = (rows, *shape[1:])
                spec, _ = sharding.fit(place.spec, shape, dict(place.mesh.shape))
                place = jax.sharding.NamedSharding(place.mesh, spec)
            leaf = jax.ShapeDtypeStruct(shape, arrays[path].dtype, sharding=place)
            wanted[sources[path].path] = leaf
        read = tables.flatten(checkpoint.load_some_params(directory, step, tables.nest(wanted)))
        found |= {path: read[sources[path].path] for path in paths}
    return found
