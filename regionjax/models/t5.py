"""T5 (Raffel et al. 2020), T5 v1.1 and Flan-T5: encoder-decoder with relative position buckets.

RMSNorm before every part, no biases, scores that are not scaled by the head width. A learned number
a head and bucket of distance, the same in all layers of a stack, is added to the scores. Inputs are
tokens or their embeddings. The decoder runs over whole targets (training, scoring), scanned over
its layers, or token by token, layer after layer, with a cache in which all continuations of an
input share its keys and values.
"""

import dataclasses
import math
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from regionjax.models import attention, layers, t5_cache
from regionjax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5. v1.0 is `activation="relu", gated=False, tied=True, scaled=True`.

    `depth` and `decoder_depth` are the layers of the two stacks, `mlp_width` the units between an
    MLP's two products. `tied`: the vocabulary's logits come from the input embedding; `scaled`:
    they are divided by the root of the width. Distances up to a quarter of `buckets` (a half in the
    decoder) have a bucket each, longer ones share the rest up to `max_distance`.
    """

    vocabulary: int
    width: int
    depth: int
    decoder_depth: int
    heads: int
    head_width: int
    mlp_width: int
    activation: str = "gelu_tanh"
    gated: bool = True
    tied: bool = False
    scaled: bool = False
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    start_id: int = 0
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        layers.check_remat(self.remat)
        layers.check_activation(self.activation)
        if self.buckets < 4 or self.buckets % 2 or self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"buckets {self.buckets} must be even and at least 4, "
                f"max_distance {self.max_distance} above half of it"
            )


def buckets(distance, count, max_distance, both_ways):
    """Bucket of each distance (key's place − query's), numpy integers in 0…count − 1.

    Half of the buckets hold one distance each, the others grow with the logarithm. `both_ways`
    halves them between keys before and after the query; otherwise keys after it have bucket 0.
    """
    first = 0
    if both_ways:
        count //= 2
        first = np.where(distance > 0, count, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    growth = np.log(np.maximum(distance, exact) / exact) / math.log(max_distance / exact)
    far = exact + (growth * (count - exact)).astype(int)
    return first + np.where(distance < exact, distance, np.minimum(far, count - 1))


def shift_right(target, start_id):
    """Decoder inputs of the targets i32 [..., T]: the start token, then all but the last."""
    start = jnp.full_like(target[..., :1], start_id)
    return jnp.concatenate([start, target[..., :-1]], axis=-1)


class Block(nn.Module):
    """What the layers of both stacks share: self-attention and MLP, each behind its norm."""

    config: T5Config
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.attention_norm, self.mlp_norm = self.norm(), self.norm()
        self.query, self.key, self.value, self.attention_out = self.projections()
        if c.gated:
            self.mlp_gate = self.dense(c.mlp_width)
        self.mlp_up = self.dense(c.mlp_width)
        self.mlp_out = self.dense(c.width)

    def norm(self):
        return nn.RMSNorm(epsilon=self.config.epsilon, dtype=self.dtype)

    def dense(self, features, **settings):
        return layers.dense(features, self.dtype, bias=False, **settings)()

    def projections(self):
        """Query, key, value and output projection of one attention."""
        c = self.config
        heads = (c.heads, c.head_width)
        # Scores are not divided by the root of the head width: queries start smaller instead.
        query = self.dense(heads, variance=1 / c.head_width)
        return query, self.dense(heads), self.dense(heads), self.dense(c.width, inputs=2)

    def qkv(self, x):
        """Queries, keys and values of the self-attention, [B, T, N, H]."""
        y = self.attention_norm(x)
        q = layers.point(self.query(y), "query")
        return q, layers.point(self.key(y), "key"), layers.point(self.value(y), "value")

    def attend(self, q, k, v, out, mask, bias=None):
        q, k, v = (constrain(t, "heads") for t in (q, k, v))
        y = attention.attend(q, k, v, mask, bias, scale=1.0)
        return layers.point(out(y), "attention_out")

    def mlp(self, x):
        """x [B, T, D] and its MLP."""
        activation = layers.ACTIVATIONS[self.config.activation]
        y = self.mlp_norm(x)
        up = layers.point(self.mlp_up(y), "mlp_up")
        if self.config.gated:
            y = activation(layers.point(self.mlp_gate(y), "mlp_gate")) * up
        else:
            y = activation(up)
        y = layers.point(self.mlp_out(constrain(y, "hidden")), "mlp_out")
        return constrain(x + y, "tokens")


class EncoderBlock(Block):
    """One encoder layer."""

    def __call__(self, x, _, bias, mask):
        """[B, S, D] → the same, twice: as carry and as one of all layers' hidden states."""
        x = constrain(x + self.attend(*self.qkv(x), self.attention_out, mask, bias), "tokens")
        x = self.mlp(x)
        return x, x


