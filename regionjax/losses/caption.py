"""Next-token cross-entropy in slices of V: the [B, R, T, V] logits never exist at once."""

import jax
import jax.numpy as jnp

from regionjax.sharding import constrain


def token_nll(hidden, unembedding, target, chunks=1):
    """Negative log-likelihood of every target token, in nats, f32 [B, R, T].

    The label's logit is picked by comparing with an iota: a gather over a sharded V costs more
    memory than the comparison, which fuses.

    Args:
      hidden: [B, R, T, D]; unembedding: [V, D]; target: i32 [B, R, T].
      chunks: slices of V computed one after the other, each again in the backward pass. Slices of
        V and not of T: each row of a table that is sharded over D is then gathered once, and its
        gradient summed over devices once, however many slices there are.

    Raises:
      ValueError: `chunks` does not divide V.
    """
    vocabulary, width = unembedding.shape
    if vocabulary % chunks:
        raise ValueError(f"vocabulary_chunks={chunks} does not divide the vocabulary {vocabulary}")
    dtype = hidden.dtype
    unembedding = unembedding.astype(dtype)

    def part(hidden, rows, first):
        """Of the tokens first, first + chunks, …: log of the summed exponentials; label's logit."""
        logits = jnp.einsum(
            "...td,vd->...tv",
            hidden.astype(dtype),
            rows,
            preferred_element_type=jnp.float32,
        )
        logits = constrain(logits, "logits")
        token = first + chunks * jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        picked = jnp.where(token == target[..., None], logits, 0.0).sum(-1)
        return jax.nn.logsumexp(logits, axis=-1), picked

    if chunks == 1:
        total, picked = part(hidden, unembedding, 0)
        return total - picked
    # Every chunks-th row and not consecutive ones: those would all lie on one `tensor` shard.
    rows = jnp.moveaxis(unembedding.reshape(vocabulary // chunks, chunks, width), 1, 0)
    hidden = hidden.astype(jnp.float32)  # its gradient is summed over the slices
    totals, picked = jax.lax.map(
        lambda piece: jax.checkpoint(part)(hidden, *piece), (rows, jnp.arange(chunks))
    )
    return jax.nn.logsumexp(totals, axis=0) - picked.sum(0)


def weighted(nll, weight):
    """(sum, weight) of per-token values f32 [B, R, T]."""
    return (nll * weight).sum(), weight.sum()
