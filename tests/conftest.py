"""Eight CPU devices for every test; this must happen before JAX starts its backend."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far longer than they compute: do without LLVM's optimisations.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax

jax.config.update("jax_num_cpu_devices", 8)
