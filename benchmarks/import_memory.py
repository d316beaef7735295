"""How much memory an import takes: a random checkpoint of 2 GB in shards, read and laid out.

    python -m benchmarks.import_memory
    python -m benchmarks.import_memory --dtype bfloat16 --gigabytes 1 --shard_gb 0.1

Writes a T5 of at least that many bytes (float32, safetensors, random) to a temporary folder,
imports it in a process of its own and prints that process's peak resident size above what Python
and JAX had taken before, against the bound: the parameters in the target dtype plus one shard. The
folder needs three times the size. Linux only (/proc); exit code 1 above the bound.
"""

import argparse
import itertools
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from regionjax.mesh import MeshConfig, make_mesh
from regionjax.weights import architectures, files, table
from regionjax.weights.importing import DTYPES, import_weights

LAYERS, WORDS = 24, 32_128


def t5(size):
    """config.json of the narrowest T5 whose float32 parameters are at least `size` bytes."""
    parameters = lambda width: 30 * LAYERS * width**2 + 2 * WORDS * width  # noqa: E731
    width = next(w for w in itertools.count(64, 64) if 4 * parameters(w) >= size)
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": WORDS,
        "d_model": width,
        "d_kv": 64,
        "d_ff": 3 * width,
        "num_layers": LAYERS,
        "num_heads": width // 64,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def write(folder, config, shard_bytes):
    """A Hugging Face directory of random numbers; returns the bytes of its tensors."""
    architecture = architectures.known(config, "config")
    ours = architecture.config(architectures.Description(config, {}))
    pieces = table.expand(architecture.rows(ours), architecture.shapes(ours, "float32"))
    headers = {piece.theirs: (piece.whole_shape, np.dtype(np.float32)) for piece in pieces}
    rng = np.random.default_rng(0)
    draw = lambda name: rng.standard_normal(headers[name][0], np.float32)  # noqa: E731
    files.write_directory(folder, config, headers, draw, shard_bytes)
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())


def resident(name):
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measured(folder, dtype):
    """Peak of an import above the baseline, in bytes; of this process."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    write(f"{folder}/warm", t5(4e6) | {"num_layers": 1, "vocab_size": 100}, 10**9)
    import_weights(f"{folder}/warm", f"{folder}/warm_ours", mesh, dtype=dtype)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    import_weights(f"{folder}/theirs", f"{folder}/ours", mesh, dtype=dtype)
    return resident("VmHWM") - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shard_gb", type=float, default=0.5)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the folder, in the inner process
    given = parser.parse_args()
    if given.measure:
        print(measured(given.measure, given.dtype))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        theirs = pathlib.Path(folder) / "theirs"
        size = write(theirs, t5(given.gigabytes * 1e9), int(given.shard_gb * 1e9))
        target = size * (2 if given.dtype == "bfloat16" else 4) // 4
        shards = [file.stat().st_size for file in theirs.glob("*.safetensors")]
        command = [sys.executable, "-m", "benchmarks.import_memory", "--measure", folder]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--dtype", given.dtype], check=True, stdout=subprocess.PIPE, text=True
        )
        spent = time.perf_counter() - start
    peak, bound = int(done.stdout), target + max(shards)
    print(
        f"{size / 1e6:.0f} MB in {len(shards)} shards, as {given.dtype}: peak {peak / 1e6:.0f} MB, "
        f"bound {target / 1e6:.0f} + {max(shards) / 1e6:.0f} = {bound / 1e6:.0f} MB; {spent:.0f} s"
    )
    return int(peak > bound)


if __name__ == "__main__":
    sys.exit(main())
