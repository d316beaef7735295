"""Small checkpoints for tests, with random numbers everywhere."""

import math

import numpy as np

from regionjax.weights import architectures, files, table

T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def known(config):
    """(Architecture, our config) of a config.json."""
    architecture = architectures.known(config, "config.json")
    return architecture, architecture.config(architectures.Description(config, {}))


def headers(config, dtype=np.float32):
    """{name: (shape, dtype)} of the checkpoint that a config.json describes."""
    architecture, ours = known(config)
    pieces = table.expand(architecture.rows(ours), architecture.shapes(ours, "float32"))
    return {piece.theirs: (piece.whole_shape, np.dtype(dtype)) for piece in pieces}


def write(folder, config=T5, dtype=np.float32, shard_bytes=10**9, change=None):
    """A Hugging Face directory; `change` may alter {name: array} before it is written."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=shape).astype(dtype)
        for name, (shape, _) in headers(config, dtype).items()
    }
    if change:
        change(tensors)
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    files.write_directory(folder, config, found, tensors.__getitem__, shard_bytes)
    return tensors


def write_zeros(folder, config, headers, shard_bytes):
    """A directory of zeros, quickly written; returns the bytes of its tensors."""
    zero = np.zeros((), np.float32)
    files.write_directory(
        folder, config, headers, lambda name: np.broadcast_to(zero, headers[name][0]), shard_bytes
    )
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())
