"""One training step, as pure functions: nothing here touches a device.

The trainer runs the step, the planner compiles it for slices that are not there; both build it
here. `step` means steps completed. The randomness of a step is a function of (seed, step).
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from regionjax import sharding
from regionjax.config import ConfigError, nearest


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    `state` is what the system carries without training it. `skipped` counts the updates that were
    left out because a loss or gradient was not finite, `skipped_in_row` the latest unbroken run.
    """

    step: jax.Array  # i32 []
    params: dict
    state: dict
    opt_state: optax.OptState
    skipped: jax.Array  # i32 []
    skipped_in_row: jax.Array  # i32 []


def check_loss_weights(weights, system):
    """Raises ConfigError unless config.losses weighs exactly the losses that the system has."""
    for name, weight in weights.items():
        if name not in system.loss_names:
            raise ConfigError(f"config.losses.{name} is no loss{nearest(name, system.loss_names)}")
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ConfigError(f"config.losses.{name} = {weight!r}, expected a number ≥ 0")
    for name in system.loss_names:
        if name not in weights:
            raise ConfigError(f"config.losses.{name} is missing; 0 leaves it out")
    if not any(weights.values()):
        raise ConfigError("config.losses are all 0; nothing is left to train")


def init_model(system, seed, spec):
    """{"params", "state"} of a new model; for jax.jit with out_shardings or jax.eval_shape.

    Args:
      system: System.
      seed: of the run.
      spec: BatchSpec.
    """
    batch = {name: jnp.zeros(field.shape, field.dtype) for name, field in spec.abstract(1).items()}
    params, state = system.init(_keys(seed)[0], batch)
    return {"params": params, "state": state}


def init_state(system, optimizer, seed, spec):
    """TrainState of a new run; for jax.jit with out_shardings or jax.eval_shape."""
    model = init_model(system, seed, spec)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=model["params"],
        state=model["state"],
        opt_state=optimizer.init(model["params"]),
        skipped=zero,
        skipped_in_row=zero,
    )


def make_train_step(system, optimizer, loss_weights, *, seed, microbatches, shardings):
    """The function (TrainState, batch) → (TrainState, metrics).

    A loss is the sum over the whole batch divided by the weight of the whole batch, also when the
    batch is taken in several micro-batches: the weights are added up first, which costs no forward
    pass as they are functions of the batch alone.

    Args:
      system: System.
      optimizer: Optimizer.
      loss_weights: {loss name: float}.
      seed: of the run.
      microbatches: number of parts that a batch is taken in, to save memory.
      shardings: TrainState of NamedShardings.

    Returns:
      The function. Its metrics are scalars: f32 `loss`, `loss/<name>`, `gradient_norm`,
      `learning_rate`, `data/slots_filled` (share of the slots with a supervised token); i32
      `regions` (their number), `bad` (unreadable images), `long_texts` (cut or left out),
      `first_example` and `last_example` (of the batch), `skipped`, `skipped_in_row`.
    """
    gradient_shardings = optimizer.split(shardings.params)[0]

    def part_loss(trainable, frozen, state, batch, rng, totals):
        params = optimizer.merge(trainable, frozen)
        terms, state, extras = system.losses(params, state, batch, rng, True)
        if totals is None:
            totals = {name: weight for name, (_, weight) in terms.items()}
        means = {name: _mean(total, totals[name]) for name, (total, _) in terms.items()}
        loss = sum(loss_weights[name] * mean for name, mean in means.items())
        return loss, (means, state, extras)

    part_gradient = jax.value_and_grad(part_loss, has_aux=True)

    def whole(trainable, frozen, state, batch, rng):
        (loss, (means, state, extras)), gradients = part_gradient(
            trainable, frozen, state, batch, jax.random.fold_in(rng, 0), None
        )
        return gradients, loss, means, state, extras

    def in_parts(trainable, frozen, state, batch, rng):
        # Only the weights of this call are used, so the compiler drops the rest of it.
        params = optimizer.merge(trainable, frozen)
        terms = system.losses(params, state, batch, rng, True)[0]
        totals = {name: weight for name, (_, weight) in terms.items()}

        def add(carry, part):
            index, images = part
            gradients, state = carry
            (loss, (means, state, extras)), more = part_gradient(
                trainable, frozen, state, images, jax.random.fold_in(rng, index), totals
            )
            gradients = jax.tree.map(jnp.add, gradients, more)
            return (gradients, state), (loss, means, extras)

        zeros = jax.tree.map(jnp.zeros_like, trainable)
        zeros = jax.lax.with_sharding_constraint(zeros, gradient_shardings)
        parts = (jnp.arange(microbatches), _parts(batch, microbatches))
        (gradients, state), sums = jax.lax.scan(add, (zeros, state), parts)
        loss, means, extras = jax.tree.map(lambda x: x.sum(0), sums)
        return gradients, loss, means, state, extras

    gradient = whole if microbatches == 1 else in_parts

    def train_step(old, batch):
        trainable, frozen = optimizer.split(old.params)
        rng = jax.random.fold_in(_keys(seed)[1], old.step)
        gradients, loss, means, state, extras = gradient(trainable, frozen, old.state, batch, rng)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        moved, opt_state = optimizer.update(gradients, old.opt_state, trainable, old.step)

        def keep(new, current):
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, current)

        new = TrainState(
            step=old.step + 1,
            params=optimizer.merge(keep(moved, trainable), frozen),
            state=keep(state, old.state),
            opt_state=keep(opt_state, old.opt_state),
            skipped=old.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, old.skipped_in_row + 1),
        )
        filled = batch["target_weight"].max(-1) > 0
        metrics = {
            "loss": loss,
            **{f"loss/{name}": mean for name, mean in means.items()},
            **{name: _mean(*pair) for name, pair in extras.items()},
            "gradient_norm": norm,
            "learning_rate": optimizer.schedule(old.step),
            "regions": filled.sum(),
            "data/slots_filled": filled.mean(),
            "bad": batch["bad"].sum(),
            "long_texts": batch["long_texts"].sum(),
            "first_example": batch["example"].min(),
            "last_example": batch["example"].max(),
            "skipped": new.skipped,
            "skipped_in_row": new.skipped_in_row,
        }
        return new, metrics

    return train_step


def lower_train_step(train_step, state, batch):
    """The step, traced for given shapes and places; `.compile()` makes it runnable.

    Args:
      train_step: from `make_train_step`.
      state, batch: ShapeDtypeStructs with shardings (`sharding.placed`). The state's buffers are
        donated: the new state takes the old one's memory.
    """
    places = jax.tree.map(lambda array: array.sharding, state)
    metrics = sharding.replicated(places.step.mesh)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(places, metrics)).lower(
        state, batch
    )


def _keys(seed):
    """Independent streams for initialisation and for the steps."""
    return jax.random.split(jax.random.key(seed))


def _mean(total, weight):
    # Without any weight (no location target in this batch, say) the sum is 0 as well.
    return total / jnp.where(weight > 0, weight, 1)


def _parts(batch, count):
    """[B, …] → [count, B/count, …], without moving an image to another device.

    Every device holds consecutive rows, so part i takes rows i, i + count, i + 2·count, …
    """
    rows = P(None, sharding.BATCH)

    def cut(field):
        parts = field.reshape(-1, count, *field.shape[1:]).swapaxes(0, 1)
        mesh = jax.sharding.get_abstract_mesh()
        return parts if mesh.empty else jax.lax.with_sharding_constraint(parts, rows)

    return jax.tree.map(cut, batch)