class DecoderBlock(Block):
    """One decoder layer."""

    def setup(self):
        super().setup()
        self.cross_norm = self.norm()
        self.cross_query, self.cross_key, self.cross_value, self.cross_out = self.projections()

    def __call__(self, x, _, encoded, mask, bias, encoded_mask):
        """Whole targets [B·W, T, D] → (the same, (the same, this layer's keys and values)).

        Args:
          encoded: [B, S, D]; encoded_mask: bool [B, 1, S] or None.
          mask: bool [T, T]; bias: f32 [N, T, T].
        """
        q, *own = self.qkv(x)
        cross_k = layers.point(self.cross_key(encoded), "key")
        cross_v = layers.point(self.cross_value(encoded), "value")
        x = self.finish(x, q, own, (cross_k, cross_v), mask, bias, encoded_mask)
        return x, (x, (*own, cross_k, cross_v))

    def step(self, x, layer, mask, bias, encoded_mask, at):
        """One new token [B·R·W, 1, D] at place `at` → the same, and the grown LayerCache.

        Args:
          mask: bool [1, C]; bias: f32 [N, 1, C]; encoded_mask: bool [B·R, 1, S] or None.
        """
        q, k, v = self.qkv(x)
        layer = layer.write(k, v, at)
        return self.finish(x, q, *layer.read(), mask, bias, encoded_mask), layer

    def finish(self, x, q, own, cross, mask, bias, encoded_mask):
        """The rest of the layer, from queries, own and cross keys and values [..., N, H]."""
        x = constrain(x + self.attend(q, *own, self.attention_out, mask, bias), "tokens")
        q = layers.point(self.cross_query(self.cross_norm(x)), "query")
        # The W continuations of an input ask its keys side by side: [B, W·T, N, H].
        q = q.reshape(cross[0].shape[0], -1, *q.shape[2:])
        y = self.attend(q, *cross, self.cross_out, encoded_mask)
        return self.mlp(constrain(x + y.reshape(x.shape), "tokens"))


class Stack(nn.Module):
    """What encoder and decoder share: the bias of distances, the layers and the last norm."""

    config: T5Config
    dtype: jnp.dtype

    def begin(self, block, depth, broadcast):
        """To be called in `setup`."""
        c = self.config
        self.relative_position_bias = self.param(
            "relative_position_bias",
            nn.initializers.normal(c.width**-0.5),
            (c.buckets, c.heads),
        )
        self.layers = layers.stack(block, depth, c.remat, broadcast, c.unroll)(c, self.dtype)
        self.norm = nn.RMSNorm(epsilon=c.epsilon, dtype=self.dtype)

    def bias(self, bucket):
        """f32 [N, T, C] of the buckets [T, C]."""
        return jnp.moveaxis(jnp.take(self.relative_position_bias, bucket, axis=0), -1, 0)


class Encoder(Stack):
    """Embeddings [B, S, D] and their mask, bool [B, S] or None → hidden [B, S, D]."""

    def setup(self):
        self.begin(EncoderBlock, self.config.depth, broadcast=2)

    def __call__(self, x, mask):
        """Returns hidden [B, S, D] and every layer's output before the last norm [layers, …]."""
        c, place = self.config, np.arange(x.shape[1])
        bucket = buckets(place[None] - place[:, None], c.buckets, c.max_distance, both_ways=True)
        mask = None if mask is None else mask[:, None]
        x, states = self.layers(constrain(x, "tokens"), None, self.bias(bucket), mask)
        return self.norm(x), states


