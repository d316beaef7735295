"""PaliGemma 1 and 2: a SigLIP tower, a linear projector, Gemma over `[image | question | answer]`.

Image and question form one prefix that sees itself in both directions; the answer follows causally.
Since the image's tokens see the question, R questions about an image share the tower only.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from regionjax.models import decoder, decoder_config, layers, vit
from regionjax.sharding import prefixed


@dataclasses.dataclass(frozen=True)
class PaliGemmaConfig:
    """Its tower and its language model; `vit` has neither class token nor pool."""

    vit: vit.ViTConfig
    decoder: decoder_config.DecoderConfig

    def __post_init__(self):
        if self.vit.attention_pool or self.vit.prefix:
            raise ValueError("vit: the tower of a PaliGemma has patches only, no pool, no tokens")


def _preset(language, image_size):
    tower = dataclasses.replace(
        vit.PRESETS["siglip-so400m-patch14-224"], image_size=image_size, attention_pool=False
    )
    # Gemma's words, 1024 places, 128 bits of masks, and 64 never used.
    language = dataclasses.replace(decoder_config.PRESETS[language], vocabulary=257_216)
    return PaliGemmaConfig(tower, language)


# By the names of the public checkpoints, without what they were trained for (pt, mix, …).
PRESETS = {
    f"{name}-{image_size}": _preset(language, image_size)
    for name, language in (
        ("paligemma-3b", "gemma-2b"),
        ("paligemma2-3b", "gemma-2-2b"),
        ("paligemma2-10b", "gemma-2-9b"),
        ("paligemma2-28b", "gemma-2-27b"),
    )
    for image_size in (224, 448, 896)
}


@flax.struct.dataclass
class Cache:
    """A decoder's cache of B·R prefixes with one segment each, or W continuations of it."""

    kept: decoder.Cache

    def take(self, index):
        """The segments `index` i32 [B, R·W]; a question's continuations stay with it."""
        questions, continuations = self.kept.filled.shape[:2]
        return Cache(self.kept.take(index.reshape(questions, -1) % continuations))


class PaliGemma(nn.Module):
    """The network. Prompts hold the begin token and the line end that asks for the answer."""

    config: PaliGemmaConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        self.vit = vit.ViT(c.vit, self.dtype)
        self.projector = layers.dense(c.decoder.width, self.dtype)()
        self.decoder = decoder.Decoder(c.decoder, self.dtype)

    def encode(self, image, prompt):
        """uint8 [B, H, W, 3], i32 [B, R, Tp] → prefixes [B·R, P + Tp, D], which are real."""
        image = self.projector(self.vit(image)[0])
        image = jnp.repeat(image, prompt.shape[1], axis=0)  # [B·R, P, D]
        prompt = prompt.reshape(-1, prompt.shape[-1])
        prefix = jnp.concatenate([image, self.decoder.embed(prompt)], axis=1)
        return prefix, jnp.pad(prompt > 0, [(0, 0), (image.shape[1], 0)], constant_values=True)

    def __call__(self, image, prompt, target, keep_hidden=False):
        """Teacher forcing.

        Args:
          image: uint8 [B, H, W, 3].
          prompt: i32 [B, R, Tp], 0 where there is none, on either side; target: i32 [B, R, T].

        Returns:
          hidden [B, R, T, D] that predicts each target token, and a dictionary: `prefix`
          [B·R, P + Tp, D], the hidden states of images and prompts, and what Decoder returns.
        """
        batch, regions, _ = target.shape
        prefix, mask = self.encode(image, prompt)
        answer = target.reshape(batch * regions, 1, -1)[:, :, :-1]  # the last predicts nothing
        asked, said, intermediates = self.decoder(
            prefix, self.decoder.embed(answer), mask, keep_hidden=keep_hidden
        )
        hidden = jnp.concatenate([decoder.last_real(asked, mask)[:, None], said[:, 0]], axis=1)
        return hidden.reshape(batch, regions, *hidden.shape[1:]), intermediates | {"prefix": asked}

    def logits(self, hidden):
        """[..., D] → f32 [..., V]."""
        return self.decoder.logits(hidden)

    def unembedding(self):
        """[V, D]"""
        return self.decoder.unembedding()

    def start(self, image, prompt, room):
        """For generation: logits f32 [B, R, V] of each answer's first token, and a Cache.

        Args:
          image, prompt: as in `__call__`; room: how many tokens an answer may have.
        """
        prefix, mask = self.encode(image, prompt)
        nothing = jnp.zeros((prefix.shape[0], 1, 0, prefix.shape[-1]), prefix.dtype)
        asked, _, cache = self.decoder.prefill(prefix, nothing, room, mask)
        logits = self.logits(decoder.last_real(asked, mask))
        return logits.reshape(*prompt.shape[:2], -1), Cache(cache)

    def advance(self, cache, tokens):
        """One more token an answer: i32 [B, R·W] → logits f32 [B, R·W, V] and the grown cache."""
        segments = cache.kept.filled.shape[:2]
        logits, kept = self.decoder.advance(cache.kept, tokens.reshape(segments))
        return logits.reshape(*tokens.shape, -1), Cache(kept)


SHARDING_RULES = (
    *prefixed(vit.SHARDING_RULES, "vit/"),
    *prefixed(decoder.SHARDING_RULES, "decoder/"),
    (r"projector/kernel", P("fsdp", None)),
    (r"projector/bias", P()),
)
