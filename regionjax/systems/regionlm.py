"""regionlm: ViT, masked region features and a decoder LM over `[P image tokens | R segments]`.

A segment is `[soft prompt, region token, k×k cell tokens, prompt, target]`, and the region token is
added to every token of its text: what has to be found by attention among P image tokens first is
learnt late. One pass encodes the image once and serves all R regions. Three losses: `caption` (text
answers), `grounding` (location tokens) and `pointing` (a heatmap of the prompt over the image).
"""

import dataclasses
import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from regionjax import decode, flops
from regionjax.config import ConfigError
from regionjax.config import build as build_config
from regionjax.losses import caption, pointing
from regionjax.models import layers
from regionjax.models.decoder import SHARDING_RULES as DECODER_RULES
from regionjax.models.decoder import Cache, Decoder, last_real
from regionjax.models.decoder_config import DecoderConfig
from regionjax.models.pointer import Pointer
from regionjax.models.region_features import RegionConfig, RegionEncoder
from regionjax.models.vit import SHARDING_RULES as VIT_RULES
from regionjax.models.vit import ViT, ViTConfig
from regionjax.sharding import prefixed
from regionjax.systems.system import System, one_text_a_slot, turns


@dataclasses.dataclass(frozen=True)
class RegionLMConfig:
    """`dtype` is that of the computation (float32 or bfloat16); parameters stay float32."""

    vit: ViTConfig
    region: RegionConfig
    decoder: DecoderConfig
    dtype: str = "float32"
    vocabulary_chunks: int = 1


@flax.struct.dataclass
class Spoken:
    """What generation carries: the decoder's Cache, and region [B, R, D], added to every token."""

    read: Cache
    region: jax.Array

    def take(self, index):
        """The segments `index` i32 [B, R'], which may repeat (beam search)."""
        region = jnp.take_along_axis(self.region, index[..., None], axis=1)
        return Spoken(self.read.take(index), region)


class RegionLM(nn.Module):
    """The network. Shapes of `batch`: regionjax.batch."""

    config: RegionLMConfig

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.vit = ViT(c.vit, dtype)
        self.embedding_norm = nn.LayerNorm(dtype=dtype)
        self.region = RegionEncoder(c.region, c.decoder.width, dtype)
        self.connector = layers.dense(c.decoder.width, dtype)()
        self.decoder = Decoder(c.decoder, dtype)
        self.pointer = Pointer(c.decoder.width, dtype)

    def see(self, image):
        """Features [B, P, 2·Dv] of the images.

        Two levels of the tower side by side: the last, and the first, which still knows the colours
        and textures of its own pixels.
        """
        last, between = self.vit(image)
        first = self.embedding_norm(between["embedding"])
        before = len(self.config.vit.prefix)
        return jnp.concatenate([last, first], axis=-1)[:, before:]

    def encode(self, batch, alpha):
        """Features, region slots [B, R, slots, D], region [B, R, D], z [B, R, 2·Dv]."""
        features = self.see(batch["image"])
        return features, *self.region(features, batch, alpha)

    def __call__(self, batch, alpha, text_length):
        """Teacher forcing.

        Returns:
          hidden [B, R, T, D] that predicts each target token, heat f32 [B, R, 2h, 2w] (logits).
        """
        features, slots, region, _ = self.encode(batch, alpha)
        prompt, target = batch["prompt"], batch["target"]
        asked = (prompt > 0).sum(-1)  # [B, R]
        text = join(prompt, target, asked, text_length - 1)  # the last token predicts nothing
        segments = self.segments(slots, text, region)
        _, hidden, _ = self.decoder(self.connector(features), segments)
        start = slots.shape[2] - 1 + asked[..., None]  # where the answer begins
        words = (jnp.arange(text_length - 1) < asked[..., None]).astype(hidden.dtype)
        query = jnp.einsum("brl,brld->brd", words, hidden[:, :, slots.shape[2] :])
        query /= jnp.maximum(asked[..., None], 1) ** 0.5
        at = start + jnp.arange(target.shape[-1])
        return select(hidden, at), self.pointer(query, features)

    def segments(self, slots, text, region):
        """[B, R, slots + T, D]; `region` [B, R, D] is in every token of the text i32 [B, R, T]."""
        text = self.decoder.embed(text) + region[:, :, None]
        return jnp.concatenate([slots, text], axis=2)

    def prefill(self, batch, room):
        """Image, regions, prompts → f32 [B, R, V], logits of the first answer token, and cache."""
        features, slots, region, _ = self.encode(batch, no_context(batch))
        asked = (batch["prompt"] > 0).sum(-1)
        segments = self.segments(slots, batch["prompt"], region)
        filled = slots.shape[2] + asked[..., None]  # [B, R, 1]
        mask = jnp.arange(segments.shape[2]) < filled
        _, hidden, cache = self.decoder.prefill(self.connector(features), segments, room, mask=mask)
        logits = self.decoder.logits(select(hidden, filled - 1)[:, :, 0])
        return logits, Spoken(cache, region)

    def converse(self, features, batch, room):
        """Like `prefill`, of features, with the R slots of an image as the turns of one segment.

        Returns:
          f32 [B, 1, V], and the cache. The answer knows the region of the last turn.
        """
        slots, region, _ = self.region(features, batch, no_context(batch))
        segments = self.segments(slots, batch["prompt"], region)
        filled = slots.shape[2] + (batch["prompt"] > 0).sum(-1, keepdims=True)  # [B, R, 1]
        taken = turns(batch)
        mask = (jnp.arange(segments.shape[2]) < filled) & taken[..., None]
        segments, mask = (x.reshape(x.shape[0], 1, -1, *x.shape[3:]) for x in (segments, mask))
        _, hidden, cache = self.decoder.prefill(self.connector(features), segments, room, mask=mask)
        logits = self.decoder.logits(last_real(hidden, mask))
        return logits, Spoken(cache, last_real(region, taken)[:, None])

    def advance(self, cache, tokens):
        """One more token a segment: logits f32 [B, R, V] and the grown cache."""
        logits, read = self.decoder.advance(cache.read, tokens, cache.region)
        return logits, cache.replace(read=read)

    def unembedding(self):
        """[V, D]"""
        return self.decoder.unembedding()


