"""What becomes of memory that a step frees, where the host's processor does the computing."""

import ctypes
import pathlib

# Settings of mallopt(3), and the largest number it takes.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
LARGEST = 2**31 - 1
# What accelerators are to Linux: TPUs, NVIDIA's and AMD's GPUs.
ACCELERATORS = "accel[0-9]*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd"


def computes_itself(platforms, devices=pathlib.Path("/dev")):
    """Whether JAX will run on this host's processor; asked before JAX has looked.

    Args:
      platforms: jax.config.jax_platforms, which JAX_PLATFORMS sets; None or "" leaves it to JAX.
      devices: folder of the system's devices.
    """
    if platforms:
        return platforms == "cpu"
    return not any(any(devices.glob(pattern)) for pattern in ACCELERATORS)


def keep_freed_memory():
    """Has glibc keep what is freed for what is taken next, instead of giving it to the system.

    A program of XLA takes all that it needs as one block and frees it when it is through. Given
    back, that costs a fault for each of its pages at every step. One arena, as those of further
    threads cannot hold such blocks. To be called before JAX starts its threads; other C libraries
    are left as they are.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for setting, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, LARGEST)):
            library.mallopt(setting, value)
