"""What is freed stays with the process, and only where the host computes."""

import subprocess
import sys

import pytest

from regionjax import allocator

STEPS = """
import resource, sys
from regionjax import allocator
if sys.argv[1] == "keep":
    allocator.keep_freed_memory()
import jax, jax.numpy as jnp
x = jnp.arange(3000.0)
step = jax.jit(lambda x: jnp.sin(x[:, None] * x) @ x)  # the square takes 36 MB, 8,800 pages
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(40):  # at first, small blocks look for their places and take a large one's
    if number == 20:
        before = faults()
    step(x).block_until_ready()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is a function of glibc")
def test_steps_take_the_pages_that_steps_before_them_freed():
    faults = {}
    for way in ("keep", "give back"):
        command = [sys.executable, "-c", STEPS, way]
        faults[way] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert faults["give back"] > 20 * 8_000
    assert faults["keep"] < faults["give back"] / 4


@pytest.mark.parametrize("device", ["accel0", "nvidia0", "vfio/0", "kfd"])
def test_a_host_with_an_accelerator_does_not_compute_itself(device, tmp_path):
    for name in ("null", "nvidiactl", "vfio/vfio"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert allocator.computes_itself(None, tmp_path)
    (tmp_path / device).touch()
    assert not allocator.computes_itself(None, tmp_path)
    assert allocator.computes_itself("cpu", tmp_path)


def test_a_named_platform_settles_it(tmp_path):
    assert not allocator.computes_itself("cuda,cpu", tmp_path)
