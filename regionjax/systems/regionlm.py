"""regionlm: ViT, masked region features and a decoder LM over `[P image tokens | R segments]`.

A segment is `[soft prompt, region token, k×k cell tokens, focus token, prompt, target]`. One pass
encodes the image once and serves all R regions. Three losses: `caption` (text answers), `grounding`
(location tokens) and `pointing` (a heatmap of the prompt's last token over the image tokens).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from regionjax import decode, flops
from regionjax.config import ConfigError
from regionjax.config import build as build_config
from regionjax.losses import caption, pointing
from regionjax.models import layers
from regionjax.models.decoder import SHARDING_RULES as DECODER_RULES
from regionjax.models.decoder import Decoder
from regionjax.models.decoder_config import DecoderConfig
from regionjax.models.region_features import RegionConfig, RegionEncoder
from regionjax.models.vit import SHARDING_RULES as VIT_RULES
from regionjax.models.vit import ViT, ViTConfig
from regionjax.sharding import prefixed
from regionjax.systems.system import System


@dataclasses.dataclass(frozen=True)
class RegionLMConfig:
    """`dtype` is that of the computation (float32 or bfloat16); parameters stay float32."""

    vit: ViTConfig
    region: RegionConfig
    decoder: DecoderConfig
    dtype: str = "float32"
    vocabulary_chunks: int = 1


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
        self.pointer_query = layers.dense(c.decoder.width, dtype, bias=False)()
        self.pointer_key = layers.dense(c.decoder.width, dtype, bias=False)()

    def encode(self, batch, alpha):
        """Image tokens [B, P, D], region slots [B, R, slots, D] and z [B, R, 2·Dv].

        Two levels of the tower side by side: the last, and the first, which still knows the colours
        and textures of its own pixels.
        """
        last, between = self.vit(batch["image"])
        first = self.embedding_norm(between["embedding"])
        before = len(self.config.vit.prefix)
        features = jnp.concatenate([last, first], axis=-1)[:, before:]  # [B, P, 2·Dv]
        slots, z = self.region(features, batch, alpha)
        return self.connector(features), slots, z

    def __call__(self, batch, alpha, text_length):
        """Teacher forcing.

        Returns:
          hidden [B, R, T, D] that predicts each target token, heat f32 [B, R, P] (logits).
        """
        image, slots, _ = self.encode(batch, alpha)
        prompt, target = batch["prompt"], batch["target"]
        asked = (prompt > 0).sum(-1)  # [B, R]
        text = join(prompt, target, asked, text_length - 1)  # the last token predicts nothing
        segments = jnp.concatenate([slots, self.decoder.embed(text)], axis=2)
        image_hidden, hidden, _ = self.decoder(image, segments)
        last = slots.shape[2] - 1 + asked  # where the answer begins
        at = last[..., None] + jnp.arange(target.shape[-1])
        return select(hidden, at), self.heat(select(hidden, last[..., None]), image_hidden)

    def heat(self, query, image_hidden):
        """Logits f32 [B, R, P] of where the text that ends in `query` [B, R, 1, D] points."""
        query, key = self.pointer_query(query[:, :, 0]), self.pointer_key(image_hidden)
        scale = self.config.decoder.width**-0.5
        return jnp.einsum("brd,bpd->brp", query, key, preferred_element_type=jnp.float32) * scale

    def prefill(self, batch, room):
        """Image, regions, prompts → f32 [B, R, V], logits of the first answer token, and cache."""
        image, slots, _ = self.encode(batch, no_context(batch))
        asked = (batch["prompt"] > 0).sum(-1)
        segments = jnp.concatenate([slots, self.decoder.embed(batch["prompt"])], axis=2)
        filled = slots.shape[2] + asked[..., None]  # [B, R, 1]
        mask = jnp.arange(segments.shape[2]) < filled
        _, hidden, cache = self.decoder.prefill(image, segments, room, mask=mask)
        return self.decoder.logits(select(hidden, filled - 1)[:, :, 0]), cache

    def advance(self, cache, tokens):
        """One more token a segment: logits f32 [B, R, V] and the grown cache."""
        return self.decoder.advance(cache, tokens)

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
    grid = spec.image_size // c.vit.patch_size

    def init(rng, batch):
        alpha = no_context(batch)
        return network.init(rng, batch, alpha, spec.text_length)["params"], {}

    def forward(params, batch, alpha):
        hidden, heat = network.apply({"params": params}, batch, alpha, spec.text_length)
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
            "pointing": pointing.pointing(heat, batch["target_box"], grid),
        }
        return terms, state, {}

    def caption_nll(params, batch):
        nll, _ = forward(params, batch, no_context(batch))
        weight = batch["target_weight"]
        return (nll * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1)

    def generate(params, batch, rng, *, eos_id, config):
        variables = {"params": params}
        logits, cache = network.apply(
            variables, batch, config.max_new_tokens, method=RegionLM.prefill
        )

        def advance(cache, tokens):
            return network.apply(variables, cache, tokens, method=RegionLM.advance)

        return decode.generate(logits, cache, advance, rng, eos_id=eos_id, config=config)

    def heatmap(params, batch):
        _, heat = network.apply({"params": params}, batch, no_context(batch), spec.text_length)
        return jax.nn.softmax(heat, axis=-1).reshape(*heat.shape[:2], grid, grid)

    def embed(params, batch):
        return network.apply({"params": params}, batch, no_context(batch), method=RegionLM.encode)[
            2
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
    (r"(connector|pointer_query|pointer_key)/kernel", P("fsdp", None)),
    (r"region/((geometry|projection|focus)_(in|out)|prompt_in)/kernel", P(None, "fsdp")),
    (r"region/prompt_out/kernel", P("fsdp", None, None)),
    (r"embedding_norm/(bias|scale)", P()),
    (r"(region|connector)/.*bias|region/(cell_embedding|prompt_base)", P()),
)