def join(prompt, target, asked, length):
    """Prompt and target as one text without a gap: i32 [B, R, length], padding at the end only.

    A gap would need its own mask; padding at the end is hidden by causality already.
    """
    at = jnp.arange(length)
    both = jnp.concatenate([prompt, target], axis=-1)
    index = jnp.where(at < asked[..., None], at, prompt.shape[-1] + at - asked[..., None])
    return jnp.take_along_axis(both, jnp.minimum(index, both.shape[-1] - 1), axis=-1)


def select(hidden, at):
    """Rows `at` i32 [B, R, T] of hidden [B, R, L, D]: [B, R, T, D], zero beyond L.

    A one-hot product: its transpose is a product too, where a gather's would be a scatter.
    """
    one_hot = jax.nn.one_hot(at, hidden.shape[2], dtype=hidden.dtype)
    return jnp.einsum("brtl,brld->brtd", one_hot, hidden)


def no_context(batch):
    """alpha of evaluation: 0 for every region, equation 3 of FineRegion-LM exactly."""
    return jnp.zeros(batch["region_box"].shape[:2], jnp.float32)


def _check_image(vit, image_size):
    """Regions are pooled from patches, so patches must fill the image."""
    if vit.interpolation == "none" and vit.image_size != image_size:
        raise ConfigError(
            f"config.model.vit.image_size = {vit.image_size}, "
            f"but config.batch.image_size = {image_size}, and "
            "config.model.vit.interpolation = 'none'"
        )
    if image_size % vit.patch_size:
        raise ConfigError(
            f"config.batch.image_size = {image_size} is not a multiple of "
            f"config.model.vit.patch_size = {vit.patch_size}"
        )