class Decoder(Stack):
    """Embeddings of targets → hidden states that predict the next token."""

    def setup(self):
        self.begin(DecoderBlock, self.config.decoder_depth, broadcast=4)

    def __call__(self, x, encoded, mask):
        """Whole targets [B·W, T, D], W in a row of the same input, encoded [B, S, D].

        Returns:
          hidden [B·W, T, D]; every layer's output before the last norm [layers, …]; every layer's
          own k, own v [layers, B·W, T, N, H] and cross k, cross v [layers, B, S, N, H].
        """
        c, place = self.config, np.arange(x.shape[1])
        bucket = buckets(place[None] - place[:, None], c.buckets, c.max_distance, both_ways=False)
        causal = place[None] <= place[:, None]
        mask = None if mask is None else mask[:, None]
        x, (states, kept) = self.layers(
            constrain(x, "tokens"), None, encoded, causal, self.bias(bucket), mask
        )
        return self.norm(x), states, kept

    def layer_params(self):
        """Every layer's parameters, kernels in the compute dtype."""
        params = self.layers.variables["params"]
        # Norms compute in float32, whatever the dtype; their scales are the stacked vectors.
        params = jax.tree.map(lambda t: t.astype(self.dtype) if t.ndim > 2 else t, params)
        depth = self.config.decoder_depth
        return [jax.tree.map(operator.itemgetter(i), params) for i in range(depth)]

    def step(self, x, cache):
        """One new token [B, R·W, D] → hidden [B, R·W, D] and the grown cache."""
        c, shape, place = self.config, x.shape, np.arange(cache.room)
        by_distance = buckets(-place, c.buckets, c.max_distance, both_ways=False)
        bucket = jnp.asarray(by_distance)[jnp.maximum(cache.length - place, 0)]
        bias, seen = self.bias(bucket[None]), (place <= cache.length)[None]
        mask = None if cache.mask is None else cache.mask[:, None]
        block, grown = DecoderBlock(c, self.dtype, parent=None), []
        x = constrain(x.reshape(-1, 1, c.width), "tokens")
        for layer in cache.layers:
            args = x, layer, seen, bias, mask, cache.length
            x, layer = block.apply({"params": layer.params}, *args, method="step")
            grown.append(layer)
        cache = cache.replace(layers=tuple(grown), length=cache.length + 1)
        return self.norm(x).reshape(shape), cache


