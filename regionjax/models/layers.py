"""What the towers share: scanned and rematerialised layers, dense shorthands, named points."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from regionjax.config import nearest

# What the backward pass keeps of a layer. Everything else is computed again.
REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "minimal": jax.checkpoint_policies.save_only_these_names("attention_out", "mlp_out"),
    "matmuls": jax.checkpoint_policies.save_only_these_names(
        "query", "key", "value", "attention_out", "mlp_gate", "mlp_up", "mlp_out"
    ),
}

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,
    "silu": nn.silu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
}

point = checkpoint_name  # point(x, "query"): a name that the policies above can refer to


def check_remat(name):
    """Raises ValueError unless `name` is "none" or a key of REMAT_POLICIES."""
    if name != "none" and name not in REMAT_POLICIES:
        raise ValueError(f"remat={name!r}; known: none, {', '.join(REMAT_POLICIES)}")


def check_activation(name):
    """Raises ValueError unless `name` is a key of ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}{nearest(name, ACTIVATIONS)}")


def rematerialised(block, remat, scanned=True):
    """The Module class `block`, of which the backward pass keeps what `remat` says.

    Outside a scan the compiler must be kept from finding that it has computed all of it before.
    """
    if remat == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=not scanned)


def stack(block, layers, remat, broadcast, unroll=1):
    """`layers` copies of `block` as one scanned module with parameters stacked on axis 0.

    Args:
      block: a Module class whose call is (carry, scanned, *broadcast) → (carry, output).
      broadcast: how many further arguments are the same for every layer.
    """
    return nn.scan(
        rematerialised(block, remat),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *([nn.broadcast] * broadcast)),
        length=layers,
        unroll=unroll,
    )


class Dense(nn.Module):
    """x [..., *inputs] · kernel [*inputs, *features] + bias → [..., *features].

    The product is taken over two flattened matrices: with more batch dimensions the CPU compiler
    transposes activations for every weight gradient (1.6× the time of a gated MLP's step).

    Attributes:
      features: output dimensions.
      inputs: how many trailing dimensions of x are contracted.
      variance: of the outputs at the start, for inputs of variance 1.
    """

    features: tuple[int, ...]
    dtype: jnp.dtype
    inputs: int = 1
    bias: bool = True
    variance: float = 1.0

    @nn.compact
    def __call__(self, x):
        split = x.ndim - self.inputs
        contracted, total = math.prod(x.shape[split:]), math.prod(self.features)

        def init(rng, shape, dtype):
            flat = nn.initializers.variance_scaling(self.variance, "fan_in", "truncated_normal")
            return flat(rng, (contracted, total), dtype).reshape(shape)

        kernel = self.param("kernel", init, (*x.shape[split:], *self.features), jnp.float32)
        kernel = kernel.reshape(contracted, total).astype(self.dtype)
        y = x.reshape(-1, contracted).astype(self.dtype) @ kernel
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, self.features, jnp.float32)
            y = y + bias.reshape(total).astype(self.dtype)
        return y.reshape(*x.shape[:split], *self.features)


def dense(features, dtype, bias=True, inputs=1, variance=1.0):
    """A Dense still to be named: `dense(width, dtype)(name="projection")`."""
    features = features if isinstance(features, tuple) else (features,)
    return functools.partial(Dense, features, dtype, inputs, bias, variance)
