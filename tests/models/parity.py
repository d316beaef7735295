"""Random tiny models of `transformers`, the tensors in their files, and what agreement means."""

import numpy as np
from safetensors.numpy import load_file


def randomise(model, seed=0):
    """Every parameter anew, so that no norm is 1, no bias 0 and no two layers alike."""
    import torch

    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            values = rng.normal(size=tensor.shape)
            if tensor.ndim < 2:
                values = 0.2 * values + (1 if "norm" in name.lower() and "weight" in name else 0)
            elif "embeddings" not in name and "table" not in name:
                values *= np.prod(tensor.shape[1:]) ** -0.5
            tensor.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    return model.eval()


def saved(model, folder):
    """{name: numpy array} of the file that `save_pretrained` writes: the public names."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def close(ours, theirs, relative=1e-4):
    """max |ours - theirs| ≤ 1e-4 · max |theirs|, the bound for float32."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


def divergence(ours, theirs):
    """Mean KL(theirs ‖ ours) of logits [..., V]."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)

    def log_softmax(x):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p, q = log_softmax(theirs), log_softmax(ours)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def parameters(tree):
    """How many numbers a nested dictionary of arrays or shapes holds."""
    import jax

    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