class T5(nn.Module):
    """Encoder-decoder; `embed`, `__call__`, `prefill`, `advance`, `unembedding` are its face."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        shape = (c.vocabulary, c.width)
        self.embedding = self.param("embedding", nn.initializers.normal(1.0), shape)
        if not c.tied:
            self.output_embedding = self.param(
                "output_embedding", nn.initializers.normal(c.width**-0.5), shape
            )
        self.encoder = Encoder(c, self.dtype)
        self.decoder = Decoder(c, self.dtype)

    def embed(self, tokens):
        """i32 [B, …] → [B, …, D]."""
        # As in Decoder.embed: neither the table nor its gradient is ever whole.
        x = jnp.take(self.embedding.astype(self.dtype), tokens.reshape(tokens.shape[0], -1), axis=0)
        x = constrain(constrain(x, "embedded"), "tokens")
        return x.reshape(*tokens.shape, self.config.width)

    def unembedding(self):
        """[V, D]; logits are hidden · unembeddingᵀ."""
        return self.embedding if self.config.tied else self.output_embedding

    def logits(self, hidden):
        """f32 [..., V]"""
        table = self.unembedding().astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)

    def encode(self, inputs, mask=None):
        """Tokens i32 [B, S] or embeddings [B, S, D] → hidden [B, S, D] and all layers' outputs.

        Args:
          mask: bool [B, S], True for real tokens, which may lie anywhere; None: all are.
        """
        is_tokens = jnp.issubdtype(inputs.dtype, jnp.integer)
        return self.encoder(self.embed(inputs) if is_tokens else inputs, mask)

    def decode(self, tokens, encoded, mask=None):
        """Decoder inputs i32 [B·W, T] → what Decoder returns, scaled so as to give the logits."""
        hidden, states, kept = self.decoder(self.embed(tokens), encoded, mask)
        return self._scale(hidden), states, kept

    def _scale(self, hidden):
        return hidden * self.config.width**-0.5 if self.config.scaled else hidden

    def __call__(self, inputs, tokens, mask=None):
        """Teacher forcing.

        Args:
          inputs: i32 [B, S] or [B, S, D], mask: bool [B, S] or None; see `encode`.
          tokens: decoder inputs i32 [B·W, T] (see `shift_right`), W in a row of the same input.
            Padding at the end needs no mask, since nothing before it looks there.

        Returns:
          hidden [B·W, T, D], of which `logits` makes logits, and the intermediates: `encoded`
          [B, S, D], and every layer's output, `encoder` and `decoder` [layers, …, D].
        """
        encoded, encoder = self.encode(inputs, mask)
        hidden, decoder, _ = self.decode(tokens, encoded, mask)
        return hidden, {"encoded": encoded, "encoder": encoder, "decoder": decoder}

    def prefill(self, inputs, mask, room):
        """Encodes R inputs an image and begins to decode.

        Args:
          inputs: i32 [B, R, S] or [B, R, S, D]; mask: bool [B, R, S] or None.
          room: how many tokens can follow.

        Returns:
          logits f32 [B, R, V] of the first token, and a t5_cache.Cache.
        """
        batch, regions = inputs.shape[:2]
        flat = None if mask is None else mask.reshape(batch * regions, -1)
        encoded, _ = self.encode(inputs.reshape(batch * regions, *inputs.shape[2:]), flat)
        start = jnp.full((batch * regions, 1), self.config.start_id)
        hidden, _, kept = self.decode(start, encoded, flat)
        cache = t5_cache.start(kept, self.decoder.layer_params(), flat, room)
        return self.logits(hidden).reshape(batch, regions, -1), cache

    def advance(self, cache, tokens):
        """One more token: i32 [B, R·W] → logits f32 [B, R·W, V] and the grown cache."""
        x, cache = self.decoder.step(self.embed(tokens), cache)
        return self.logits(self._scale(x)), cache


def _v1_1(width, depth, heads, mlp_width):
    return T5Config(32128, width, depth, depth, heads, 64, mlp_width)


def _v1_0(width, depth, heads, mlp_width, head_width=64):
    sizes = (32128, width, depth, depth, heads, head_width, mlp_width)
    return T5Config(*sizes, activation="relu", gated=False, tied=True, scaled=True)


_V1_1 = {
    "small": _v1_1(512, 8, 6, 1024),
    "base": _v1_1(768, 12, 12, 2048),
    "large": _v1_1(1024, 24, 16, 2816),
    "xl": _v1_1(2048, 24, 32, 5120),
    "xxl": _v1_1(4096, 24, 64, 10240),
}

# By the names of the public checkpoints.
PRESETS = {
    "t5-small": _v1_0(512, 6, 8, 2048),
    "t5-base": _v1_0(768, 12, 12, 3072),
    "t5-large": _v1_0(1024, 24, 16, 4096),
    "t5-3b": _v1_0(1024, 24, 32, 16384, 128),
    "t5-11b": _v1_0(1024, 24, 128, 65536, 128),
    **{f"t5-v1_1-{size}": config for size, config in _V1_1.items()},
    **{f"flan-t5-{size}": config for size, config in _V1_1.items()},
}

# Axis 0 of everything under `layers` is the layer. Widths are split over fsdp, heads, hidden units
# and the vocabulary over tensor.
SHARDING_RULES = (
    (
        r"(encoder|decoder)/layers/(cross_)?(query|key|value)/kernel",
        P(None, "fsdp", "tensor", None),
    ),
    (r"(encoder|decoder)/layers/(attention|cross)_out/kernel", P(None, "tensor", None, "fsdp")),
    (r"(encoder|decoder)/layers/mlp_(gate|up)/kernel", P(None, "fsdp", "tensor")),
    (r"(encoder|decoder)/layers/mlp_out/kernel", P(None, "tensor", "fsdp")),
    (r"(encoder|decoder)/relative_position_bias", P(None, "tensor")),
    (r"(encoder|decoder)/.*scale", P()),
    (r"(output_)?embedding$", P("tensor", "fsdp")),
)
