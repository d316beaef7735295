"""BERT (Devlin et al. 2019): post-norm layers over text, with or without a view of an image.

By configuration this is BERT-base; the Q-Former of BLIP-2 and InstructBLIP, where learnt queries
stand before the text and they alone look at the image, in every second layer; and the two halves of
ALBEF's text encoder, of which the second takes hidden states and looks at the image in every layer.

R texts, or sets of queries, share an image: each layer computes its keys and values once, and all
R·S tokens attend to them side by side.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from regionjax.models import attention, layers
from regionjax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT.

    Attributes:
      vocabulary: 0 means no embeddings: hidden states come in, or there are queries only.
      positions: the longest text; token_types: rows of a table of which the first is used.
      queries: learnt tokens before the text, with an MLP of their own.
      cross_every: layers a cross-attention, which the first of them has: 0 (none), 1 or 2.
      encoder_width: of what cross-attention looks at.
      head: whether there is a masked language head.
      dropout: of hidden states and of attention, while training.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    vocabulary: int = 0
    positions: int = 512
    token_types: int = 0
    queries: int = 0
    cross_every: int = 0
    encoder_width: int = 0
    head: bool = False
    dropout: float = 0.1
    epsilon: float = 1e-12
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        layers.check_remat(self.remat)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.cross_every not in (0, 1, 2):
            raise ValueError(f"cross_every is {self.cross_every}; known: 0, 1, 2")
        if self.cross_every and self.depth % self.cross_every:
            raise ValueError(f"depth {self.depth} is not a multiple of {self.cross_every} layers")
        if bool(self.cross_every) != bool(self.encoder_width):
            raise ValueError(
                f"cross_every is {self.cross_every} and encoder_width {self.encoder_width}; "
                "both must be above 0, or neither"
            )
        for name in ("head", "token_types"):
            if getattr(self, name) and not self.vocabulary:
                raise ValueError(f"{name} needs a vocabulary, and there is none")

    @property
    def kinds(self):
        """The layers that repeat, in order."""
        return ("cross", "plain")[: self.cross_every] or ("plain",)


_base = {"width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
_qformer = {**_base, "queries": 32, "cross_every": 2, "encoder_width": 1408}
_half = {**_base, "depth": 6}
PRESETS = {
    "bert-base-uncased": BertConfig(**_base, vocabulary=30522, token_types=2, head=True),
    "blip2-qformer": BertConfig(**_qformer),
    "instructblip-qformer": BertConfig(**_qformer, vocabulary=30523),
    "albef-text": BertConfig(**_half, vocabulary=30522, token_types=2, head=True),
    "albef-fusion": BertConfig(**_half, cross_every=1, encoder_width=768),
}


class Layer(nn.Module):
    """x = norm(x + self-attention); maybe norm(x + cross-attention); norm(x + MLP)."""

    config: BertConfig
    dtype: jnp.dtype
    cross: bool
    brief: bool = False  # the queries alone go on

    @nn.compact
    def __call__(self, x, perturbation, mask, encoded):
        """[B·R, S, D] → the same and the probabilities of cross-attention [B, N, R, S, P].

        `brief` leaves [B·R, queries, D].
        """
        c = self.config
        taken = x[:, : c.queries] if self.brief else x
        x = self._add("attention", taken, self._attend(taken, x, mask))
        # What looks at the image: the queries, or all tokens where there are none.
        front, text = jnp.split(x, [c.queries or x.shape[1]], axis=1)
        seen = None
        if self.cross:
            y, seen = self._look(front, encoded, perturbation)
            front = self._add("cross", front, y)
        front = self._mlp("query_mlp" if c.queries else "mlp", front)
        if text.shape[1]:
            front = jnp.concatenate([front, self._mlp("mlp", text)], axis=1)
        return constrain(front, "tokens"), seen

    def _drop(self, x):
        dropout = nn.Dropout(self.config.dropout, deterministic=not self.has_rng("dropout"))
        return dropout(x)

    def _add(self, name, x, y):
        """norm(x + y), where y is what attention gathered or an MLP's hidden units."""
        kind = "mlp_out" if "mlp" in name else "attention_out"
        inputs = y.ndim - x.ndim + 1
        y = layers.dense(x.shape[-1], self.dtype, inputs=inputs)(name=f"{name}_out")(y)
        x = constrain(x + self._drop(layers.point(y, kind)), "tokens")
        norm = nn.LayerNorm(epsilon=self.config.epsilon, dtype=self.dtype, name=f"{name}_norm")
        return norm(x)

    def _heads(self, name, kind, x):
        """[B, S, …] → [B, S, N, H]"""
        c = self.config
        dense = layers.dense((c.heads, c.width // c.heads), self.dtype)(name=name)
        return constrain(layers.point(dense(x), kind), "heads")

    def _attend(self, taken, x, mask):
        """taken [B·R, S', D] attends to x [B·R, S, D]: [B·R, S', N, H]."""
        q = self._heads("query", "query", taken)
        k, v = (self._heads(name, name, x) for name in ("key", "value"))
        return attention.weighted_sum(self._drop(attention.probabilities(q, k, mask)), v)

    def _look(self, x, encoded, perturbation):
        """x [B·R, S, D] attends to encoded [B, P, E]: [B·R, S, N, H], and how: [B, N, R, S, P]."""
        q = self._heads("cross_query", "query", x)
        k = self._heads("cross_key", "key", encoded)
        v = self._heads("cross_value", "value", encoded)
        images, shape = encoded.shape[0], q.shape
        q = q.reshape(images, -1, *shape[2:])  # [B, R·S, N, H]
        weights = attention.probabilities(q, k)
        if perturbation is not None:
            weights += perturbation.reshape(weights.shape)
        y = attention.weighted_sum(self._drop(weights), v).reshape(shape)
        return y, weights.reshape(*weights.shape[:2], -1, shape[1], weights.shape[-1])

    def _mlp(self, name, x):
        y = layers.dense(self.config.mlp_width, self.dtype)(name=f"{name}_up")(x)
        y = constrain(layers.point(y, "mlp_up"), "hidden")
        return self._add(name, x, layers.ACTIVATIONS["gelu"](y))


class Group(nn.Module):
    """The layers that repeat: [B·R, S, D] → the same, what each returns, and probabilities.

    `brief`: [B·R, queries, D] and nothing else, as the hidden states differ in length then.
    """

    config: BertConfig
    dtype: jnp.dtype
    brief: bool = False  # of the last layer the queries alone go on

    @nn.compact
    def __call__(self, x, perturbation, mask, encoded):
        hidden, probabilities = [], None
        for kind in self.config.kinds:
            brief = self.brief and kind == self.config.kinds[-1]
            layer = Layer(self.config, self.dtype, kind == "cross", brief, name=kind)
            x, seen = layer(x, perturbation, mask, encoded)
            hidden.append(x)
            probabilities = probabilities if seen is None else seen
        return x, None if self.brief else (jnp.stack(hidden), probabilities)


class MaskedHead(nn.Module):
    """Logits of tokens: one more layer, then the embedding table and a bias for each token."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden, table):
        """[..., D] and [V, D] → f32 [..., V]"""
        c = self.config
        x = layers.ACTIVATIONS["gelu"](layers.dense(c.width, self.dtype)(name="transform")(hidden))
        x = nn.LayerNorm(epsilon=c.epsilon, dtype=self.dtype, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (c.vocabulary,))
        table = table.astype(self.dtype)
        return jnp.einsum("...d,vd->...v", x, table, preferred_element_type=jnp.float32) + bias


class Bert(nn.Module):
    """Text, queries, or both, with or without a view of an image.

    Dropout is on when `apply` is given an rng called "dropout".
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c, normal = self.config, nn.initializers.normal(0.02)
        if c.vocabulary:
            self.embedding = self.param("embedding", normal, (c.vocabulary, c.width))
            self.position_embedding = self.param(
                "position_embedding", normal, (c.positions, c.width)
            )
        if c.token_types:
            self.token_type_embedding = self.param(
                "token_type_embedding", normal, (c.token_types, c.width)
            )
        if c.queries:
            self.query_tokens = self.param("query_tokens", normal, (c.queries, c.width))
        if c.vocabulary or c.queries:
            self.embedding_norm = nn.LayerNorm(epsilon=c.epsilon, dtype=self.dtype)
        self.dropout = nn.Dropout(c.dropout)
        self.layers = layers.stack(
            Group, c.depth // len(c.kinds), c.remat, broadcast=2, unroll=c.unroll
        )(c, self.dtype)
        if c.head:
            self.head = MaskedHead(c, self.dtype)

    def __call__(self, text=None, mask=None, encoded=None, perturbation=None):
        """Runs all layers.

        Args:
          text: i32 [B, R, T] tokens; hidden states [B, R, T, D] without a vocabulary; None for
            queries alone, of which there is one set an image then (R = 1).
          mask: bool [B, R, T], False for padding, on whichever side.
          encoded: [B, P, E] what cross-attention looks at.
          perturbation: f32, added to the `probabilities` below before they are used. Its gradient
            at zero is theirs (GradCAM), also inside a function that is differentiated again.

        Returns:
          hidden [B, R, S, D], where S = queries + T, and a dictionary:
            embedding [B, R, S, D]: what the first layer sees;
            hidden [layers, B, R, S, D]: what each layer returns;
            probabilities f32 [cross layers, B, N, R, S', P]: of cross-attention, after softmax and
              before dropout; S' are the queries, or the text where there are none.
        """
        c = self.config
        self._check(text, encoded)
        images = encoded.shape[0] if text is None else text.shape[0]
        x, mask = self._embed(text, mask, images)
        regions = x.shape[0] // images
        shape = (images, regions, *x.shape[1:])
        embedding = x.reshape(shape)
        x, (hidden, probabilities) = self.layers(x, perturbation, mask, encoded)
        intermediates = {"embedding": embedding, "hidden": hidden.reshape(c.depth, *shape)}
        if probabilities is not None:
            intermediates["probabilities"] = probabilities
        x = x.reshape(shape)
        if c.head and self.is_initializing():
            self.logits(x)
        return x, intermediates

    def gathered(self, text=None, mask=None, encoded=None):
        """What the queries return, [B, R, queries, D]; arguments as those of `__call__`.

        The same numbers for less work, but for the places of dropout: in the last layer nothing is
        computed of the text but what the queries read of it.
        """
        c = self.config
        if text is None or self.is_initializing():
            return self(text, mask, encoded)[0][:, :, : c.queries]
        self._check(text, encoded)
        x, mask = self._embed(text, mask, text.shape[0])
        count, keys = c.depth // len(c.kinds), None
        if self.has_rng("dropout"):
            keys = jax.random.split(self.make_rng("dropout"), count)
        groups = self.layers.variables["params"], keys

        def run(x, group, last=False):
            params, key = group
            block = layers.rematerialised(Group, c.remat, scanned=not last)
            module = block(c, self.dtype, brief=last, parent=None)
            rngs = {} if key is None else {"dropout": key}
            return module.apply({"params": params}, x, None, mask, encoded, rngs=rngs)[0], None

        if count > 1:
            before = jax.tree.map(lambda stacked: stacked[:-1], groups)
            x, _ = jax.lax.scan(run, x, before, unroll=c.unroll)
        x, _ = run(x, jax.tree.map(lambda stacked: stacked[-1], groups), last=True)
        return x.reshape(*text.shape[:2], c.queries, -1)

    def _check(self, text, encoded):
        c = self.config
        if text is None and not (c.queries and c.cross_every):
            raise ValueError("text is None; only queries that look at an image go without")
        if text is not None and text.ndim != (3 if c.vocabulary else 4):
            known = "tokens [B, R, T]" if c.vocabulary else f"hidden states [B, R, T, {c.width}]"
            raise ValueError(
                f"text is {list(text.shape)}; with vocabulary {c.vocabulary} it is {known}"
            )
        if (encoded is None) != (c.cross_every == 0):
            given = "None" if encoded is None else list(encoded.shape)
            raise ValueError(f"encoded is {given}, but cross_every is {c.cross_every}")
        if encoded is not None and encoded.shape[-1] != c.encoder_width:
            raise ValueError(
                f"encoded is {list(encoded.shape)}, expected [B, P, {c.encoder_width}]"
            )

    def _embed(self, text, mask, images):
        """Queries and text as the first layer sees them, and which of them are seen.

        Returns:
          [B·R, S, D] and bool [B·R, 1, S], or None for all.
        """
        c, x = self.config, None
        if text is not None:
            rows, length = text.shape[0] * text.shape[1], text.shape[2]
            x = self._tokens(text) if c.vocabulary else text.reshape(rows, length, c.width)
            x = x.astype(self.dtype)
        if c.queries:
            rows = images if x is None else rows
            queries = self.query_tokens.astype(self.dtype)
            queries = jnp.broadcast_to(queries, (rows, *queries.shape))
            x = queries if x is None else jnp.concatenate([queries, x], axis=1)
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (0, 0), (c.queries, 0)), constant_values=True)
            mask = mask.reshape(rows, 1, -1)
        if c.vocabulary or c.queries:
            x = self.embedding_norm(x)
            x = self.dropout(x, deterministic=not self.has_rng("dropout"))
        return constrain(x, "tokens"), mask

    def _tokens(self, text):
        """i32 [B, R, T] → [B·R, T, D]: words, positions and the first token type."""
        c, (images, regions, length) = self.config, text.shape
        if length > c.positions:
            raise ValueError(f"a text of {length} tokens, but there are {c.positions} positions")
        # As models/decoder.py: every device looks up its part of D.
        x = jnp.take(self.embedding.astype(self.dtype), text.reshape(images, -1), axis=0)
        x = constrain(constrain(x, "embedded"), "tokens")
        place = self.position_embedding[:length]
        if c.token_types:
            place = place + self.token_type_embedding[0]
        return x.reshape(images * regions, length, -1) + place.astype(self.dtype)

    def logits(self, hidden):
        """Of the masked language head: [..., D] → f32 [..., V]."""
        return self.head(hidden, self.embedding)


def sharding_rules(config):
    """Rows for the parameters that this configuration has.

    Axis 0 of everything under `layers` is the group of layers.
    """
    rows = [
        (r"layers/\w+/(cross_)?(query|key|value)/kernel", P(None, "fsdp", "tensor", None)),
        (r"layers/\w+/(cross_)?(query|key|value)/bias", P(None, "tensor", None)),
        (r"layers/\w+/(attention|cross)_out/kernel", P(None, "tensor", None, "fsdp")),
        (r"layers/\w+/(query_)?mlp_up/kernel", P(None, "fsdp", "tensor")),
        (r"layers/\w+/(query_)?mlp_up/bias", P(None, "tensor")),
        (r"layers/\w+/(query_)?mlp_out/kernel", P(None, "tensor", "fsdp")),
    ]
    if config.vocabulary or config.queries:
        rows.append((r"(query_tokens|position_embedding|token_type_embedding)", P(None, "fsdp")))
    if config.vocabulary:
        rows.append((r"embedding$", P("tensor", "fsdp")))
    if config.head:
        rows.append((r"head/transform/kernel", P("fsdp", None)))
    return (*rows, (r".*(bias|scale)", P()))
