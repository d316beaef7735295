"""Decoder-only language model: Gemma 1, 2 and 3 (text), Qwen3 dense, and regionlm's own.

RMSNorm, rotary positions, grouped key-value heads, gated MLP; the sizes are in decoder_config.py. A
pass runs over P prefix tokens that all see one another (an image, or an image and a question), and
R segments of text, each of which sees the prefix and its own past. One image serves many regions
that way; plain text is a segment without a prefix. The same layers run over all tokens (training,
scoring, prefill) and over one new token a segment (cached generation).
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from regionjax.models import attention, layers
from regionjax.models.decoder_config import DecoderConfig
from regionjax.sharding import constrain


@flax.struct.dataclass
class Cache:
    """Keys and values of what has been read.

    Those of the prefix are shared by all segments: [layers, B, P, K, H]. A segment's own are
    [layers, B, R, C, K, H] with room for C tokens.

    Attributes:
      prefix_mask: bool [B, P], which prefix tokens are real; None: all.
      filled: bool [B, R, C], which places hold a real token, in the order of their positions.
      place: i32, the place of the next token, the same for all segments.
    """

    prefix_k: jax.Array
    prefix_v: jax.Array
    own_k: jax.Array
    own_v: jax.Array
    prefix_mask: jax.Array | None
    filled: jax.Array
    place: jax.Array

    def take(self, index):
        """The segments `index` i32 [B, R'] of this cache, which may repeat (beam search)."""
        own = index[None, :, :, None, None, None]
        return self.replace(
            own_k=jnp.take_along_axis(self.own_k, own, axis=2),
            own_v=jnp.take_along_axis(self.own_v, own, axis=2),
            filled=jnp.take_along_axis(self.filled, index[:, :, None], axis=1),
        )


@flax.struct.dataclass
class Places:
    """What every layer needs to know of the tokens of a pass.

    Attributes:
      positions: i32 [S] or [B, S], S = P + R·L, or S = R with a cache.
      prefix_mask: bool [B, P], which prefix tokens are real; None: all.
      full, local: for each kind of layer, what a segment's tokens see of the prefix, bool
        broadcastable to [B, R, L, P] or None, and of their own, [B, R, L, C]. `local` is None
        without local layers.
      place: i32, see Cache; None without one.
      shape: (P, R, L).
      keep_hidden: whether layers return their hidden states.
    """

    positions: jax.Array
    prefix_mask: jax.Array | None
    full: tuple
    local: tuple | None
    place: jax.Array | None
    shape: tuple = flax.struct.field(pytree_node=False)
    keep_hidden: bool = flax.struct.field(pytree_node=False, default=False)


def _counted(mask):
    """Positions of the real tokens of bool [..., L]; padding repeats a neighbour's."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)


def last_real(hidden, mask):
    """Of each text in hidden [..., L, D] the last real token, [..., D]; mask: bool [..., L]."""
    last = (mask * jnp.arange(mask.shape[-1])).argmax(-1)
    return jnp.take_along_axis(hidden, last[..., None, None], axis=-2)[..., 0, :]


def _visible(config, asking, prefix, prefix_mask, own, own_mask):
    """`full` and `local` of Places.

    Args:
      asking, own: i32 positions [..., R, L] of asking tokens, [..., R, C] of a segment's own.
      prefix: i32 [P] or [B, P]; prefix_mask: bool [B, P] or None; own_mask: as in Places.
    """
    if prefix_mask is not None:
        prefix_mask = prefix_mask[:, None, None]
    if not config.window:
        return (prefix_mask, own_mask), None
    prefix_mask = jnp.ones((), bool) if prefix_mask is None else prefix_mask
    to_prefix = asking[..., None] - prefix[..., None, None, :] < config.window
    to_own = asking[..., None] - own[..., None, :] < config.window
    return (prefix_mask, own_mask), (prefix_mask & to_prefix, own_mask & to_own)


class RMSNorm(nn.Module):
    """x / rms(x) · scale over the last axis, in float32."""

    config: DecoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        centred = self.config.centred_norms
        init = nn.initializers.zeros if centred else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        mean = jnp.square(x).mean(-1, keepdims=True)
        x = x * (jax.lax.rsqrt(mean + self.config.norm_epsilon) * (scale + centred))
        return x.astype(self.dtype)


class Block(nn.Module):
    """One decoder layer; with a cache it runs over one new token a segment."""

    config: DecoderConfig
    dtype: jnp.dtype

    def setup(self):
        c, dense = self.config, layers.dense
        norm = functools.partial(RMSNorm, c, self.dtype)
        self.attention_norm, self.mlp_norm = norm(), norm()
        if c.post_norms:
            self.attention_post_norm, self.mlp_post_norm = norm(), norm()
        if c.head_norms:
            self.query_norm, self.key_norm = norm(), norm()
        self.query = dense((c.heads, c.head_width), self.dtype, bias=False)()
        self.key = dense((c.kv_heads, c.head_width), self.dtype, bias=False)()
        self.value = dense((c.kv_heads, c.head_width), self.dtype, bias=False)()
        self.attention_out = dense(c.width, self.dtype, bias=False, inputs=2)()
        self.mlp_gate = dense(c.mlp_width, self.dtype, bias=False)()
        self.mlp_up = dense(c.mlp_width, self.dtype, bias=False)()
        self.mlp_out = dense(c.width, self.dtype, bias=False)()

    def __call__(self, x, scanned, places):
        """[B, S, D] → ([B, S, D], (keys and values, hidden states or None)).

        Args:
          scanned: whether the layer is local (None: no layer is), and its slice of a cache or None.
          places: Places.

        Without a cache the keys and values of all tokens are returned, with it the grown own ones.
        """
        local, cache = scanned
        frequency, masks = self._kind(local, places)
        q, k, v = self._project(x, places.positions, frequency)
        attend = self._packed if cache is None else self._cached
        y, kept = attend(q, k, v, cache, places, masks)
        x = self._finish(x, y)
        return x, (kept, x if places.keep_hidden else None)

    def _kind(self, local, places):
        """Rotary frequencies and masks of this kind of layer."""
        c = self.config
        full = attention.frequencies(c.head_width, c.rope_base, c.rope_factor), places.full
        if local is None:
            return full
        near = attention.frequencies(c.head_width, c.local_rope_base), places.local
        return jax.tree.map(functools.partial(jnp.where, local), near, full)

    def _project(self, x, positions, frequency):
        """Queries, keys and values of [B, S, D], rotated to their positions."""
        y = self.attention_norm(x)
        q, k, v = self.query(y), self.key(y), self.value(y)
        if self.config.head_norms:
            q, k = self.query_norm(q), self.key_norm(k)
        q = constrain(attention.rotate(q, positions, frequency), "heads")
        k = constrain(attention.rotate(k, positions, frequency), "heads")
        v = constrain(v, "heads")
        return layers.point(q, "query"), layers.point(k, "key"), layers.point(v, "value")

    @property
    def _scores(self):
        c = self.config
        scale = (c.query_divisor or c.head_width) ** -0.5
        return {"scale": scale, "softcap": c.attention_softcap}

    def _packed(self, q, k, v, cache, places, masks):
        del cache
        size, regions, length = places.shape

        def own(t):
            return t[:, size:].reshape(t.shape[0], regions, length, *t.shape[2:])

        prefix = k[:, :size], v[:, :size]
        kept = (*prefix, own(k), own(v))
        parts = []
        if size:
            mask = None if places.prefix_mask is None else places.prefix_mask[:, None]
            parts.append(attention.attend(q[:, :size], *prefix, mask, **self._scores))
        if length:
            y = attention.attend_segments(own(q), *kept, masks[1], masks[0], **self._scores)
            parts.append(y.reshape(y.shape[0], -1, *y.shape[3:]))
        return jnp.concatenate(parts, axis=1), kept

    def _cached(self, q, k, v, cache, places, masks):
        prefix_k, prefix_v, own_k, own_v = cache
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=2)
        own_k = write(own_k, k[:, :, None], places.place)
        own_v = write(own_v, v[:, :, None], places.place)
        y = attention.attend_segments(
            q[:, :, None], prefix_k, prefix_v, own_k, own_v, masks[1], masks[0], **self._scores
        )
        return y[:, :, 0], (own_k, own_v)

    def _finish(self, x, attended):
        """The rest of the layer after attention: [B, S, D]."""
        post = self.config.post_norms
        y = layers.point(self.attention_out(constrain(attended, "heads")), "attention_out")
        x = constrain(x + (self.attention_post_norm(y) if post else y), "tokens")
        y = self.mlp_norm(x)
        gate = layers.point(self.mlp_gate(y), "mlp_gate")
        up = layers.point(self.mlp_up(y), "mlp_up")
        gate = layers.ACTIVATIONS[self.config.activation](gate)
        y = layers.point(self.mlp_out(constrain(gate * up, "hidden")), "mlp_out")
        return constrain(x + (self.mlp_post_norm(y) if post else y), "tokens")


class Decoder(nn.Module):
    """The language model. Segments may be texts, or anything else of width D."""

    config: DecoderConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        table = (nn.initializers.normal(c.width**-0.5), (c.vocabulary, c.width))
        self.embedding = self.param("embedding", *table)
        if not c.tied:
            self.output_embedding = self.param("output_embedding", *table)
        self.layers = layers.stack(Block, c.depth, c.remat, broadcast=1, unroll=c.unroll)(
            c, self.dtype
        )
        self.norm = RMSNorm(c, self.dtype)

    def embed(self, tokens):
        """i32 [B, ...] → [B, ..., D]."""
        table = self.embedding.astype(self.dtype)
        # Every device looks up its part of D for all tokens, then images change places with parts:
        # neither the table nor its gradient is ever whole.
        x = jnp.take(table, tokens.reshape(tokens.shape[0], -1), axis=0)
        x = constrain(constrain(x, "embedded"), "tokens")
        x = x.reshape(*tokens.shape, self.config.width)
        return x * self.config.width**0.5 if self.config.scaled_embedding else x

    def unembedding(self):
        """[V, D]; logits are hidden · unembeddingᵀ, capped."""
        return self.embedding if self.config.tied else self.output_embedding

    def logits(self, hidden):
        """[..., D] → f32 [..., V]."""
        table = self.unembedding().astype(hidden.dtype)
        logits = jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
        return attention.capped(logits, self.config.logit_softcap)

    def __call__(self, prefix, segments, prefix_mask=None, mask=None, keep_hidden=False):
        """Runs over a prefix and its segments.

        Args:
          prefix: [B, P, D]; segments: [B, R, L, D]. P or L may be 0, not both.
          prefix_mask: bool [B, P], mask: bool [B, R, L]: which tokens are real, wherever the
            padding lies; all unless given. Padding at a segment's end needs none: causality hides
            it.
          keep_hidden: whether the hidden states of every layer are wanted.

        Returns:
          prefix hidden states [B, P, D], segment hidden states [B, R, L, D], and a dictionary:
          `kept`, every layer's keys and values (prefix k and v [layers, B, P, K, H], own k and v
          [layers, B, R, L, K, H]), and `hidden` [layers, B, P + R·L, D], what each layer returned,
          if wanted.
        """
        (batch, size, width), (regions, length) = prefix.shape, segments.shape[1:3]
        before, at = self._before(prefix_mask, size)
        causal = jnp.tril(jnp.ones((length, length), bool))
        if mask is None:
            own = before + jnp.tile(jnp.arange(length), (regions, 1))
        else:
            own, causal = before + _counted(mask), causal & mask[:, :, None]
        flat = own.reshape(*own.shape[:-2], regions * length)
        at = jnp.broadcast_to(at, (*flat.shape[:-1], size))
        full, local = _visible(self.config, own, at, prefix_mask, own, causal)
        positions = jnp.concatenate([at, flat], axis=-1)
        shape = size, regions, length
        places = Places(positions, prefix_mask, full, local, None, shape, keep_hidden)
        x = jnp.concatenate([prefix, segments.reshape(batch, regions * length, width)], axis=1)
        x, (kept, hidden) = self._run(constrain(x, "tokens"), None, places)
        intermediates = {"kept": kept} | ({"hidden": hidden} if keep_hidden else {})
        return x[:, :size], x[:, size:].reshape(segments.shape), intermediates

    def _before(self, prefix_mask, size):
        """Position of a segment's first token (int or i32 [B, 1, 1]), positions of the prefix."""
        if prefix_mask is None:
            return size, jnp.arange(size)
        return prefix_mask.sum(-1, dtype=jnp.int32)[:, None, None], _counted(prefix_mask)

    def _run(self, x, cache, places):
        local = [kind == "local" for kind in self.config.kinds]
        x, out = self.layers(x, (np.array(local) if self.config.window else None, cache), places)
        return self.norm(x), out

    def prefill(self, prefix, segments, room, prefix_mask=None, mask=None):
        """Like `__call__`, and returns prefix and segment hidden states and a Cache.

        Args:
          room: how many more tokens a segment can take.
        """
        hidden = self(prefix, segments, prefix_mask, mask)
        prefix_k, prefix_v, own_k, own_v = hidden[2]["kept"]
        pad = [(0, 0)] * 3 + [(0, room)] + [(0, 0)] * 2
        filled = jnp.ones(segments.shape[:3], bool) if mask is None else mask
        cache = Cache(
            *(prefix_k, prefix_v, jnp.pad(own_k, pad), jnp.pad(own_v, pad), prefix_mask),
            filled=jnp.pad(filled, [(0, 0), (0, 0), (0, room)]),
            place=jnp.asarray(segments.shape[2], jnp.int32),
        )
        return hidden[0], hidden[1], cache

    def advance(self, cache, tokens, plus=0.0):
        """One more token a segment: i32 [B, R] → logits f32 [B, R, V] and the grown cache.

        Args:
          plus: [B, R, D], added to the tokens' embeddings.
        """
        before, at = self._before(cache.prefix_mask, cache.prefix_k.shape[2])
        filled = cache.filled | (jnp.arange(cache.filled.shape[-1]) == cache.place)
        own = before + _counted(filled)  # [B, R, C]
        new = own.max(-1)  # [B, R]
        full, local = _visible(
            self.config, new[..., None], at, cache.prefix_mask, own, filled[:, :, None]
        )
        shape = at.shape[-1], new.shape[1], 1
        places = Places(new, cache.prefix_mask, full, local, cache.place, shape)
        kept = (cache.prefix_k, cache.prefix_v, cache.own_k, cache.own_v)
        x, ((own_k, own_v), _) = self._run(self.embed(tokens) + plus, kept, places)
        cache = cache.replace(own_k=own_k, own_v=own_v, filled=filled, place=cache.place + 1)
        return self.logits(x), cache

    def read(self, tokens, mask=None, keep_hidden=False):
        """Plain text: i32 [B, L] → logits f32 [B, L, V] and the intermediates of `__call__`.

        Args:
          mask: bool [B, L], which tokens are real, wherever the padding lies; all unless given.
        """
        mask = None if mask is None else mask[:, None]
        x = self.embed(tokens)
        _, hidden, intermediates = self(x[:, :0], x[:, None], None, mask, keep_hidden)
        return self.logits(hidden[:, 0]), intermediates

    def start(self, tokens, mask, room):
        """Like `read`, for generation: logits f32 [B, 1, V] of the next token, and a Cache."""
        x = self.embed(tokens)
        _, hidden, cache = self.prefill(x[:, :0], x[:, None], room, None, mask[:, None])
        return self.logits(last_real(hidden, mask[:, None])), cache


# Paths below the decoder's own scope. Axis 0 of everything under `layers` is the layer. Widths are
# split over fsdp; heads, hidden units and the vocabulary over tensor; vectors are replicated.
SHARDING_RULES = (
    (r"layers/(query|key|value)/kernel", P(None, "fsdp", "tensor", None)),
    (r"layers/attention_out/kernel", P(None, "tensor", None, "fsdp")),
    (r"layers/mlp_(gate|up)/kernel", P(None, "fsdp", "tensor")),
    (r"layers/mlp_out/kernel", P(None, "tensor", "fsdp")),
    (r"(output_)?embedding", P("tensor", "fsdp")),
    (r".*scale", P()),
)
