"""LoRA (Hu et al. 2021): y = x·W + alpha / r · (x·a)·b, for every dense layer that a table names.

    "lora": {"ranks": (("decoder/layers/(query|value)/", 16), (".*", 0)), "alpha": 32.0},
    "optim": {"frozen": (("^params/(vit|decoder)/", True), (".*", False)), …},

Adapters are a scope of their own in the parameters: `params/lora/decoder/layers/query/a` belongs to
`params/decoder/layers/query/kernel`. Models know nothing of them: while a system's function is
traced, the dense layers that have adapters are caught and add their share, so that W, frozen, has
no gradient and is never written anew.
"""

import dataclasses
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from regionjax import tables
from regionjax.config import ConfigError
from regionjax.models.layers import Dense
from regionjax.step import init_model

SCOPE = "lora"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """`ranks` is a first-match table over the paths of the kernels of dense layers; 0 is none."""

    ranks: tuple
    alpha: float = 16.0


def adapted(system, config, spec):
    """The system with adapters.

    Args:
      system: System.
      config: LoraConfig.
      spec: BatchSpec.

    Raises:
      ConfigError: a table that does not fit the system's dense layers.
    """
    params, inputs = _trace(system, spec)
    kernels = {f"params/{path}/kernel": path for path in inputs}
    ranks = tables.lookup(config.ranks, list(kernels), "config.lora.ranks")
    for path, rank in ranks.items():
        if type(rank) is not int or rank < 0:
            raise ConfigError(f"config.lora.ranks: {rank!r} for {path}, expected 0 or a rank")
    chosen = {kernels[path]: rank for path, rank in ranks.items() if rank}
    if not chosen:
        raise ConfigError("config.lora.ranks gives no layer a rank above 0")
    shapes = {
        path: adapter_shapes(params[f"{path}/kernel"].shape, *inputs[path], rank)
        for path, rank in chosen.items()
    }

    def init(rng, batch):
        model, state = system.init(rng, batch)
        return model | {SCOPE: _new(jax.random.fold_in(rng, 1), shapes, inputs)}, state

    def inside(function):
        def call(params, *arguments, **settings):
            with nn.intercept_methods(_adding(config.alpha)):
                return function(beside(params), *arguments, **settings)

        return call

    return dataclasses.replace(
        system,
        init=init,
        losses=inside(system.losses),
        predict={name: inside(function) for name, function in system.predict.items()},
        sharding_rules=_rules(system.sharding_rules, params, shapes, inputs),
        flops=lambda: _flops(system.flops()),
    )


def adapter_shapes(kernel, inputs, outputs, rank):
    """Shapes of a and b.

    Args:
      kernel: shape [*layers, *in, *out]; inputs, outputs: how many dimensions `in` and `out` are.

    Returns:
      [*layers, *in, rank] and [*layers, rank, *out].
    """
    split = len(kernel) - outputs
    return (*kernel[:split], rank), (*kernel[: split - inputs], rank, *kernel[split:])


def merge(params, alpha):
    """Parameters without adapters that compute the same: W + alpha / r · a·b.

    Args:
      params: nested parameters with the scope `lora`, jax or numpy arrays.
    """
    flat = tables.flatten({name: tree for name, tree in params.items() if name != SCOPE})
    for path, (a, b) in pairs(params).items():
        kernel = flat[f"{path}/kernel"]
        flat[f"{path}/kernel"] = kernel + delta(a, b, alpha, kernel.shape).astype(kernel.dtype)
    return tables.nest(flat)


def delta(a, b, alpha, shape):
    """alpha / r · a·b, in the kernel's shape."""
    rank, stacked = a.shape[-1], a.ndim + b.ndim - 2 - len(shape)
    layers = a.shape[:stacked]
    a, b = a.reshape(*layers, -1, rank), b.reshape(*layers, rank, -1)
    return (alpha / rank * (a @ b)).reshape(shape)


def pairs(params):
    """{path of a dense layer: (a, b)} of the adapters in nested parameters."""
    flat = tables.flatten(params.get(SCOPE, {}))
    return {path[:-2]: (a, flat[f"{path[:-2]}/b"]) for path, a in flat.items() if path[-2:] == "/a"}


def beside(params):
    """Adapters moved to their kernels, where the layers find them: lora_a, lora_b."""
    flat = tables.flatten({name: tree for name, tree in params.items() if name != SCOPE})
    for path, (a, b) in pairs(params).items():
        flat |= {f"{path}/lora_a": a, f"{path}/lora_b": b}
    return tables.nest(flat)


def _trace(system, spec):
    """{path: shape} of the system's parameters, and {path of a Dense: (inputs, outputs)}."""
    found = {}

    def see(call, arguments, settings, context):
        module = context.module
        if isinstance(module, Dense) and context.method_name == "__call__":
            found["/".join(module.path)] = module.inputs, len(module.features)
        return call(*arguments, **settings)

    with nn.intercept_methods(see):
        model = jax.eval_shape(lambda: init_model(system, 0, spec))
    return tables.flatten(model["params"]), found


def _adding(alpha):
    """Interceptor that adds an adapter's share to the output of its dense layer."""

    def add(call, arguments, settings, context):
        module, y = context.module, call(*arguments, **settings)
        if not isinstance(module, Dense) or context.method_name != "__call__":
            return y
        if not module.has_variable("params", "lora_a"):
            return y
        a, b = (module.get_variable("params", name) for name in ("lora_a", "lora_b"))
        rank = a.shape[-1]
        x = arguments[0].reshape(-1, math.prod(a.shape[:-1])).astype(module.dtype)
        a, b = a.reshape(-1, rank).astype(module.dtype), b.reshape(rank, -1).astype(module.dtype)
        return y + (alpha / rank * (x @ a @ b)).reshape(y.shape)

    return add


def _new(rng, shapes, inputs):
    """Adapters of a new run: a is uniform within ±1 / sqrt(inputs), b is 0."""
    flat = {}
    for i, (path, (a, b)) in enumerate(shapes.items()):
        bound = math.prod(a[-1 - inputs[path][0] : -1]) ** -0.5
        key = jax.random.fold_in(rng, i)
        flat[f"{path}/a"] = jax.random.uniform(key, a, minval=-bound, maxval=bound)
        flat[f"{path}/b"] = jnp.zeros(b)
    return tables.nest(flat)


def _rules(rules, params, shapes, inputs):
    """Adapters lie as their kernels do; the rank is whole."""
    places = tables.lookup(rules, [f"params/{path}" for path in params], "sharding rules")
    more = []
    for path, (a, b) in shapes.items():
        spec = places[f"params/{path}/kernel"]
        spec = (*spec, *[None] * (len(params[f"{path}/kernel"].shape) - len(spec)))
        before, between = len(b) - 1 - inputs[path][1], len(a) - 1
        name = f"(^|/){SCOPE}/{re.escape(path)}/"
        more += [
            (f"{name}a$", P(*spec[:between], None)),
            (f"{name}b$", P(*spec[:before], None, *spec[between:])),
        ]
    return (*more, *rules)


def _flops(work):
    """Adapters are small; what counts is that gradients have to come all the way to them."""

    def both(paths):
        return (*paths, *(path.replace("params/", f"params/{SCOPE}/", 1) for path in paths))

    parts = [
        dataclasses.replace(part, parameters=both(part.parameters), inputs=both(part.inputs))
        for part in work.parts
    ]
    return dataclasses.replace(work, parts=tuple(parts))
