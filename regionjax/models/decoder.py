"""Decoder-only language model over one image and R segments (Gemma class).

RMSNorm, rotary positions, grouped key-value heads, gated MLP, tied embedding. The same layers run
over the whole packed sequence (training, scoring, prefill) and over one new token a segment
(cached generation).
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from regionjax.models import attention, layers
from regionjax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the language model. `kv_heads` must divide `heads`; `head_width` must be even."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        layers.check_remat(self.remat)
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.head_width % 2:
            raise ValueError(f"head_width {self.head_width} is odd; rotary positions need pairs")


@flax.struct.dataclass
class Cache:
    """Keys and values of a prefix.

    Image keys and values are shared by all regions: [layers, B, P, K, H]. A segment's own are
    [layers, B, R, C, K, H] with room for C tokens; `length` i32 [B, R] of them are filled.
    """

    image_k: jax.Array
    image_v: jax.Array
    own_k: jax.Array
    own_v: jax.Array
    length: jax.Array

    def take(self, index):
        """The segments `index` i32 [B, R'] of this cache, which may repeat (beam search)."""
        own = index[None, :, :, None, None, None]
        return self.replace(
            own_k=jnp.take_along_axis(self.own_k, own, axis=2),
            own_v=jnp.take_along_axis(self.own_v, own, axis=2),
            length=jnp.take_along_axis(self.length, index, axis=1),
        )


class Block(nn.Module):
    """One decoder layer; with `cache` it runs over new segment tokens only."""

    config: DecoderConfig
    dtype: jnp.dtype

    def setup(self):
        c, dense = self.config, layers.dense
        norm = lambda: nn.RMSNorm(dtype=self.dtype)  # noqa: E731
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.query = dense((c.heads, c.head_width), self.dtype, bias=False)()
        self.key = dense((c.kv_heads, c.head_width), self.dtype, bias=False)()
        self.value = dense((c.kv_heads, c.head_width), self.dtype, bias=False)()
        self.attention_out = dense(c.width, self.dtype, bias=False, inputs=2)()
        self.mlp_gate = dense(c.mlp_width, self.dtype, bias=False)()
        self.mlp_up = dense(c.mlp_width, self.dtype, bias=False)()
        self.mlp_out = dense(c.width, self.dtype, bias=False)()

    def _project(self, x, positions):
        """Queries, keys and values of [B, S, D], rotated to their positions."""
        y = self.attention_norm(x)
        q = constrain(attention.rotate(self.query(y), positions), "heads")
        k = constrain(attention.rotate(self.key(y), positions), "heads")
        v = constrain(self.value(y), "heads")
        return layers.point(q, "query"), layers.point(k, "key"), layers.point(v, "value")

    def _finish(self, x, attended):
        """The rest of the layer after attention: [B, S, D]."""
        y = self.attention_out(constrain(attended, "heads"))
        x = constrain(x + layers.point(y, "attention_out"), "tokens")
        y = self.mlp_norm(x)
        gate = layers.point(self.mlp_gate(y), "mlp_gate")
        up = layers.point(self.mlp_up(y), "mlp_up")
        y = self.mlp_out(constrain(nn.silu(gate) * up, "hidden"))
        return constrain(x + layers.point(y, "mlp_out"), "tokens")

    def __call__(self, x, cache, positions, filled):
        """[B, S, D] → ([B, S, D], this layer's keys and values).

        Without `cache`: S = P + R·L, `positions` i32 [R, L] are those of the segments, and the keys
        and values of all tokens are returned. With it: S = R, one new token a segment, at
        `positions` i32 [B, R], written to the cache at `filled` i32 [B, R].
        """
        if cache is None:
            return self._packed(x, positions)
        return self._cached(x, cache, positions, filled)

    def _packed(self, x, positions):
        regions, length = positions.shape
        patches = x.shape[1] - positions.size
        q, k, v = self._project(x, jnp.concatenate([jnp.arange(patches), positions.reshape(-1)]))
        image = slice(None, patches)

        def own(t):
            return t[:, patches:].reshape(t.shape[0], regions, length, *t.shape[2:])

        causal = jnp.tril(jnp.ones((length, length), bool))
        seen = attention.attend(q[:, image], k[:, image], v[:, image])
        pointed = attention.attend_segments(
            own(q), k[:, image], v[:, image], own(k), own(v), causal
        )
        pointed = pointed.reshape(x.shape[0], -1, *seen.shape[2:])
        x = self._finish(x, jnp.concatenate([seen, pointed], axis=1))
        return x, (k[:, image], v[:, image], own(k), own(v))

    def _cached(self, x, cache, positions, filled):
        image_k, image_v, own_k, own_v = cache
        q, k, v = self._project(x, positions)
        at = jnp.arange(own_k.shape[2])  # [C]
        here = (at == filled[..., None])[..., None, None]  # [B, R, C, 1, 1]
        own_k = jnp.where(here, k[:, :, None], own_k)
        own_v = jnp.where(here, v[:, :, None], own_v)
        seen = at <= filled[..., None, None]  # [B, R, 1, C]
        y = attention.attend_segments(q[:, :, None], image_k, image_v, own_k, own_v, seen)
        return self._finish(x, y[:, :, 0]), (own_k, own_v)


class Decoder(nn.Module):
    """The language model; `embed`, `__call__`, `prefill`, `step` and `unembedding` are its face."""

    config: DecoderConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        self.embedding = self.param(
            "embedding", nn.initializers.normal(0.02), (c.vocabulary, c.width)
        )
        self.layers = layers.stack(Block, c.depth, c.remat, broadcast=2, unroll=c.unroll)(
            c, self.dtype
        )
        self.norm = nn.RMSNorm(dtype=self.dtype)

    def embed(self, tokens):
        """i32 [B, ...] → [B, ..., D], scaled by sqrt(D) as in Gemma."""
        table = self.embedding.astype(self.dtype)
        # Every device looks up its part of D for all tokens, then images change places with parts:
        # neither the table nor its gradient is ever whole.
        x = jnp.take(table, tokens.reshape(tokens.shape[0], -1), axis=0)
        x = constrain(constrain(x, "embedded"), "tokens")
        return x.reshape(*tokens.shape, -1) * self.config.width**0.5

    def unembedding(self):
        """[V, D], tied to the input embedding; logits are hidden · unembeddingᵀ."""
        return self.embedding

    def __call__(self, image, segments):
        """Runs the packed sequence.

        Args:
          image: [B, P, D] image tokens; segments: [B, R, L, D] embedded segments.

        Returns:
          image hidden states [B, P, D], segment hidden states [B, R, L, D], and every layer's keys
          and values: (image k, image v [layers, B, P, K, H], own k, own v [layers, B, R, L, K, H]).
        """
        batch, patches, width = image.shape
        regions, length = segments.shape[1:3]
        x = jnp.concatenate([image, segments.reshape(batch, -1, width)], axis=1)
        positions = jnp.tile(patches + jnp.arange(length), (regions, 1))  # restart a segment
        x, kept = self.layers(constrain(x, "tokens"), None, positions, None)
        x = self.norm(x)
        return x[:, :patches], x[:, patches:].reshape(segments.shape), kept

    def prefill(self, image, segments, lengths, room):
        """Like `__call__`, and returns segment hidden states and a Cache with `room` more tokens.

        Args:
          lengths: i32 [B, R], how many tokens of each segment are real; the rest is overwritten
            by the tokens to come before anything can attend to it.
        """
        _, hidden, (image_k, image_v, own_k, own_v) = self(image, segments)
        pad = [(0, 0)] * 3 + [(0, room)] + [(0, 0)] * 2
        cache = Cache(image_k, image_v, jnp.pad(own_k, pad), jnp.pad(own_v, pad), lengths)
        return hidden, cache

    def step(self, tokens, cache):
        """One new token a segment: i32 [B, R] → hidden [B, R, D] and the grown cache."""
        x = self.embed(tokens)
        positions = cache.image_k.shape[2] + cache.length  # [B, R]
        kept = (cache.image_k, cache.image_v, cache.own_k, cache.own_v)
        x, (own_k, own_v) = self.layers(x, kept, positions, cache.length)
        return self.norm(x), cache.replace(own_k=own_k, own_v=own_v, length=cache.length + 1)
