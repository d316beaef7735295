"""AdamW with warm-up, cosine decay and clipping; tables say what holds for which parameter.

Three first-match tables over paths such as `params/decoder/layers/mlp_out/kernel`: learning-rate
multipliers, weight decay, frozen. A frozen parameter has no gradient, no optimiser slot and no
update: the parameters are split before the gradient is taken.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from regionjax import tables
from regionjax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Settings of the optimiser.

    The learning rate rises linearly over the first `warmup_fraction` of the run, then falls along
    a cosine towards `final_fraction` of its peak, reached when the run is over. Weight decay is
    decoupled and scaled by the learning rate, as in AdamW.
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
    frozen: tuple = ((".*", False),)

    def __post_init__(self):
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}, expected 0 to 1")
        for name in ("learning_rate", "clip_norm", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}, expected a positive number")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What `make_optimizer` returns: tables looked up, rules ready to apply.

    Attributes:
      schedule: (step) → learning rate before multipliers.
      multipliers, decay: {path: float} of every parameter.
      frozen: {path: bool} of every parameter.
      moments: the optax transformation with the slots (clipping and Adam).
    """

    schedule: optax.Schedule
    multipliers: dict
    decay: dict
    frozen: dict
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
        """One step of AdamW.

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
            name = "params/" + jax.tree_util.keystr(path, simple=True, separator="/")
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
    return Optimizer(
        schedule=_schedule(config, steps),
        multipliers=look(
            "learning_rate_multipliers", lambda v: _number(v) and v > 0, "a number above 0"
        ),
        decay=look("weight_decay", lambda v: _number(v) and v >= 0, "a number of at least 0"),
        frozen=frozen,
        moments=optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
        ),
    )


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
