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


def rotate(x, positions, base=10_000.0):
    """Rotary position embedding (Su et al. 2021), half-split pairing, in float32.

    Args:
      x: [..., L, N, H].
      positions: i32 [..., L], broadcastable against x without its last two axes.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-np.arange(half, dtype=np.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency  # [..., L, 1, half]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def _grouped(q, kv_heads):
    """[..., N, H] → [..., K, G, H]: G query heads share one of K key-value heads."""
    return q.reshape(*q.shape[:-2], kv_heads, q.shape[-2] // kv_heads, q.shape[-1])


def attend(q, k, v, mask=None, bias=None, scale=None):
    """Plain attention, softmax in float32.

    Args:
      q: [B, S, N, H]; k, v: [B, T, K, H] with N a multiple of K (grouped key-value heads).
      mask: bool, broadcastable to [S, T] or, with three dimensions, to [B, S, T]; True where
        attention is allowed.
      bias: f32, broadcastable to [N, S, T], added to the scores.
      scale: of the scores; H^-1/2 unless given.

    Returns:
      [B, S, N, H]
    """
    heads, kv_heads, width = q.shape[-2], k.shape[-2], q.shape[-1]
    q = _grouped(q * (width**-0.5 if scale is None else scale), kv_heads)
    scores = jnp.einsum("bskgh,btkh->bkgst", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        bias = jnp.broadcast_to(bias, (heads, *bias.shape[1:]))
        scores += bias.reshape(kv_heads, -1, *bias.shape[1:])
    if mask is not None:
        scores = jnp.where(mask if mask.ndim < 3 else mask[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgst,btkh->bskgh", weights, v)
    return constrain(out.reshape(*out.shape[:2], -1, out.shape[-1]), "heads")


def attend_segments(q, image_k, image_v, own_k, own_v, own_mask):
    """Segment tokens attend to the image's shared keys and to their own segment's.

    Args:
      q: [B, R, L, N, H]; image_k, image_v: [B, P, K, H]; own_k, own_v: [B, R, C, K, H].
      own_mask: bool, broadcastable to [B, R, L, C].

    Returns:
      [B, R, L, N, H]; equal to `attend` with the rows of `segment_mask` where C = L.
    """
    batch, regions, length, heads, width = q.shape
    q = _grouped(q * width**-0.5, image_k.shape[-2])  # [B, R, L, K, G, H]
    to_image = jnp.einsum("brlkgh,bpkh->bkgrlp", q, image_k, preferred_element_type=jnp.float32)
    to_own = jnp.einsum("brlkgh,brckh->bkgrlc", q, own_k, preferred_element_type=jnp.float32)
    own_mask = own_mask.reshape((1,) * (4 - own_mask.ndim) + own_mask.shape)
    to_own = jnp.where(own_mask[:, None, None], to_own, MASKED)
    # One softmax over both key sets, without joining them in memory.
    top = jax.lax.stop_gradient(
        jnp.maximum(to_image.max(-1, keepdims=True), to_own.max(-1, keepdims=True))
    )
    to_image, to_own = jnp.exp(to_image - top), jnp.exp(to_own - top)
    total = to_image.sum(-1) + to_own.sum(-1)  # [B, K, G, R, L]
    out = jnp.einsum("bkgrlp,bpkh->brlkgh", to_image.astype(image_v.dtype), image_v)
    out += jnp.einsum("bkgrlc,brckh->brlkgh", to_own.astype(own_v.dtype), own_v)
    out /= jnp.moveaxis(total, (3, 4), (1, 2))[..., None].astype(out.dtype)
    return out.reshape(batch, regions, length, heads, width)