def build(section, spec):
    """System from `config.model`.

    Args:
      section: ConfigDict of RegionLMConfig.
      spec: BatchSpec.

    Raises:
      ConfigError: model and batch disagree.
    """
    c = build_config(RegionLMConfig, section, "config.model")
    _check_image(c.vit, spec.image_size)
    if c.decoder.logit_softcap:
        raise ConfigError(
            f"config.model.decoder.logit_softcap = {c.decoder.logit_softcap}: "
            "the caption loss has no cap; 0 leaves it out"
        )
    network = RegionLM(c)

    def init(rng, batch):
        alpha = no_context(batch)
        return network.init(rng, batch, alpha, spec.text_length)["params"], {}

    def room(batch):
        """Tokens of prompt and target together; an evaluation's may be padded less."""
        return min(spec.text_length, batch["prompt"].shape[-1] + batch["target"].shape[-1])

    def forward(params, batch, alpha):
        hidden, heat = network.apply({"params": params}, batch, alpha, room(batch))
        table = network.apply({"params": params}, method=RegionLM.unembedding)
        nll = caption.token_nll(hidden, table, batch["target"], c.vocabulary_chunks)
        return nll, heat

    def losses(params, state, batch, rng, train):
        alpha = no_context(batch)
        if train:
            alpha = jax.random.uniform(rng, alpha.shape, maxval=c.region.context)
        nll, heat = forward(params, batch, alpha)
        boxed = pointing.has_box(batch["target_box"])[..., None]
        weight = batch["target_weight"]
        terms = {
            "caption": caption.weighted(nll, weight * (1 - boxed)),
            "grounding": caption.weighted(nll, weight * boxed),
            "pointing": pointing.pointing(heat, batch["target_box"]),
        }
        return terms, state, {}

    def caption_nll(params, batch):
        if (shape := batch["target"].shape[:-1])[2:]:
            batch = one_text_a_slot(batch)
        nll, _ = forward(params, batch, no_context(batch))
        weight = batch["target_weight"]
        nll = (nll * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1)
        return nll.reshape(shape)

    def see(params, batch):
        return network.apply({"params": params}, batch["image"], method=RegionLM.see)

    def converse(params, features, batch, room):
        return network.apply({"params": params}, features, batch, room, method=RegionLM.converse)

    def advance(params, cache, tokens):
        return network.apply({"params": params}, cache, tokens, method=RegionLM.advance)

    def generate(params, batch, rng, *, eos_id, config):
        room, go_on = config.max_new_tokens, functools.partial(advance, params)
        logits, cache = network.apply({"params": params}, batch, room, method=RegionLM.prefill)
        return decode.generate(logits, cache, go_on, rng, eos_id=eos_id, config=config)

    def heatmap(params, batch):
        _, heat = network.apply({"params": params}, batch, no_context(batch), room(batch))
        return jax.nn.softmax(heat, axis=(-2, -1))

    def embed(params, batch):
        return network.apply({"params": params}, batch, no_context(batch), method=RegionLM.encode)[
            -1
        ].astype(jnp.float32)

    return System(
        init=init,
        losses=losses,
        loss_names=("caption", "grounding", "pointing"),
        predict={
            "caption_nll": caption_nll,
            "generate": generate,
            "heatmap": heatmap,
            "embed": embed,
            "see": see,
            "converse": converse,
            "advance": advance,
        },
        sharding_rules=SHARDING_RULES,
        vocabulary=c.decoder.vocabulary,
        flops=lambda: flops.regionlm(c, spec),
    )


# Axis 0 of everything under `layers` is the layer. Widths are split over fsdp, heads, hidden units
# and the vocabulary over tensor; vectors are small and replicated.
SHARDING_RULES = (
    *prefixed(VIT_RULES, "vit/"),
    *prefixed(DECODER_RULES, "decoder/"),
    (r"connector/kernel", P("fsdp", None)),
    (r"pointer/(query_in|query_out|key_in)/kernel", P("fsdp", None)),
    (r"pointer/key_out/kernel", P("fsdp", None, None, None)),
    (
        r"region/(\w+_in|(geometry|projection|focus)_out|focus_(layout|mean))/kernel",
        P(None, "fsdp"),
    ),
    (r"region/prompt_out/kernel", P("fsdp", None, None)),
    (r"embedding_norm/(bias|scale)", P()),
    (r"(region|connector|pointer)/.*bias|region/(cell_embedding|prompt_base)", P()),
)
