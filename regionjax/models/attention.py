"""Attention: rotary positions, the full form, and the one-image-many-regions form.

The packed sequence is `[P image tokens | R segments of L tokens]`, S = P + R·L. Image tokens see
all image tokens; a segment's token sees all image tokens and its own segment up to itself; nobody
sees another segment. For P = 2, R = 2, L = 2 (rows ask, columns answer):

      i i a a b b
    i x x . . . .
    i x x . . . .
    a x x x . . .
    a x x x x . .
    b x x . . x .
    b x x . . x x

The mask depends on nothing but (P, R, L), so its empty blocks are never computed: image tokens
attend among themselves, and R·L segment tokens attend to the P image keys (shared, not copied) and
to their own L keys. That is P² + R·L·(P + L) scores instead of (P + R·L)².
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from regionjax.sharding import constrain

MASKED = -1e30  # finite, so that a fully masked row stays finite


def segment_mask(patches, regions, length):
    """The static mask of the packed sequence: bool [S, S], True where attention is allowed."""
    segment = np.concatenate([np.zeros(patches, int), np.repeat(np.arange(1, regions + 1), length)])
    order = np.arange(segment.size)
    to_image = segment[None, :] == 0
    to_self = (segment[:, None] == segment[None, :]) & (order[:, None] >= order[None, :])
    return to_image | (to_self & (segment[None, :] > 0))


def frequencies(width, base, factor=1.0):
    """Radians a position of the H/2 pairs of a head: f32 [H/2].

    Args:
      width: H.
      factor: how many times as long as in training texts may be; positions are divided by it.
    """
    return 1 / (base ** (np.arange(0, width, 2, dtype=np.float32) / width) * np.float32(factor))


def rotate(x, positions, frequency):
    """Rotary position embedding (Su et al. 2021), half-split pairing, in float32.

    Args:
      x: [..., L, N, H].
      positions: i32 [..., L], broadcastable against x without its last two axes.
      frequency: f32 [H/2], see `frequencies`.
    """
    angle = positions[..., None, None].astype(jnp.float32) * frequency  # [..., L, 1, H/2]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def _grouped(q, kv_heads):
    """[..., N, H] → [..., K, G, H]: G query heads share one of K key-value heads."""
    return q.reshape(*q.shape[:-2], kv_heads, q.shape[-2] // kv_heads, q.shape[-1])


def capped(scores, softcap):
    """Scores or logits bent into ±softcap (Gemma 2); as they are where it is 0."""
    return softcap * jnp.tanh(scores / softcap) if softcap else scores


def attend(q, k, v, mask=None, bias=None, scale=None, softcap=0.0):
    """Plain attention, softmax in float32.

    Args:
      q: [B, S, N, H]; k, v: [B, T, K, H] with N a multiple of K (grouped key-value heads).
      mask: bool, broadcastable to [S, T] or, with three dimensions, to [B, S, T]; True where
        attention is allowed.
      bias: f32, broadcastable to [N, S, T], added to the scores.
      scale: of the scores; H^-1/2 unless given.
      softcap: see `capped`.

    Returns:
      [B, S, N, H]
    """
    return weighted_sum(probabilities(q, k, mask, bias, scale, softcap), v)


def probabilities(q, k, mask=None, bias=None, scale=None, softcap=0.0):
    """The first half of `attend`: f32 [B, N, S, T], rows that sum to 1."""
    heads, kv_heads, width = q.shape[-2], k.shape[-2], q.shape[-1]
    q = _grouped(q * (width**-0.5 if scale is None else scale), kv_heads)
    scores = jnp.einsum("bskgh,btkh->bkgst", q, k, preferred_element_type=jnp.float32)
    scores = capped(scores, softcap)
    if bias is not None:
        bias = jnp.broadcast_to(bias, (heads, *bias.shape[1:]))
        scores += bias.reshape(kv_heads, -1, *bias.shape[1:])
    if mask is not None:
        scores = jnp.where(mask if mask.ndim < 3 else mask[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1)
    return weights.reshape(weights.shape[0], heads, *weights.shape[3:])


def weighted_sum(weights, v):
    """The second half of `attend`: weights [B, N, S, T] over v [B, T, K, H] → [B, S, N, H]."""
    batch, heads, *pairs = weights.shape
    kv_heads = v.shape[-2]
    weights = weights.reshape(batch, kv_heads, heads // kv_heads, *pairs).astype(v.dtype)
    out = jnp.einsum("bkgst,btkh->bskgh", weights, v)
    return constrain(out.reshape(*out.shape[:2], -1, out.shape[-1]), "heads")


def attend_segments(
    q, image_k, image_v, own_k, own_v, own_mask, image_mask=None, scale=None, softcap=0.0
):
    """Segment tokens attend to the image's shared keys and to their own segment's.

    Args:
      q: [B, R, L, N, H]; image_k, image_v: [B, P, K, H]; own_k, own_v: [B, R, C, K, H]. P or C may
        be 0, not both.
      own_mask: bool, broadcastable to [B, R, L, C].
      image_mask: bool, broadcastable to [B, R, L, P]; all of the image unless given.
      scale, softcap: as for `attend`.

    Returns:
      [B, R, L, N, H]; equal to `attend` with the rows of `segment_mask` where C = L.
    """
    batch, regions, length, heads, width = q.shape
    q = _grouped(q * (width**-0.5 if scale is None else scale), image_k.shape[-2])

    def scores(product, keys, mask):
        out = jnp.einsum(product, q, keys, preferred_element_type=jnp.float32)
        out = capped(out, softcap)
        if mask is None:
            return out
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        return jnp.where(mask[:, None, None], out, MASKED)

    to_image = scores("brlkgh,bpkh->bkgrlp", image_k, image_mask)
    to_own = scores("brlkgh,brckh->bkgrlc", own_k, own_mask)
    # One softmax over both key sets, without joining them in memory.
    tops = [s.max(-1, keepdims=True) for s in (to_image, to_own) if s.shape[-1]]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    to_image, to_own = jnp.exp(to_image - top), jnp.exp(to_own - top)
    total = to_image.sum(-1) + to_own.sum(-1)  # [B, K, G, R, L]
    out = jnp.einsum("bkgrlp,bpkh->brlkgh", to_image.astype(image_v.dtype), image_v)
    out += jnp.einsum("bkgrlc,brckh->brlkgh", to_own.astype(own_v.dtype), own_v)
    out /= jnp.moveaxis(total, (3, 4), (1, 2))[..., None].astype(out.dtype)
    return out.reshape(batch, regions, length, heads, width)
