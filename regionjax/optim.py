"""AdamW and Muon with warm-up, cosine decay and clipping; tables say what holds where.

Four first-match tables over paths such as `params/decoder/layers/mlp_out/kernel`: learning-rate
multipliers, weight decay, Muon, frozen. A frozen parameter has no gradient, no optimiser slot and
no update: the parameters are split before the gradient is taken.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import traverse_util

from regionjax import tables
from regionjax.config import ConfigError

ROOT_MEAN_SQUARE = 0.2  # of Muon's directions, times the learning rate: arXiv:2502.16982, eq. 4


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Settings of the optimiser.

    The learning rate rises linearly over the first `warmup_fraction` of the run, then falls along
    a cosine towards `final_fraction` of its peak, reached when the run is over. Weight decay is
    decoupled and scaled by the learning rate, as in AdamW.

    The table `muon` names the kernels whose momentum is made orthogonal before it is applied
    (https://kellerjordan.github.io/posts/muon), and says how each is a matrix: one letter an axis,
    `i` what it reads, `o` what it writes, `b` several matrices (layers, or heads one by one). So a
    stacked query kernel [L, D, N, H] is "bioo", or "bibo" by heads. "" leaves a parameter to Adam.
    Directions are scaled to a root mean square near Adam's, so that one schedule suits both.
    """

    learning_rate: float
    warmup_fraction: float = 0.05
    final_fraction: float = 0.0
    clip_norm: float = 1.0  # of the whole gradient; must be positive
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    learning_rate_multipliers: tuple = ((".*", 1.0),)
    weight_decay: tuple = ((".*", 0.0),)
    muon: tuple = ((".*", ""),)
    muon_momentum: float = 0.95
    muon_iterations: int = 5  # of Newton and Schulz, towards the nearest orthogonal matrix
    frozen: tuple = ((".*", False),)

    def __post_init__(self):
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}, expected 0 to 1")
        for name in ("learning_rate", "clip_norm", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}, expected a positive number")
        if not 0 <= self.muon_momentum < 1:
            raise ValueError(f"muon_momentum = {self.muon_momentum}, expected 0 to below 1")
        if self.muon_iterations < 1:
            raise ValueError(f"muon_iterations = {self.muon_iterations}, expected 1 or more")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What `make_optimizer` returns: tables looked up, rules ready to apply.

    Attributes:
      schedule: (step) → learning rate before multipliers.
      multipliers, decay: {path: float} of every parameter.
      frozen: {path: bool} of every parameter.
      muon: {path: axes} of every parameter, "" for Adam's.
      moments: the optax transformation with the slots (clipping, Adam, Muon).
    """

    schedule: optax.Schedule
    multipliers: dict
    decay: dict
    frozen: dict
    muon: dict
    moments: optax.GradientTransformation

    def split(self, params):
        """(trainable, frozen): two nested dictionaries that `merge` puts together again."""
        flat = traverse_util.flatten_dict(params, sep="/")
        parts = {True: {}, False: {}}
        for path, value in flat.items():
            parts[self.frozen[f"params/{path}"]][path] = value
        return tuple(traverse_util.unflatten_dict(parts[key], sep="/") for key in (False, True))

    def merge(self, trainable, frozen):
        """The whole tree of parameters again."""
        flat = traverse_util.flatten_dict(trainable) | traverse_util.flatten_dict(frozen)
        return traverse_util.unflatten_dict(flat)

    def init(self, params):
        """Slots of the trainable parameters."""
        return self.moments.init(self.split(params)[0])

    def update(self, gradients, slots, trainable, step):
        """One step.

        Args:
          gradients: like `trainable`.
          slots: from `init` or the previous call.
          trainable: nested dictionary of parameters, from `split`.
          step: i32 scalar, steps completed before this one; it alone sets the learning rate.

        Returns:
          New trainable parameters and new slots.
        """
        directions, slots = self.moments.update(gradients, slots, trainable)
        rate = self.schedule(step)

        def move(path, value, direction):
            name = _name(path)
            decayed = direction + self.decay[name] * value
            return (value - rate * self.multipliers[name] * decayed).astype(value.dtype)

        return jax.tree_util.tree_map_with_path(move, trainable, directions), slots


def make_optimizer(config, steps, params):
    """Optimizer for `params`.

    Args:
      config: OptimConfig.
      steps: length of the run, for the schedule.
      params: nested dictionary of arrays or ShapeDtypeStructs.

    Raises:
      ConfigError: a table that does not cover the parameters, has a dead row or a wrong value.
    """
    paths = tables.flatten(params, "params")

    def look(name, fits, expected):
        where = f"config.optim.{name}"
        found = tables.lookup(getattr(config, name), paths, where)
        for path, value in found.items():
            if not fits(value):
                raise ConfigError(f"{where}: {value!r} for {path}, expected {expected}")
        return found

    frozen = look("frozen", lambda value: isinstance(value, bool), "True or False")
    if all(frozen.values()):
        raise ConfigError("config.optim.frozen freezes every parameter; nothing is left to train")
    muon = look("muon", lambda value: isinstance(value, str), "letters b, i and o, or ''")
    for path, axes in muon.items():
        if axes and (len(axes) != paths[path].ndim or not {"i", "o"} <= set(axes) <= set("bio")):
            raise ConfigError(
                f"config.optim.muon: {axes!r} for {path} of shape {list(paths[path].shape)}, "
                "expected one letter an axis: i and o, and b for several matrices"
            )
    return Optimizer(
        schedule=_schedule(config, steps),
        multipliers=look(
            "learning_rate_multipliers", lambda v: _number(v) and v > 0, "a number above 0"
        ),
        decay=look("weight_decay", lambda v: _number(v) and v >= 0, "a number of at least 0"),
        frozen=frozen,
        muon=muon,
        moments=optax.chain(optax.clip_by_global_norm(config.clip_norm), _moments(config, muon)),
    )


def _moments(config, muon):
    """Adam, or Muon where the table {path: axes} says so."""
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon)
    if not any(muon.values()):
        return adam

    def matrices(tree):
        def matrix(path, _):
            axes = muon[_name(path)]
            which = lambda letter: tuple(i for i, axis in enumerate(axes) if axis == letter)  # noqa: E731
            return optax.contrib.MuonDimensionNumbers(which("i"), which("o"))

        return jax.tree_util.tree_map_with_path(matrix, tree)

    def scale(updates, _):
        def one(path, update):
            sizes = {letter: 1 for letter in "bio"}
            for letter, size in zip(muon[_name(path)], update.shape, strict=True):
                sizes[letter] *= size
            return update * (ROOT_MEAN_SQUARE * math.sqrt(max(sizes["i"], sizes["o"])))

        return jax.tree_util.tree_map_with_path(one, updates)

    def labels(tree):
        label = lambda path, _: "muon" if muon[_name(path)] else "adam"  # noqa: E731
        return jax.tree_util.tree_map_with_path(label, tree)

    orthogonal = optax.chain(
        optax.contrib.scale_by_muon(
            ns_steps=config.muon_iterations,
            beta=config.muon_momentum,
            weight_dimension_numbers=matrices,
        ),
        optax.stateless(scale),
    )
    return optax.partition({"adam": adam, "muon": orthogonal}, labels)


def _name(path):
    return "params/" + jax.tree_util.keystr(path, simple=True, separator="/")


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _schedule(config, steps):
    warmup = config.warmup_fraction * steps

    def rate(step):
        # The first step moves already, and the last one still does when final_fraction is 0.
        step = jnp.asarray(step, jnp.float32)
        rising = (step + 1) / max(warmup, 1.0)
        progress = jnp.clip((step - warmup) / (steps - warmup), 0, 1) if steps > warmup else 0.0
        cosine = 0.5 * (1 + jnp.cos(math.pi * progress))
        falling = config.final_fraction + (1 - config.final_fraction) * cosine
        return config.learning_rate * jnp.where(step < warmup, jnp.minimum(rising, 1), falling)

    return rate
