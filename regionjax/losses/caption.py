"""Next-token cross-entropy, chunked over T so that the [B, R, T, V] logits never exist at once."""

import jax
import jax.numpy as jnp

from regionjax.sharding import constrain


def token_nll(hidden, unembedding, target, chunks=1):
    """Negative log-likelihood of every target token, in nats, f32 [B, R, T].

    The label's logit is picked by comparing with an iota: a gather over a sharded V costs more
    memory than the comparison, which fuses.

    Args:
      hidden: [B, R, T, D]; unembedding: [V, D]; target: i32 [B, R, T].
      chunks: pieces of T computed one after the other, each recomputed in the backward pass.

    Raises:
      ValueError: `chunks` does not divide T.
    """

    def nll(hidden, target):
        logits = jnp.einsum(
            "...td,vd->...tv",
            hidden,
            unembedding.astype(hidden.dtype),
            preferred_element_type=jnp.float32,
        )
        logits = constrain(logits, "logits")
        label = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        picked = jnp.where(label == target[..., None], logits, 0.0).sum(-1)
        return jax.nn.logsumexp(logits, axis=-1) - picked

    if chunks == 1:
        return nll(hidden, target)
    batch, regions, length, width = hidden.shape
    if length % chunks:
        raise ValueError(f"vocabulary_chunks={chunks} does not divide target_length {length}")
    pieces = (
        jnp.moveaxis(hidden.reshape(batch, regions, chunks, -1, width), 2, 0),
        jnp.moveaxis(target.reshape(batch, regions, chunks, -1), 2, 0),
    )
    out = jax.lax.map(lambda piece: jax.checkpoint(nll)(*piece), pieces)
    return jnp.moveaxis(out, 0, 2).reshape(batch, regions, length)


def weighted(nll, weight):
    """(sum, weight) of per-token values f32 [B, R, T]."""
    return (nll * weight).sum(), weight.sum()
