"""What one image for many regions buys: training regions a second at R = 8 against R = 1.

    python -m benchmarks.shared_image --config configs/quickstart.py

Both runs use the same model, the same regions and the same number of them a step; at R = 1 every
region brings its own copy of the image, as codebases do that encode the image once a region. The
ratio by count (regionjax/flops.py) is printed beside the measured one. The two are measured in
turns in one process, best of `--rounds`, so that a busy machine harms both alike.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from regionjax import config as configs
from regionjax.batch import BatchSpec
from regionjax.systems import system


def make_step(config, regions, images):
    """(run one training step, forward FLOPs a region) with `regions` slots an image."""
    config = config.copy_and_resolve_references()
    config.batch.regions = regions
    spec = configs.build(BatchSpec, config.batch, "config.batch")
    built = system.build(config, spec)
    params, state = jax.jit(built.init)(jax.random.key(0), spec.zeros(1))
    rng = np.random.default_rng(0)
    batch = spec.zeros(images)
    batch["image"][:] = rng.integers(0, 256, batch["image"].shape)
    batch["region_mask"][:] = rng.integers(0, 256, batch["region_mask"].shape)
    batch["region_box"][:] = (0.2, 0.3, 0.6, 0.7)
    batch["prompt"][..., 0] = 3
    batch["target"][:] = 4
    batch["target_weight"][:] = 1
    batch = jax.device_put(batch)

    @jax.jit
    def step(params, batch):
        def loss(params):
            terms, _, _ = built.losses(params, state, batch, jax.random.key(1), True)
            return sum(total / jnp.maximum(weight, 1) for total, weight in terms.values())

        gradient = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradient)

    forward = sum(part.forward for part in built.flops().parts)
    return lambda: jax.block_until_ready(step(params, batch)), forward / regions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--regions", type=int, default=8, help="R of the shared run")
    parser.add_argument("--slots", type=int, default=128, help="regions a step, both runs")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    config = configs.load(arguments.config)
    runs = {r: make_step(config, r, arguments.slots // r) for r in (1, arguments.regions)}
    best = dict.fromkeys(runs, float("inf"))
    for run, _ in runs.values():
        run()  # compiles
    for _ in range(arguments.rounds):
        for r, (run, _) in runs.items():
            start = time.perf_counter()
            run()
            best[r] = min(best[r], time.perf_counter() - start)
    for r, (_, flops) in runs.items():
        rate = arguments.slots / best[r]
        print(
            f"R={r}: {rate:.0f} regions/s, {3 * flops / 1e6:.1f} MFLOP a region by count, "
            f"{3 * flops * rate / 1e9:.0f} GFLOP/s"
        )
    shared = arguments.regions
    print(
        f"R={shared} is {best[1] / best[shared]:.2f} times R=1 measured, "
        f"{runs[1][1] / runs[shared][1]:.2f} times by count"
    )


if __name__ == "__main__":
    main()
