"""ALBEF (Li et al. 2021), the model that it is pre-trained as: `model_pretrain` of its repository.

A ViT, the lower half of a BERT over text and the upper half over text and image; a projection of
either to compare them (contrastive), a head that says whether a text fits an image (matching) and
one that names masked words. Momentum copies and queues are no part of the network.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from regionjax.models import bert, layers, vit
from regionjax.sharding import prefixed

TEMPERATURE = (0.001, 0.5)  # the range that it is kept in


@dataclasses.dataclass(frozen=True)
class AlbefConfig:
    """The three towers, and the width of what is compared."""

    vit: vit.ViTConfig
    text: bert.BertConfig
    fusion: bert.BertConfig
    projection: int = 256

    def __post_init__(self):
        needs = (
            (self.vit.class_token, "vit.class_token must be on: it stands for the image"),
            (self.text.head, "text.head must be on: masked words are named"),
            (
                self.text.cross_every == 0 and self.fusion.cross_every == 1,
                f"cross_every must be 0 in text and 1 in fusion, now {self.text.cross_every} "
                f"and {self.fusion.cross_every}",
            ),
            (
                not (self.fusion.vocabulary or self.fusion.queries),
                "fusion has neither vocabulary nor queries: it goes on from text's hidden states",
            ),
            (
                self.text.width == self.fusion.width,
                f"text.width {self.text.width} and fusion.width {self.fusion.width} differ",
            ),
            (
                self.vit.width == self.fusion.encoder_width,
                f"fusion.encoder_width is {self.fusion.encoder_width}, "
                f"but vit.width {self.vit.width}",
            ),
        )
        for holds, message in needs:
            if not holds:
                raise ValueError(message)


PRESETS = {
    "albef-base": AlbefConfig(
        vit=vit.PRESETS["albef-base-patch16-256"],
        text=bert.PRESETS["albef-text"],
        fusion=bert.PRESETS["albef-fusion"],
    ),
}


def unit(x):
    """[..., E] in float32, of length 1."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


class Albef(nn.Module):
    """B images with R texts each. Dropout is on when `apply` is given an rng called "dropout"."""

    config: AlbefConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        c = self.config
        self.vit = vit.ViT(c.vit, self.dtype)
        self.text = bert.Bert(c.text, self.dtype)
        self.fusion = bert.Bert(c.fusion, self.dtype)
        self.vision_projection = layers.dense(c.projection, self.dtype)()
        self.text_projection = layers.dense(c.projection, self.dtype)()
        self.match_head = layers.dense(2, self.dtype)()
        self.temperature = self.param("temperature", nn.initializers.constant(0.07), ())

    def __call__(self, image, tokens, mask=None, perturbation=None):
        """Everything at once, each text with its own image; what is not used is not computed.

        Args:
          image: uint8 [B, H, W, 3]; tokens: i32 [B, R, T]; mask: bool [B, R, T].
          perturbation: of the probabilities, as in models/bert.py.

        Returns:
          matches f32 [B, R, 2] and a dictionary:
            image f32 [B, E], text f32 [B, R, E]: the projections, of length 1;
            hidden [B, R, T, D]: of the last layer; logits f32 [B, R, T, V]: of masked words;
            probabilities f32 [fusion layers, B, N, R, T, 1 + P]: of cross-attention.
        """
        features, image_projection = self.encode_image(image)
        text, text_projection = self.encode_text(tokens, mask)
        hidden, intermediates = self.fuse(text, mask, features, perturbation)
        return self.matches(hidden), {
            "image": image_projection,
            "text": text_projection,
            "hidden": hidden,
            "logits": self.logits(hidden),
            "probabilities": intermediates["probabilities"],
        }

    def encode_image(self, image):
        """Tokens [B, 1 + P, D], the class token first, and the projection f32 [B, E]."""
        features, _ = self.vit(image)
        return features, unit(self.vision_projection(features[:, 0]))

    def encode_text(self, tokens, mask=None):
        """Hidden states [B, R, T, D] and the projection of the first token, f32 [B, R, E]."""
        hidden, _ = self.text(tokens, mask)
        return hidden, unit(self.text_projection(hidden[:, :, 0]))

    def fuse(self, text, mask, features, perturbation=None):
        """Text that has seen the image, [B, R, T, D], and intermediates as in models/bert.py.

        Args:
          text: [B, R, T, D] and features: [B, 1 + P, D], of the methods above.
        """
        return self.fusion(text, mask, features, perturbation)

    def matches(self, hidden):
        """Logits f32 [B, R, 2]; the second is that text and image belong together."""
        return self.match_head(hidden[:, :, 0]).astype(jnp.float32)

    def logits(self, hidden):
        """Of masked words: [B, R, T, D] → f32 [B, R, T, V]."""
        return self.text.logits(hidden)

    def clamped_temperature(self):
        """f32: what similarities are divided by; the gradient flows outside its range as well."""
        t = self.temperature
        return jax.lax.stop_gradient(jnp.clip(t, *TEMPERATURE)) + (t - jax.lax.stop_gradient(t))


def sharding_rules(config):
    """Rows for all parameters of an AlbefConfig."""
    return (
        *prefixed(vit.SHARDING_RULES, "vit/"),
        *prefixed(bert.sharding_rules(config.text), "text/"),
        *prefixed(bert.sharding_rules(config.fusion), "fusion/"),
        (r"(vision|text)_projection/kernel|match_head/kernel", P("fsdp", None)),
        (r"(projection|match_head)/bias|temperature", P()),
    )
